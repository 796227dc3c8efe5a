"""Who pays for what: the stored bytes of a vault, split by commit, part, branch, codec or tensor.

A tensor is charged once, to the oldest live commit that needs it, whether a file of it holds the tensor or a chain
leads through it. Lines add up to what the census calls stored; what belongs to nobody is a line of its own.
Light, but for codecs and tensors: their names stand in frames and templates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from modelvault import wire
from modelvault.ids import CommitId
from modelvault.objects.commit import Commit
from modelvault.objects.recipe import PARTS, Recipe
from modelvault.objects.tensor import TensorRecord, index_key
from modelvault.repository import history, refs
from modelvault.repository.census import NOW, Census
from modelvault.repository.liveness import ALL_PARTS, Liveness, mark
from modelvault.store.base import ReadTransaction
from modelvault.tensors import chunk_sizes

By = Literal["commit", "part", "branch", "codec", "tensor"]

_VAULT = "(vault)"  # refs, reflog and tables that no commit owns
_RECORDS = "(records)"  # commits, payloads, recipes, templates
_REFERENCES = "(references)"  # tensors that only chains lead through


class Line(NamedTuple):
    """One line of a split report.

    Attributes:
        name: of what.
        raw_bytes: bytes of the files, or of the tensors, that this stands for.
        stored_bytes: bytes charged to it.
    """

    name: str
    raw_bytes: int
    stored_bytes: int


class _Charge(NamedTuple):
    commit_id: CommitId
    number: int  # of the tensor, 0 for records
    part: int | None  # None for what only a chain needs
    raw_bytes: int
    stored_bytes: int


def split(txn: ReadTransaction, by: By, census: Census) -> list[Line]:
    """Return the lines, the dearest first; commits in order of history.

    Raises:
        CorruptError: a record is missing or damaged.
    """
    live = mark(txn, NOW)
    commits = sorted(
        ((commit_id, history.read_commit(txn, commit_id)) for commit_id in live.commits),
        key=lambda pair: pair[1].time_ms,
    )
    sums: dict[str, list[int]] = {}
    naming = _naming(txn, by, live, commits)
    for charge in _charges(txn, live, commits):
        for name, raw, stored in naming(charge):
            total = sums.setdefault(name, [0, 0])
            total[0] += raw
            total[1] += stored
    lines = [Line(name, raw, stored) for name, (raw, stored) in sums.items()]
    if by != "commit":
        lines.sort(key=lambda line: (-line.stored_bytes, line.name))
    rest = census.stored_bytes - sum(line.stored_bytes for line in lines)
    return [*lines, Line(_VAULT, 0, rest)]


def _charges(txn: ReadTransaction, live: Liveness, commits: list[tuple[CommitId, Commit]]) -> Iterator[_Charge]:
    """Yield what each commit pays, oldest first."""
    paid: set[int] = set()
    templates: set[int] = set()
    files: set[bytes] = set()
    for commit_id, commit in commits:
        parts = live.commits[commit_id]
        records = 2 * len(commit_id) + _length(txn, "commits", commit_id) + _length(txn, "payloads", commit_id)
        yield _Charge(commit_id, 0, None, commit.raw_bytes if parts == ALL_PARTS else 0, records)
        for entry in history.kept_files(txn, commit_id, commit) if parts else ():
            value = txn.get("recipes", entry.file_id)
            if entry.file_id in files or value is None:
                continue
            files.add(entry.file_id)
            recipe = Recipe.from_bytes(value, entry.file_id)
            own = len(entry.file_id) + len(value)
            if recipe.template not in templates:
                templates.add(recipe.template)
                key = wire.sortable(recipe.template)
                own += len(key) + _length(txn, "templates", key)
            yield _Charge(commit_id, 0, None, 0, own)
            for number, part in zip(recipe.tensors, recipe.parts, strict=True):
                if not number or not live.files[entry.file_id] >> part & 1:
                    continue
                wanted: int | None = part
                needed = [number]
                while needed:
                    number = needed.pop()
                    if number in paid:
                        continue
                    paid.add(number)
                    data = txn.get("tensors", wire.sortable(number)) or b""
                    record = TensorRecord.from_bytes(data)
                    stored = record.stored_bytes + len(wire.sortable(number)) + len(data)
                    stored += len(index_key(record.tensor_id, number))
                    yield _Charge(commit_id, number, wanted, record.nbytes, stored)
                    needed, wanted = [*needed, *record.references], None


def _length(txn: ReadTransaction, table: Literal["commits", "payloads", "templates"], key: bytes) -> int:
    value = txn.view(table, key)
    return len(value) if value is not None else 0


def _naming(
    txn: ReadTransaction, by: By, live: Liveness, commits: list[tuple[CommitId, Commit]]
) -> Callable[[_Charge], list[tuple[str, int, int]]]:
    """Return what gives a charge its line, or, by codec, its lines."""
    if by in ("commit", "branch"):
        if by == "commit":
            names = {commit_id: f"{history.shorten(txn, commit_id)}  {commit.subject}" for commit_id, commit in commits}
        else:
            names = _branches(txn)
        return lambda charge: [
            (names.get(charge.commit_id, "(no branch)"), 0 if charge.number else charge.raw_bytes, charge.stored_bytes)
        ]
    tensors = _tensor_names(txn, live) if by == "tensor" else {}

    def name(charge: _Charge) -> list[tuple[str, int, int]]:
        if not charge.number:
            return [(_RECORDS, 0, charge.stored_bytes)]
        if by == "codec":
            return _by_codec(txn, charge)
        if charge.part is None:
            return [(_REFERENCES, charge.raw_bytes, charge.stored_bytes)]
        line = PARTS[charge.part] if by == "part" else tensors.get(charge.number, _REFERENCES)
        return [(line, charge.raw_bytes, charge.stored_bytes)]

    return name


def _branches(txn: ReadTransaction) -> dict[CommitId, str]:
    """Return the branch of each commit: the current one if it leads there, else the first by name that does."""
    current = refs.read_head(txn).branch
    tips = refs.list_refs(txn, refs.BRANCHES)
    found: dict[CommitId, str] = {}
    for branch in sorted(tips, key=lambda name: (name != current, name)):
        for commit_id, _ in history.walk(txn, [tips[branch]], found):
            found[commit_id] = branch
    return found


def _by_codec(txn: ReadTransaction, charge: _Charge) -> list[tuple[str, int, int]]:
    from modelvault import codec

    data = txn.get("tensors", wire.sortable(charge.number)) or b""
    record = TensorRecord.from_bytes(data)
    lines = [(_RECORDS, 0, charge.stored_bytes - record.stored_bytes)]
    for size, (pack, offset, length) in zip(chunk_sizes(record.nbytes), record.frames(), strict=True):
        value = txn.view("packs", wire.sortable(pack))
        frame = bytes(value[offset : offset + 1]) if value is not None else b""
        del value
        lines.append((codec.codec_name(frame), size, length))
    return lines


def _tensor_names(txn: ReadTransaction, live: Liveness) -> dict[int, str]:
    """Return the name of each tensor of the live files: that of its segment, or of the group that it is."""
    from modelvault.repository.candidates import slot_keys
    from modelvault.repository.shapes import load_template

    names: dict[int, str] = {}
    for file_id in live.files:
        value = txn.get("recipes", file_id)
        if value is None:
            continue
        recipe = Recipe.from_bytes(value, file_id)
        for number, (name, dtype, _) in zip(recipe.tensors, slot_keys(load_template(txn, recipe)), strict=True):
            group = f"(small {dtype.name} tensors)" if name.startswith("\0") else name
            names.setdefault(number, group)
    return names
