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
    from modelvault.checkpoint import safetensors_file, torch_zip

    head = source.read(0, 9)
    if head.startswith(torch_zip.SIGNATURE):
        return torch_zip.torch_zip_layout(source)
    if safetensors_file.looks_like_safetensors(source, head):
        return safetensors_file.safetensors_layout(source)
    return opaque(source.size)
