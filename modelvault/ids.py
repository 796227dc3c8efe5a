"""Names made of content: 32-byte digests, their hexadecimal form and prefixes.

A commit id and a tensor id are BLAKE3 digests, each in its own key-derivation context, so that the same bytes in two
roles never share a name. A file is named by plain SHA-256, because users compare it with `sha256sum`.
This is the one door to blake3. Nothing here knows what the bytes mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NewType, Protocol

from blake3 import blake3

if TYPE_CHECKING:
    from typing_extensions import Buffer

CommitId = NewType("CommitId", bytes)
TensorId = NewType("TensorId", bytes)
FileId = NewType("FileId", bytes)

ID_BYTES = 32
"""Length of every id in bytes."""

_COMMIT_CONTEXT = "modelvault 2026-11 commit id v1"
_TENSOR_CONTEXT = "modelvault 2026-11 tensor id v1"


class Hasher(Protocol):
    """Takes bytes piece by piece and gives a 32-byte digest."""

    def update(self, data: Buffer, /) -> object:
        """Feed more bytes."""

    def digest(self) -> bytes:
        """Return the digest of what was fed so far."""


def commit_id(canonical: Buffer) -> CommitId:
    """Return the id of a commit's canonical bytes."""
    return CommitId(blake3(canonical, derive_key_context=_COMMIT_CONTEXT).digest())


def tensor_id(raw: Buffer) -> TensorId:
    """Return the id of a tensor's raw bytes."""
    return TensorId(blake3(raw, derive_key_context=_TENSOR_CONTEXT).digest())


def tensor_hasher() -> Hasher:
    """Return a hasher whose digest is the `tensor_id` of all it is fed."""
    return blake3(derive_key_context=_TENSOR_CONTEXT)


def file_hasher() -> Hasher:
    """Return a hasher whose digest is the file id (SHA-256) of all it is fed."""
    import hashlib  # OpenSSL takes 3 ms to load, and only what reads files needs it

    return hashlib.sha256()
