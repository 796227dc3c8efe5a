"""What a vault must keep: the commits that refs and the reflog lead to, and all that their payloads need.

One pass over commits, recipes and tensor records. What is remembered of a tensor is a byte and a few numbers in flat
arrays, so that a vault of a hundred thousand commits is marked in a few hundred megabytes, in time that grows with it.
Light: records are read, no chunk is decoded.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import NamedTuple

from modelvault import wire
from modelvault.errors import CorruptError
from modelvault.ids import CommitId, FileId
from modelvault.objects.payload import Payload
from modelvault.objects.recipe import PARTS, Recipe
from modelvault.objects.ref import ReflogEntry
from modelvault.objects.tensor import TensorRecord
from modelvault.repository import history, refs
from modelvault.store.base import LiveSession, ReadTransaction

DEAD, REFERENCE, WANTED = 0, 1, 2
"""Why a tensor is kept: not at all; only because others are deltas against it; because a file needs it."""

_ABSENT = 2**64 - 1

MAX_CHAIN = 256
"""Longest chain that is believed: far above what any writer makes."""

ALL_PARTS = (1 << len(PARTS)) - 1

_WAY_OUT = "modelvault fsck names the commits it hurts; once they are forgotten, gc --grace 0s goes on"


class Cutoff(NamedTuple):
    """Which of what could go is too young to (milliseconds since the epoch).

    Attributes:
        reflog: reflog entries from this moment on hold on to their commits.
        forgotten: parts forgotten from this moment on are kept.
    """

    reflog: int
    forgotten: int


class Liveness(NamedTuple):
    """What is live.

    Attributes:
        commits: every live commit, and which of its parts are kept, one bit each.
        files: every file that a kept part needs, and which parts of it.
        templates: numbers of the templates that those files lean on.
        tensors: by tensor number: `DEAD`, `REFERENCE` or `WANTED`.
        bases: by tensor number: its reference, or 0; what stands for a number without a record means nothing.
        others: of each tensor with several references, those behind the first.
        depths: by tensor number: the depth that its record states.
        held: by pack number: how many of its bytes are frames of tensors, live or not.
        damaged: numbers of the tensors whose records cannot be read; nothing live needs any of them.
    """

    commits: dict[CommitId, int]
    files: dict[FileId, int]
    templates: set[int]
    tensors: bytearray
    bases: array[int]
    depths: array[int]
    held: array[int]
    damaged: frozenset[int] = frozenset()
    others: dict[int, tuple[int, ...]] = {}  # noqa: RUF012 - of a named tuple, never changed

    def references(self, number: int) -> tuple[int, ...]:
        """Return what a tensor leans on directly."""
        base = self.bases[number]
        return (base, *self.others.get(number, ())) if base else ()

    def dead(self) -> Iterator[int]:
        """Yield the numbers of the tensors that have a record which nothing live needs."""
        number = self.tensors.find(DEAD)
        while number >= 0:
            if self.bases[number] != _ABSENT:
                yield number
            number = self.tensors.find(DEAD, number + 1)

    def wants(self, number: int) -> bool:
        """Whether anything live needs this tensor."""
        return number < len(self.tensors) and self.tensors[number] != DEAD


def kept_parts(payload: Payload, cutoff: int) -> int:
    """Return which parts of a payload are kept, one bit each: not forgotten, or only since `cutoff`."""
    return sum(1 << part for part, moment in enumerate(payload.forgotten) if not moment or moment >= cutoff)


def roots(txn: ReadTransaction, reflog_cutoff: int) -> set[CommitId]:
    """Return the commits that refs, and the reflog from the cutoff on, hold on to.

    What a ref was moved away from since the cutoff was held at the cutoff: that is in an older entry.
    """
    found = {target for prefix in (refs.BRANCHES, refs.TAGS) for target in refs.list_refs(txn, prefix).values()}
    tip = refs.head_commit(txn)
    if tip is not None:
        found.add(tip)
    moved: set[str] = set()  # refs that were moved since the cutoff, and whose place before that is not found yet
    is_old = False
    for _, value in txn.scan("reflog", reverse=True):
        try:
            entry = ReflogEntry.from_bytes(value)
        except wire.WireError as error:
            if is_old and not moved:
                continue  # older than an entry that holds on to nothing any more
            raise CorruptError(
                f"an entry of the reflog is damaged: {error}",
                hint="it is passed over once newer entries are older than the grace: commit, then gc --grace 0s",
            ) from None
        is_old = is_old or entry.time_ms < reflog_cutoff
        if entry.time_ms >= reflog_cutoff:
            moved.update(ref for ref, _ in entry.moves)
            found.update(targets(entry))
        else:
            found.update(target for ref, target in entry.moves if ref in moved and target is not None)
            moved.difference_update(ref for ref, _ in entry.moves)
    return found


def targets(entry: ReflogEntry) -> set[CommitId]:
    """Return every commit that a reflog entry names."""
    named = {target for _, target in entry.moves if target is not None}
    if entry.before is not None and entry.before.detached is not None:
        named.add(entry.before.detached)
    return named


def mark(txn: ReadTransaction, cutoff: Cutoff, sessions: list[LiveSession] | None = None) -> Liveness:
    """Find out what is live.

    Args:
        txn: the state to look at.
        cutoff: what is too young to go.
        sessions: operations under way: what is not below their floors is live.

    Raises:
        CorruptError: a record that something live needs is missing or damaged: what it needs in turn cannot be known,
            so nothing may be called dead.
    """
    commits: dict[CommitId, int] = {}
    files: dict[FileId, int] = {}
    needed: set[FileId] = set()
    for commit_id, commit in history.walk(txn, roots(txn, cutoff.reflog)):
        try:
            payload = history.read_payload(txn, commit_id)
        except CorruptError:  # what it may have said was forgotten is kept if it is there
            commits[commit_id] = ALL_PARTS
            files.update((entry.file_id, ALL_PARTS) for entry in commit.files)
            # Nor is it known what stands in for its files: every file there is may do so.
            files.update((FileId(key), ALL_PARTS) for key, _ in txn.sizes("recipes"))
            continue
        parts = kept_parts(payload, cutoff.forgotten)
        commits[commit_id] = parts
        kept = history.stood_in(commit, payload)
        if parts:
            for entry in kept:
                files[entry.file_id] = files.get(entry.file_id, 0) | parts
        if not all(payload.forgotten):  # what is forgotten, however lately, may have gone with a shorter grace
            needed.update(entry.file_id for entry in kept)

    bases, depths, held = array("Q"), array("H"), array("Q")  # base _ABSENT: there is no record
    others: dict[int, tuple[int, ...]] = {}
    damaged: dict[int, str] = {}
    for key, value in txn.scan("tensors"):
        number = wire.read_sortable(key)
        if number >= len(bases):
            bases.extend([_ABSENT] * (number + 1 - len(bases)))
            depths.extend([0] * (number + 1 - len(depths)))
        try:
            record = TensorRecord.from_bytes(value)
        except wire.WireError as error:
            bases[number] = 0
            damaged[number] = str(error)
            continue
        bases[number], depths[number] = record.base, min(record.depth, MAX_CHAIN)
        if record.others:
            others[number] = record.others
        for pack, _, lengths in record.extents:
            if pack >= len(held):
                held.extend([0] * (pack + 1 - len(held)))
            held[pack] += sum(lengths)
    tensors = bytearray(len(bases))

    templates: set[int] = set()
    for key, value in txn.scan("recipes"):
        parts = files.get(FileId(key), 0)
        if not parts:
            continue
        try:
            recipe = Recipe.from_bytes(value, key)
        except wire.WireError as error:
            raise CorruptError(f"the recipe of file {key.hex()[:16]} is damaged: {error}", hint=_WAY_OUT) from None
        needed.discard(FileId(key))
        templates.add(recipe.template)
        for number, part in zip(recipe.tensors, recipe.parts, strict=True):
            if parts >> part & 1 and number:
                if number >= len(tensors) or bases[number] == _ABSENT:
                    raise CorruptError(f"tensor {number} is missing", hint=_WAY_OUT)
                tensors[number] = WANTED
    if needed:
        raise CorruptError(f"the recipes of {len(needed)} files are missing", hint=_WAY_OUT)
    floor = min((session.floors.get("tensors", len(tensors)) for session in sessions or ()), default=len(tensors))
    for number in range(max(floor, 1), len(tensors)):
        if bases[number] != _ABSENT:
            tensors[number] = WANTED

    for number in range(1, len(tensors)):
        if tensors[number] == WANTED and bases[number]:
            leant_on = [bases[number], *others.get(number, ())]
            while leant_on:
                base = leant_on.pop()
                if base < len(tensors) and tensors[base] != DEAD:
                    continue
                if base >= len(tensors) or bases[base] == _ABSENT:
                    raise CorruptError(f"tensor {base}, which others lean on, is missing", hint=_WAY_OUT)
                tensors[base] = REFERENCE
                if bases[base]:
                    leant_on += bases[base], *others.get(base, ())
    for number, why in damaged.items():
        if tensors[number] != DEAD:
            raise CorruptError(f"tensor {number} is needed and its record is damaged: {why}", hint=_WAY_OUT)
    return Liveness(commits, files, templates, tensors, bases, depths, held, frozenset(damaged), others)
