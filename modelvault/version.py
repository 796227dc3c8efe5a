"""The version of this library; the format has its own number (`modelvault.store.base.FORMAT_VERSION`)."""

__version__ = "0.1.0"
