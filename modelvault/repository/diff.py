"""What changed between the files of two commits, tensor by tensor.

Tensors are paired by name. What is stored once for both sides is the same and is never decoded; of the rest, both
sides are decoded chunk by chunk, side by side, and only sums are kept: memory does not grow with the file. Where a
tensor changed its dtype or shape and still has as many elements, the elements are compared in storage order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

from modelvault.codec import Sums, compare
from modelvault.objects.commit import FileEntry
from modelvault.repository.inventory import FileTensor, IdCheck, Inventory, TensorReader, read_inventory
from modelvault.repository.repository import Repository
from modelvault.repository.threads import in_order
from modelvault.tensors import CHUNK_BYTES

Progress = Callable[[str, int, int], None]
FileState = Literal["added", "removed", "changed", "same"]
Distance: TypeAlias = Sums
"""What `FileDiff` and `TensorDiff` say of two runs of elements."""

State = Literal["added", "removed", "reshaped", "retyped", "changed", "same", "forgotten"]


class TensorDiff(NamedTuple):
    """One tensor on both sides.

    Attributes:
        state: what became of it; a tensor that was both is `retyped` rather than `reshaped`, and one that was given up
            on either side is `forgotten`: nobody can tell.
        before: the first side's, None if it was added.
        after: the second side's, None if it was removed.
        sums: how far they are apart, None where there is nothing to compare or nobody asked.
    """

    state: State
    before: FileTensor | None
    after: FileTensor | None
    sums: Sums | None

    @property
    def name(self) -> str:
        """Its name."""
        tensor = self.after or self.before
        assert tensor is not None
        return tensor.name


class FileDiff(NamedTuple):
    """One file on both sides.

    Attributes:
        state: what became of it.
        before: the first side's entry, None if the file was added.
        after: the second side's entry, None if the file was removed.
        tensors: its tensors in the second side's order, removed ones last; those that are the same are left out.
        same: how many tensors are the same.
        other_bytes: whether bytes outside tensors differ: metadata, names, numbers kept in the pickle.
        total: over every tensor that both sides have with as many elements; None if nobody asked. What is the same
            counts as elements only: norms and angle are those of what changed.
    """

    state: FileState
    before: FileEntry | None
    after: FileEntry | None
    tensors: tuple[TensorDiff, ...]
    same: int
    other_bytes: bool
    total: Sums | None


def diff_files(
    repository: Repository,
    before: Sequence[FileEntry],
    after: Sequence[FileEntry],
    *,
    measure: bool = True,
    reader: TensorReader | None = None,
    progress: Progress | None = None,
) -> Iterator[FileDiff]:
    """Yield what became of each file.

    Args:
        repository: the vault.
        before: entries of the first commit.
        after: entries of the second.
        measure: whether to decode what differs and say how far it is apart. Without, a tensor that shares its storage
            with others is told by decoding that one small group only.
        reader: reads tensors; one that is shared by several comparisons remembers what they have in common.
        progress: told how many bytes were compared.

    Raises:
        CorruptError: something that must be read is damaged.
    """
    pairs = list(_pairs(before, after))
    total = sum(new.size for old, new in pairs if old and new and old.file_id != new.file_id)
    reader = reader or TensorReader(repository.store)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress("comparing", done, total)

    for old, new in pairs:
        with repository.store.read() as txn:
            first = read_inventory(txn, old) if old else None
            second = first if old and new and old.file_id == new.file_id else read_inventory(txn, new) if new else None
        if first is None or second is None:
            yield _one_sided(old, new, first or second)
        else:
            yield _both(reader, first, second._replace(entry=new or first.entry), measure, advance)


def _pairs(
    before: Sequence[FileEntry], after: Sequence[FileEntry]
) -> Iterator[tuple[FileEntry | None, FileEntry | None]]:
    """Pair files by path; if one is left on either side, they are the same file under another name."""
    old, new = {entry.path: entry for entry in before}, {entry.path: entry for entry in after}
    gone = [entry for path, entry in old.items() if path not in new]
    come = [entry for path, entry in new.items() if path not in old]
    if len(gone) == len(come) == 1:
        yield gone.pop(), come.pop()
    for path, entry in new.items():
        if path in old:
            yield old[path], entry
    for entry in come:
        yield None, entry
    for entry in gone:
        yield entry, None


def _one_sided(before: FileEntry | None, after: FileEntry | None, found: Inventory | None) -> FileDiff:
    tensors = found.tensors if found else ()
    changes = [
        TensorDiff("removed", tensor, None, None) if before else TensorDiff("added", None, tensor, None)
        for tensor in tensors
    ]
    return FileDiff("removed" if before else "added", before, after, tuple(changes), 0, True, None)


def _both(
    reader: TensorReader, first: Inventory, second: Inventory, measure: bool, advance: Callable[[int], None]
) -> FileDiff:
    old = {tensor.name: tensor for tensor in first.tensors}
    new = {tensor.name for tensor in second.tensors}
    pairs = [(old[tensor.name], tensor) for tensor in second.tensors if tensor.name in old]
    comparable = [pair for pair in pairs if _is_comparable(*pair)]
    todo = [pair for pair in comparable if not _is_same(reader, *pair)]
    sums = dict(zip((pair[1].name for pair in todo), _measure(reader, todo, measure, advance), strict=True))
    changes: list[TensorDiff] = []
    same = 0
    for tensor in second.tensors:
        before = old.get(tensor.name)
        if before is None:
            changes.append(TensorDiff("added", None, tensor, None))
            continue
        found = sums.get(tensor.name)
        state = _state(before, tensor, found)
        if state == "same":
            same += 1
        else:
            changes.append(TensorDiff(state, before, tensor, found if measure else None))
    changes += [TensorDiff("removed", tensor, None, None) for name, tensor in old.items() if name not in new]
    differs = first.entry.file_id != second.entry.file_id
    total: Sums | None = None
    if measure:
        total = Sums()
        for _, after in comparable:
            total = total.plus(sums.get(after.name) or Sums(after.elements))
    return FileDiff(
        "changed" if differs else "same",
        first.entry,
        second.entry,
        tuple(changes),
        same,
        # Something must explain a difference, if only the name that a torch archive repeats inside.
        first.skeleton != second.skeleton or (differs and not changes),
        total,
    )


def _is_comparable(before: FileTensor, after: FileTensor) -> bool:
    return (
        not before.is_forgotten
        and not after.is_forgotten
        and before.elements == after.elements
        and before.elements * before.dtype.size == before.nbytes
        and after.elements * after.dtype.size == after.nbytes
    )


def _is_same(reader: TensorReader, before: FileTensor, after: FileTensor) -> bool:
    """Return whether both are the same stored bytes, as far as that can be told without decoding."""
    if before.nbytes != after.nbytes or before.dtype is not after.dtype:
        return False
    if (before.number, before.offset) == (after.number, after.offset):
        return True
    return before.alone and after.alone and reader.tensor_id(before) == reader.tensor_id(after)


def _state(before: FileTensor, after: FileTensor, sums: Sums | None) -> State:
    if before.is_forgotten or after.is_forgotten:
        return "forgotten"
    if before.dtype is not after.dtype:
        return "retyped"
    if before.shape != after.shape or before.nbytes != after.nbytes:
        return "reshaped"
    return "changed" if sums is not None and sums.changed else "same"


class _Job(NamedTuple):
    """A run of elements of one pair."""

    before: FileTensor
    after: FileTensor
    start: int
    length: int


def _jobs(pairs: Sequence[tuple[FileTensor, FileTensor]]) -> Iterator[_Job]:
    for before, after in pairs:
        step = CHUNK_BYTES // max(before.dtype.size, after.dtype.size)
        for start in range(0, max(before.elements, 1), step):
            yield _Job(before, after, start, min(step, before.elements - start))


def _measure(
    reader: TensorReader,
    pairs: Sequence[tuple[FileTensor, FileTensor]],
    measure: bool,
    advance: Callable[[int], None],
) -> Iterator[Sums]:
    """Yield the sums of each pair; all pairs are one stream of jobs, so that small tensors keep every thread busy."""

    def run(job: _Job) -> tuple[_Job, bytes, bytes, Sums]:
        before, after, start, length = job
        old = reader.read(before, start * before.dtype.size, length * before.dtype.size)
        new = reader.read(after, start * after.dtype.size, length * after.dtype.size)
        return job, old, new, compare(old, before.dtype, new, after.dtype)

    if not measure:  # a tensor of its own with another id differs; one in a group must be looked at
        grouped = [pair for pair in pairs if not (pair[0].alone and pair[1].alone)]
        found = dict(zip((after.name for _, after in grouped), _measure(reader, grouped, True, advance), strict=True))
        for _, after in pairs:
            yield found.get(after.name) or Sums(after.elements, after.elements)
        return
    total = Sums()
    checks: list[IdCheck | None] = []
    for job, old, new, sums in in_order(run, _jobs(pairs)):
        if job.start == 0:
            total = Sums()
            checks = [IdCheck(reader, tensor) if tensor.alone else None for tensor in (job.before, job.after)]
        total = total.plus(sums)
        for check, raw in zip(checks, (old, new), strict=True):
            if check is not None:
                check.update(raw)
        advance(len(new))
        if job.start + job.length == job.before.elements:
            for check in checks:
                if check is not None:
                    check.finish()
            yield total
