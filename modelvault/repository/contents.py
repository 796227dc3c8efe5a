"""What one file of a commit is made of: its format, how much of it is tensors, and how those are kept."""

from __future__ import annotations

from typing import NamedTuple

from modelvault.objects.commit import FileEntry
from modelvault.repository.checkout import read_recipe
from modelvault.repository.chunks import read_tensor
from modelvault.repository.shapes import load_template
from modelvault.store.base import ReadTransaction
from modelvault.tensors import DType


class FileContents(NamedTuple):
    """One file of a snapshot.

    Attributes:
        entry: its path, size and id.
        format: what understood it.
        understood: bytes of it that lie in tensors of known dtype.
        segments: byte ranges that hold tensors.
        tensors: stored tensors that fill them; small ones share one.
        stored_bytes: bytes of their frames (shared ones count here as well as elsewhere).
        depth: the deepest chain among them.
    """

    entry: FileEntry
    format: str
    understood: int
    segments: int
    tensors: int
    stored_bytes: int
    depth: int

    @property
    def understood_share(self) -> float:
        """Understood bytes by all bytes, 0 for an empty file."""
        return self.understood / self.entry.size if self.entry.size else 0.0


def read_contents(txn: ReadTransaction, entry: FileEntry) -> FileContents:
    """Return what a file is made of.

    Raises:
        CorruptError: a record it needs is missing or damaged.
    """
    recipe = read_recipe(txn, entry.file_id)
    template = load_template(txn, recipe)
    records = [read_tensor(txn, number) for number in dict.fromkeys(recipe.tensors) if number]
    return FileContents(
        entry,
        template.format,
        sum(segment.length for segment in template.segments if segment.dtype is not DType.BYTES),
        len(template.segments),
        len(records),
        sum(record.stored_bytes for record in records),
        max((record.depth for record in records), default=0),
    )
