"""What a gc would probably give back, known without looking through the vault: enough for a hint after a commit.

`forget` notes in table `stats` when it let go of how many commits and about how many bytes these had added; a gc takes
the notes of what it freed away. What is shared with commits that are kept is counted too, so a note is a most, not a
promise: `gc -n` counts properly. Light: no numpy, no codec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from modelvault import wire
from modelvault.store.base import ReadTransaction, Store, WriteTransaction

_FORGOTTEN = b"forgotten "

_MUCH_SHARE = 2
_MUCH_BYTES = 1 << 20
"""Worth a hint: half of what the vault takes, if that is a mebibyte. LMDB keeps some free pages at any time; in the
vaults of ten ShuffleNet snapshots (24 MB) and of the tests they stay under a tenth."""


class Note(NamedTuple):
    """What was forgotten at one moment: how many commits, and at most how many bytes that frees."""

    commits: int
    nbytes: int


class Surplus(NamedTuple):
    """What could go.

    Attributes:
        forgotten_bytes: at most so much is held by what was forgotten and not collected yet.
        free_bytes: pages of the file that hold nothing and are no holes: where a file system takes none, or readers
            kept them, a compaction gives them back.
        file_bytes: what the file takes on disk.
    """

    forgotten_bytes: int
    free_bytes: int
    file_bytes: int

    @property
    def is_mostly_forgotten(self) -> bool:
        """Whether a gc is worth a hint."""
        return self.forgotten_bytes >= max(_MUCH_BYTES, (self.file_bytes - self.free_bytes) // _MUCH_SHARE)

    @property
    def is_mostly_free(self) -> bool:
        """Whether giving back what is free is worth a hint."""
        return self.free_bytes >= max(_MUCH_BYTES, self.file_bytes // _MUCH_SHARE)


def estimate(store: Store) -> Surplus:
    """Return what could go: a handful of look-ups, however large the vault is."""
    with store.read() as txn:
        forgotten = sum(note.nbytes for _, note in _notes(txn))
    usage = store.usage()
    used = (usage.fixed_pages + usage.tree_pages + usage.overflow_pages) * usage.page_bytes
    return Surplus(forgotten, max(0, usage.file_bytes - used), usage.file_bytes)


def note_forgotten(txn: WriteTransaction, moment: int, note: Note) -> None:
    """Note that something was forgotten at that moment (milliseconds since the epoch)."""
    if note.commits:
        before = _read(txn.get("stats", _key(moment)))
        _write(txn, moment, Note(before.commits + note.commits, before.nbytes + note.nbytes))


def note_kept_again(txn: WriteTransaction, commits: Mapping[int, int]) -> None:
    """Note that of what was forgotten at each of these moments so many commits are kept again."""
    for moment, count in commits.items():
        before = _read(txn.get("stats", _key(moment)))
        left = max(0, before.commits - count)
        _write(txn, moment, Note(left, before.nbytes * left // max(1, before.commits)))


def outdated(txn: ReadTransaction, cutoff: int) -> Iterator[tuple[bytes, int]]:
    """Yield key and length of the notes of what a gc with this cutoff frees."""
    for key, length in txn.sizes("stats"):
        if key.startswith(_FORGOTTEN) and key < _key(cutoff):
            yield key, length


def _notes(txn: ReadTransaction) -> Iterator[tuple[bytes, Note]]:
    for key, value in txn.scan("stats", prefix=_FORGOTTEN):
        yield key, _read(value)


def _key(moment: int) -> bytes:
    return _FORGOTTEN + wire.sortable(max(0, moment))


def _read(value: bytes | None) -> Note:
    try:
        record = wire.Reader(value or b"")
        return Note(record.uint(), record.uint())
    except wire.WireError:
        return Note(0, 0)


def _write(txn: WriteTransaction, moment: int, note: Note) -> None:
    if not note.commits:
        txn.delete("stats", _key(moment))
        return
    out = wire.Writer()
    out.uint(note.commits)
    out.uint(note.nbytes)
    txn.put("stats", _key(moment), out.getvalue())
