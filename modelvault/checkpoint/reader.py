"""Any file to its layout: chooses the format by the first bytes and contains what a parser might do wrong.

One module per format finds segments; this one guarantees that whatever the bytes are, a layout comes back
that keeps the promises of `Layout`. The parsers are imported when a file of theirs turns up: light commands
never see one.
"""

from __future__ import annotations

from modelvault.checkpoint.layout import Layout, Source, checked, opaque
from modelvault.errors import ModelVaultError

PARSER_FAILED = "parser failed: "
"""How the note begins that a parser stopped on an exception it does not know. Tests count these."""

_HEAD = 32  # bytes by which a format is chosen


def read_layout(source: Source) -> Layout:
    """Return where the tensors of a file are; an opaque layout where nothing is known or all is in doubt.

    Never fails for what the bytes are. What the source itself raises (OSError, FileChangedError) passes on.
    """
    try:
        return checked(_claimed(source))
    except (OSError, ModelVaultError):
        raise
    except Exception as error:  # noqa: BLE001 - a fault in a parser costs ratio, never a commit
        return opaque(source.size, f"{PARSER_FAILED}{type(error).__name__}: {error}"[:200])


def _claimed(source: Source) -> Layout:
    """Return the layout that the file claims to have."""
    from modelvault.checkpoint import (
        gguf_file,
        hdf5_file,
        npy_file,
        onnx_file,
        safetensors_file,
        torch_legacy,
        zip_archive,
    )

    head = source.read(0, _HEAD)
    if head.startswith(zip_archive.SIGNATURE):
        return zip_archive.zip_layout(source)
    if head.startswith(npy_file.SIGNATURE):
        return npy_file.npy_layout(source)
    if head.startswith(gguf_file.SIGNATURE):
        return gguf_file.gguf_layout(source)
    if head.startswith(hdf5_file.SIGNATURE):
        return hdf5_file.hdf5_layout(source)
    if torch_legacy.looks_like_torch_legacy(head):
        return torch_legacy.torch_legacy_layout(source)
    if safetensors_file.looks_like_safetensors(source, head):
        return safetensors_file.safetensors_layout(source)
    if head.startswith(onnx_file.SIGNATURE):
        return onnx_file.onnx_layout(source)
    return opaque(source.size)
