"""The one error of this package: bytes that cannot be decoded."""

from modelvault.errors import CorruptError


class CodecError(CorruptError):
    """A frame, its parameters or its reference are not what the encoder wrote."""
