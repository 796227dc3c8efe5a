"""A commit: the files of one moment, its parents, and what was said and measured about it.

The canonical bytes are unique for a value (sorted, shortest numbers, one spelling of NaN), because the commit id is
their digest: two writers that mean the same commit name it the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from modelvault import ids, wire
from modelvault.errors import NewerFormatError
from modelvault.ids import CommitId, FileId

VERSION = 1
"""First byte of the canonical form."""

MAX_FILES = 1_000_000
_MAX_TEXT = 1 << 20
_MAX_PATH = 4096


class FileEntry(NamedTuple):
    """One file of a snapshot.

    Attributes:
        path: where it was, relative to the vault's root, with forward slashes.
        size: length in bytes.
        executable: whether the owner may execute it; no other mode bit is kept.
        file_id: SHA-256 of its bytes.
    """

    path: str
    size: int
    executable: bool
    file_id: FileId


class Commit(NamedTuple):
    """One commit; its id covers exactly these fields.

    Attributes:
        parents: ids of the commits it follows, first the branch it was made on.
        time_ms: milliseconds since the epoch, UTC.
        offset_min: the author's offset from UTC in minutes.
        author: name and address as configured.
        message: what the user said.
        files: the snapshot, sorted by path, no path twice.
        step: the training step, if it was given.
        metrics: measured values by name.
        meta: free text by name.
    """

    parents: tuple[CommitId, ...]
    time_ms: int
    offset_min: int
    author: str
    message: str
    files: tuple[FileEntry, ...]
    step: int | None = None
    metrics: Mapping[str, float] = {}
    meta: Mapping[str, str] = {}

    @property
    def subject(self) -> str:
        """First line of the message."""
        return self.message.split("\n", 1)[0]

    @property
    def raw_bytes(self) -> int:
        """Sum of the sizes of its files."""
        return sum(entry.size for entry in self.files)

    def to_bytes(self) -> bytes:
        """Return the canonical bytes."""
        out = wire.Writer()
        out.fixed(bytes((VERSION,)))
        out.uint(len(self.parents))
        for parent in self.parents:
            out.fixed(parent)
        out.sint(self.time_ms)
        out.sint(self.offset_min)
        out.text(self.author)
        out.text(self.message)
        out.uint(len(self.files))
        for entry in sorted(self.files, key=lambda entry: _in_bytes(entry.path)):
            out.text(entry.path)
            out.uint(entry.size << 1 | entry.executable)
            out.fixed(entry.file_id)
        out.uint(0 if self.step is None else 1)
        if self.step is not None:
            out.sint(self.step)
        out.uint(len(self.metrics))
        for name in sorted(self.metrics, key=_in_bytes):
            out.text(name)
            value = self.metrics[name]
            out.float64(math.nan if math.isnan(value) else value)
        out.uint(len(self.meta))
        for name in sorted(self.meta, key=_in_bytes):
            out.text(name)
            out.text(self.meta[name])
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Commit:
        """Read canonical bytes.

        Raises:
            WireError: not canonical bytes of a commit.
            NewerFormatError: a later version of them.
        """
        if data[:1] != bytes((VERSION,)):
            if data and data[0] > VERSION:
                raise NewerFormatError(
                    f"commit of version {data[0]}, this program reads up to {VERSION}",
                    hint="use the version of modelvault that wrote this vault, or a later one",
                )
            raise wire.WireError("not a commit record")
        record = wire.Reader(data)
        record.fixed(1)
        parents = tuple(CommitId(record.fixed(ids.ID_BYTES)) for _ in range(record.count(ids.ID_BYTES)))
        time_ms, offset_min = record.sint(), record.sint()
        author, message = record.text(_MAX_TEXT), record.text(_MAX_TEXT)
        files = []
        for _ in range(record.count(ids.ID_BYTES + 2)):
            path, size = record.text(_MAX_PATH), record.uint()
            files.append(FileEntry(path, size >> 1, bool(size & 1), FileId(record.fixed(ids.ID_BYTES))))
        step = record.sint() if record.uint(1) else None
        metrics = {record.text(_MAX_TEXT): record.float64() for _ in range(record.count(9))}
        meta = {record.text(_MAX_TEXT): record.text(_MAX_TEXT) for _ in range(record.count(2))}
        record.end()
        return cls(parents, time_ms, offset_min, author, message, tuple(files), step, metrics, meta)


def _in_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
