"""Giving back what nothing live needs.

    1. Mark: what refs, young reflog entries and sessions under way lead to (`liveness`).
    2. Lean: where live tensors are deltas against dying ones, weigh keeping the dying against coding the live anew
       against what lives above them, and do what is smaller. Ordinary transactions; everything stays readable.
       Where the file would grow by much, sweep in between.
    3. Sweep: mark again under the write lock, and delete everything dead in that one transaction.
    4. Move: packs of which a good part is dead are copied without it, in ordinary transactions.
    5. Give back: free pages become holes in the file, where the file system knows holes. Or compact, if asked: the
       file is copied without them.

Killed at any moment, a vault is complete: each step only removes what no recipe reaches. A dry run does the first two
steps without writing and works the others out in pages, so it tells what `du` will.
"""

from __future__ import annotations

import itertools
import os
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from modelvault import planner, wire
from modelvault.errors import CorruptError, InputError
from modelvault.ids import CommitId, FileId
from modelvault.objects.recipe import Recipe
from modelvault.objects.ref import ReflogEntry
from modelvault.objects.tensor import Extent, TensorRecord, index_key, index_number
from modelvault.repository import sketches
from modelvault.repository.chains import note_rebased
from modelvault.repository.config import FILE_NAME
from modelvault.repository.liveness import (
    ALL_PARTS,
    DEAD,
    MAX_CHAIN,
    REFERENCE,
    WANTED,
    Cutoff,
    Liveness,
    mark,
    targets,
)
from modelvault.repository.names import VAULT_DIRECTORY
from modelvault.repository.packs import ALONE_BYTES, BATCH_BYTES, PACK_BYTES, Packer, move_frames, next_number
from modelvault.repository.repository import Repository
from modelvault.repository.surplus import outdated
from modelvault.store.base import TABLES, LiveSession, ReadTransaction, Table, WriteTransaction

DEFAULT_GRACE = 14 * 24 * 3600.0
"""Seconds for which what was forgotten or is only in the reflog stays: git's own two weeks."""

_MOVE_SHARE = 8
"""A pack is copied when at least one in so many of its bytes are dead: what stays wasted is under an eighth of it."""

_MOVE_TENSORS = 1024
"""Tensors looked at in one transaction while packs are copied; their bytes are bounded by `BATCH_BYTES` besides."""

_GROWTH_SHARE = 64
"""What is coded anew is written before what it replaces is freed. A sweep comes in between whenever the file would grow
by one in so many of its bytes. Fifteen epochs of eight tensors, two of them kept: it grows by 18 % without, by 13 % at
16, by 8 % here and by 7 % at 256; each sweep marks once more."""

_ATTEMPTS = 3
"""How often a gc begins again: damage stays, what another gc did is seen the next time."""

_NO_FLOOR = 2**63

Progress = Callable[[str, int, int], None]


class Collected(NamedTuple):
    """What a gc did, or would do.

    Attributes:
        commits: commits whose records went.
        files: recipes that went or lost a part.
        tensors: tensors that went.
        recoded: live tensors that were coded anew because what they leaned on was dying.
        freed_bytes: bytes of frames and records that went, less what coding anew added.
        disk_bytes: what the vault takes on disk now.
        reclaimable_bytes: what `du` loses by it.
    """

    commits: int
    files: int
    tensors: int
    recoded: int
    freed_bytes: int
    disk_bytes: int
    reclaimable_bytes: int


class _Recoding(NamedTuple):
    """A live tensor to be coded anew: its number, the reference to use (0: none), bytes of its frames then."""

    number: int
    base: int
    nbytes: int


@dataclass(slots=True)
class _Doomed:
    """What a sweep deletes and changes, and which packs are worth copying."""

    drops: list[tuple[Table, bytes, int]] = field(default_factory=list)  # table, key, bytes of the value
    changes: list[tuple[Table, bytes, bytes, int]] = field(default_factory=list)  # new value, bytes of the old one
    moving: dict[int, int] = field(default_factory=dict)  # pack -> live bytes in it
    moving_dead: int = 0
    commits: int = 0
    files: int = 0
    tensors: int = 0

    @property
    def dropped_bytes(self) -> int:
        """Bytes that go with the sweep."""
        dropped = sum(len(key) + length for _, key, length in self.drops)
        return dropped + sum(old - len(new) for _, _, new, old in self.changes)

    @property
    def freed_bytes(self) -> int:
        """Bytes that go with it, and with the move after it."""
        return self.dropped_bytes + self.moving_dead


def collect_garbage(
    repository: Repository,
    *,
    grace: float = DEFAULT_GRACE,
    compact: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Collected:
    """Free what nothing live needs.

    Args:
        repository: the vault.
        grace: seconds for which what was forgotten, or hangs on the reflog alone, is kept.
        compact: copy the file without its free pages, which makes it shorter; else they become holes in it.
        dry_run: change nothing; say what would happen.
        progress: told how far it is.

    Raises:
        CorruptError: a record is missing or damaged. Nothing was freed: what it needs cannot be known.
        LockedError: another writer did not end in time. What was done so far stands; the vault is complete.
    """
    return _Collection(repository, grace, compact, progress or (lambda *_: None)).run(dry_run)


def check_is_free(root: Path) -> None:
    """Check that a copy of a vault could go into a directory.

    Raises:
        InputError: there is a vault there already, or something that is no directory.
    """
    if os.path.lexists(root / VAULT_DIRECTORY):
        raise InputError(f"there is a vault already: {root / VAULT_DIRECTORY}", hint="choose another directory")
    if os.path.lexists(root) and not root.is_dir():
        raise InputError(f"{str(root)!a} is no directory", hint="choose another place")


def copy_vault(repository: Repository, root: Path) -> None:
    """Write a compacted copy of a vault into another directory, which is made if it is not there.

    Raises:
        InputError: there is a vault there already, or the place cannot be written to.
        NoSpaceError: the disk has no room for it.
    """
    check_is_free(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        repository.store.copy_to(root / VAULT_DIRECTORY)
        settings = repository.directory / FILE_NAME
        if settings.exists():
            (root / VAULT_DIRECTORY / FILE_NAME).write_bytes(settings.read_bytes())
    except OSError as error:
        raise InputError(f"cannot write {str(root)!a}: {error.strerror}") from None


class _Collection:
    def __init__(self, repository: Repository, grace: float, compact: bool, progress: Progress) -> None:
        self._repository, self._store = repository, repository.store
        self._compact, self._progress = compact, progress
        moment = int((time.time() - grace) * 1000) + 1
        self._cutoff = Cutoff(moment, moment)
        self._swept = False

    def run(self, dry_run: bool) -> Collected:
        """Collect; begin again where another gc took away, before our own sweep, what was to be weighed or leant on."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._run(dry_run)
            except CorruptError:
                if self._swept:
                    raise
        return self._run(dry_run)

    def _run(self, dry_run: bool) -> Collected:
        before = self._store.disk_bytes()
        with self._store.read() as txn:
            floors = {table: next_number(txn, table) for table in ("tensors", "packs", "templates")}
            live = mark(txn, self._cutoff, self._store.live_sessions())
        clumps = _clumps(live)
        recodings = list(self._weigh(live, clumps)) if clumps else []
        if dry_run:
            return self._foretell(live, clumps, recodings, before)
        added = spent = 0
        sweeps: list[_Doomed] = []
        room = self._room()
        with self._store.open_session(floors) as session:
            for place, recoding in enumerate(recodings):
                if spent + recoding.nbytes > room and (spent or not sweeps):
                    sweeps.append(self._sweep(session.name))
                    room, spent = self._room(), 0
                try:
                    spent += (nbytes := self._recode(recoding))
                except CorruptError:
                    if not sweeps:
                        raise
                    continue  # another gc took what it leans on; it stays for the next one
                added += nbytes
                self._progress("coding anew", place + 1, len(recodings))
            sweeps.append(self._sweep(session.name))
            self._move(sweeps[-1].moving)
        if self._compact:
            self._store.compact(timeout=self._repository.lock_timeout)
        else:
            self._repository.give_back()
        after = self._store.disk_bytes()
        return Collected(
            sum(doomed.commits for doomed in sweeps),
            sum(doomed.files for doomed in sweeps),
            sum(doomed.tensors for doomed in sweeps),
            len(recodings),
            sum(doomed.dropped_bytes for doomed in sweeps) + sweeps[-1].moving_dead - added,
            after,
            max(0, before - after),
        )

    def _in_transaction(self, work: Callable[[WriteTransaction], None]) -> None:
        repository = self._repository
        with self._store.write(timeout=repository.lock_timeout, waiting=repository.waiting) as txn:
            work(txn)

    def _room(self) -> int:
        """Return how much may be written before it is worth sweeping: what is free in the file, and a little more."""
        usage = self._store.usage()
        used = (usage.fixed_pages + usage.tree_pages + usage.overflow_pages) * usage.page_bytes
        return max(0, usage.file_bytes - used) + usage.file_bytes // _GROWTH_SHARE

    def _record(self, number: int) -> TensorRecord:
        with self._store.read() as txn:
            return _record(txn, number)

    # 2. lean

    def _weigh(self, live: Liveness, clumps: dict[int, list[int]]) -> Iterator[_Recoding]:
        """Yield what to code anew: for each clump of dying references, whichever is smaller."""
        # numpy, which a vault without clumps does without
        from modelvault.repository.chunks import TensorDamagedError
        from modelvault.repository.recode import encoded_bytes

        for leaves in clumps.values():
            keep = sum(self._record(number).stored_bytes for number in _members(live, leaves))
            found: list[_Recoding] = []
            growth = 0
            for leaf in sorted(leaves):
                record = self._record(leaf)
                references = {0, _above(live, leaf), found[-1].number if found else 0}
                deep_enough = [r for r in references if not r or self._record(r).depth < record.depth]
                try:
                    nbytes, base = min((encoded_bytes(self._store, leaf, r), r) for r in deep_enough)
                except TensorDamagedError:
                    growth = keep  # what cannot be decoded stays as it is, and what it leans on
                    break
                found.append(_Recoding(leaf, base, nbytes))
                growth += nbytes - record.stored_bytes
                if growth >= keep:
                    break
            if growth < keep:
                yield from found

    def _recode(self, recoding: _Recoding) -> int:
        """Put new, verified frames in the place of a tensor's old ones; return how many bytes they are."""
        from modelvault.repository.chunks import ChunkReader
        from modelvault.repository.recode import alone, encoded, is_delta, parameters_against

        key = wire.sortable(recoding.number)
        with self._store.read() as txn:
            data = txn.get("tensors", key)
        if data is None:
            return 0  # gone meanwhile
        record = TensorRecord.from_bytes(data)
        extents: list[Extent] = []
        pending: list[bytes] = []
        size = deltas = 0
        done = 0

        def pack(txn: WriteTransaction) -> None:
            packer = Packer(txn)
            for frame in pending:
                packer.add(extents, frame)
            packer.close()

        parameters = parameters_against(ChunkReader(self._store), recoding.number, recoding.base)
        for frame in encoded(self._store, recoding.number, recoding.base, parameters):
            pending.append(frame)
            size += len(frame)
            deltas += is_delta(frame)
            if size >= BATCH_BYTES:
                self._in_transaction(pack)
                pending, size = [], 0

        def finish(txn: WriteTransaction) -> None:
            nonlocal done
            # Whoever changed the tensor meanwhile was another gc; what was packed for it here goes with the next one.
            if txn.get("tensors", key) != data:
                return
            base = recoding.base if deltas else 0
            depth = _record(txn, base).depth + 1 if base else 0
            if depth > record.depth or depth > planner.MAX_DEPTH:
                return  # its reference became deeper: what leans on this tensor must not
            pack(txn)
            changed = record._replace(
                parameters=(parameters if base else alone(parameters)).to_bytes(),
                base=base,
                depth=depth,
                deltas=deltas if base else 0,
                extents=tuple(extents),
                others=(),
            )
            txn.put("tensors", key, changed.to_bytes())
            note_rebased(txn)
            done = changed.stored_bytes

        self._in_transaction(finish)
        return done

    # 3. sweep

    def _sweep(self, session: str) -> _Doomed:
        """Delete everything dead in one transaction."""
        doomed = _Doomed()

        def work(txn: WriteTransaction) -> None:
            nonlocal doomed
            sessions = [other for other in self._store.live_sessions() if other.name != session]
            live = mark(txn, self._cutoff, sessions)
            doomed = _doom(txn, live, self._cutoff, sessions, {})
            _settle_depths(txn, live)
            for table, key, _ in doomed.drops:
                txn.delete(table, key)
            for table, key, value, _ in doomed.changes:
                txn.put(table, key, value)

        self._in_transaction(work)
        self._swept = True
        return doomed

    # 4. move

    def _move(self, moving: dict[int, int]) -> None:
        """Copy the live frames of partly dead packs into new ones, and delete the old.

        Nobody ever adds a frame to a pack that exists, so what these packs hold for others can only become less.
        """
        if not moving:
            return
        with self._store.read() as txn:
            owners = array(
                "Q",
                (
                    wire.read_sortable(key)
                    for key, value in txn.scan("tensors")
                    if any(extent.pack in moving for extent in TensorRecord.from_bytes(value).extents)
                ),
            )
        place = 0
        while place < len(owners):

            def work(txn: WriteTransaction) -> None:
                nonlocal place
                place += move_frames(txn, owners[place : place + _MOVE_TENSORS], moving)

            self._in_transaction(work)
            self._progress("copying packs", place, len(owners))
        with self._store.read() as txn:
            still = {extent.pack for number in owners for extent in _extents(txn, number) if extent.pack in moving}

        def drop(txn: WriteTransaction) -> None:
            for number in moving:
                if number not in still:
                    txn.delete("packs", wire.sortable(number))

        self._in_transaction(drop)

    # dry run

    def _foretell(
        self, live: Liveness, clumps: dict[int, list[int]], recodings: list[_Recoding], disk_bytes: int
    ) -> Collected:
        """Work out what the steps would do, in bytes and in pages."""
        recoded = {recoding.number: recoding.nbytes for recoding in recodings}
        tensors = bytearray(live.tensors)
        for leaves in clumps.values():
            if leaves[0] in recoded:  # a clump's leaves are coded anew all or none
                for number in _members(live, leaves):
                    tensors[number] = DEAD
        with self._store.read() as txn:
            sessions = self._store.live_sessions()
            doomed = _doom(txn, live._replace(tensors=tensors), self._cutoff, sessions, recoded)
            loss = self._lost_on_disk(txn, doomed, list(recoded.values()))
        return Collected(
            doomed.commits,
            doomed.files,
            doomed.tensors,
            len(recodings),
            doomed.freed_bytes - sum(recoded.values()),
            disk_bytes,
            loss,
        )

    def _lost_on_disk(self, txn: ReadTransaction, doomed: _Doomed, recoded: list[int]) -> int:
        """Return how many bytes less the file takes after this sweep and what follows it."""
        if not self._compact and not self._store.gives_back():
            return 0
        usage = self._store.usage()
        overflow = usage.overflow_pages
        inline = 0
        for _, key, length in doomed.drops:
            pages = usage.overflow(key, length)
            overflow -= pages
            inline += 0 if pages else len(key) + length
        for number, kept in doomed.moving.items():
            pack = wire.sortable(number)
            value = txn.view("packs", pack)
            overflow -= usage.overflow(pack, len(value)) if value is not None else 0
            del value, kept
        for length in itertools.chain(_pack_sizes(sum(doomed.moving.values())), *map(_pack_sizes, recoded)):
            overflow += usage.overflow(bytes(4), length)
        total = sum(
            len(key) + length for table in TABLES for key, length in txn.sizes(table) if not usage.overflow(key, length)
        )
        tree = round(usage.tree_pages * (1 - inline / total)) if total else usage.tree_pages
        used = usage.fixed_pages + tree + overflow
        if not self._compact:
            # What is free is listed, in eight bytes a page; that list and a way down the tree were just replaced.
            free = max(0, usage.file_pages + sum(recoded) // usage.page_bytes - used)
            used += usage.depth + 1 + 2 * (1 + usage.overflow(bytes(8), 8 + 8 * free))
        return max(0, usage.file_bytes - used * usage.page_bytes)


def _clumps(live: Liveness) -> dict[int, list[int]]:
    """Return the clumps of dying references that live tensors lean on, as the live leaves of each.

    What one tensor needs, directly or through what it leans on, is one clump: it goes together or not at all.
    """
    above: dict[int, int] = {}

    def top(number: int) -> int:
        while above.setdefault(number, number) != number:
            above[number] = above[above[number]]
            number = above[number]
        return number

    leaves: list[tuple[int, int]] = []
    for number in range(1, len(live.tensors)):
        if live.tensors[number] == DEAD:
            continue
        dying = [one for one in live.references(number) if live.tensors[one] == REFERENCE]
        joined = dying if live.tensors[number] == WANTED else [number, *dying]
        for one, other in itertools.pairwise(joined):
            above[top(other)] = top(one)
        if dying and live.tensors[number] == WANTED:
            leaves.append((number, dying[0]))
    found: dict[int, list[int]] = {}
    for leaf, one in leaves:
        found.setdefault(top(one), []).append(leaf)
    return found


def _members(live: Liveness, leaves: Iterable[int]) -> set[int]:
    """Return the dying tensors that these leaves need."""
    members: set[int] = set()
    todo = list(leaves)
    while todo:
        for one in live.references(todo.pop()):
            if live.tensors[one] == REFERENCE and one not in members:
                members.add(one)
                todo.append(one)
    return members


def _above(live: Liveness, leaf: int) -> int:
    """Return the live tensor that a leaf's chain leads to through dying ones, or 0."""
    base = live.bases[leaf]
    while base and live.tensors[base] == REFERENCE:
        base = live.bases[base]
    return base


def _doom(
    txn: ReadTransaction,
    live: Liveness,
    cutoff: Cutoff,
    sessions: list[LiveSession],
    recoded: dict[int, int],
) -> _Doomed:
    """Return what a sweep of this state removes. Of tensors in `recoded`, the present frames count as dead."""
    doomed = _Doomed()
    pack_floor, template_floor = (
        min((session.floors.get(table, _NO_FLOOR) for session in sessions), default=_NO_FLOOR)
        for table in ("packs", "templates")
    )
    for table in ("commits", "payloads"):
        for key, length in txn.sizes(table):
            if CommitId(key) not in live.commits:
                doomed.drops.append((table, key, length))
                doomed.commits += table == "commits"
    for key, value in txn.scan("recipes"):
        parts = live.files.get(FileId(key), 0)
        if not parts:
            doomed.drops.append(("recipes", key, len(value)))
            doomed.files += 1
        if parts in (0, ALL_PARTS):
            continue
        recipe = Recipe.from_bytes(value, key)
        numbers = tuple(
            number if parts >> part & 1 or _is_wanted(live, number) else 0
            for number, part in zip(recipe.tensors, recipe.parts, strict=True)
        )
        if numbers != recipe.tensors:
            changed = recipe._replace(tensors=numbers).to_bytes(FileId(key))
            doomed.changes.append(("recipes", key, changed, len(value)))
            doomed.files += 1
    for key, length in txn.sizes("templates"):
        number = wire.read_sortable(key)
        if number not in live.templates and number < template_floor:
            doomed.drops.append(("templates", key, length))

    held = array("Q", live.held)  # bytes of live frames by pack, once what goes is taken off
    for number in live.dead():
        key = wire.sortable(number)
        value = txn.get("tensors", key) or b""
        doomed.drops.append(("tensors", key, len(value)))
        doomed.tensors += 1
        if number not in live.damaged:
            record = TensorRecord.from_bytes(value)
            doomed.drops.append(("index", index_key(record.tensor_id, number), 0))
            _take_off(held, record)
    for number in recoded:
        _take_off(held, _record(txn, number))
    if live.damaged:  # whose index entries stand under ids that are not known
        orphans = (key for key, _ in txn.sizes("index") if index_number(key) in live.damaged)
        doomed.drops.extend(("index", key, 0) for key in orphans)
    for key, length in txn.sizes("packs"):
        number = wire.read_sortable(key)
        kept = held[number] if number < len(held) else 0
        if number >= pack_floor or kept >= length:
            continue
        if not kept:
            doomed.drops.append(("packs", key, length))
        elif (length - kept) * _MOVE_SHARE >= length:
            doomed.moving[number] = kept
            doomed.moving_dead += length - kept

    for key, value in txn.scan("reflog"):
        try:
            entry = ReflogEntry.from_bytes(value)
        except wire.WireError:  # an old one, or nothing could have been marked
            doomed.drops.append(("reflog", key, len(value)))
            continue
        if entry.time_ms >= cutoff.reflog or targets(entry) <= live.commits.keys():
            continue
        moves = tuple(move for move in entry.moves if move.target is None or move.target in live.commits)
        if any(move.target is not None for move in moves):
            rest = entry._replace(moves=moves, before=None)
            doomed.changes.append(("reflog", key, rest.to_bytes(), len(value)))
        else:
            doomed.drops.append(("reflog", key, len(value)))
    doomed.drops.extend(("stats", key, length) for key, length in outdated(txn, cutoff.forgotten))
    for key, value in txn.scan("latest"):
        number = wire.read_sortable(value)
        is_template = len(key) == _SHAPE_KEY_BYTES
        if not (number in live.templates or number >= template_floor if is_template else live.wants(number)):
            doomed.drops.append(("latest", key, len(value)))
    for key, value, mark_left in sketches.after_sweep(txn, live.wants):
        if mark_left is None:
            doomed.drops.append(("sketches", key, len(value)))
        else:
            doomed.changes.append(("sketches", key, mark_left, len(value)))
    return doomed


def _take_off(held: array[int], record: TensorRecord) -> None:
    for extent in record.extents:
        held[extent.pack] -= sum(extent.lengths)


_SHAPE_KEY_BYTES = 9
"""Keys of `latest` that are one byte longer than the others name templates, not tensors."""


def _is_wanted(live: Liveness, number: int) -> bool:
    return number < len(live.tensors) and live.tensors[number] == WANTED


def _record(txn: ReadTransaction, number: int) -> TensorRecord:
    data = txn.get("tensors", wire.sortable(number))
    if data is None:
        raise CorruptError(f"tensor {number} is missing", hint="run modelvault fsck")
    return TensorRecord.from_bytes(data)


def _extents(txn: ReadTransaction, number: int) -> tuple[Extent, ...]:
    data = txn.get("tensors", wire.sortable(number))
    return TensorRecord.from_bytes(data).extents if data is not None else ()


def _settle_depths(txn: WriteTransaction, live: Liveness) -> None:
    """Make every live record state its true depth: coding a tensor anew, here or in a gc that was killed, lessens it
    for all that lean on it."""
    true = array("h", bytes(2 * len(live.tensors)))  # one more than the depth; 0: not known yet
    for start in range(1, len(live.tensors)):
        chain = [start] if live.wants(start) and not true[start] else []
        while chain:
            number = chain[-1]
            references = [one for one in live.references(number) if live.wants(one)]
            unknown = next((one for one in references if not true[one]), 0)
            if unknown and len(chain) <= MAX_CHAIN:
                chain.append(unknown)
                continue
            chain.pop()
            depth = max((true[one] for one in references), default=0)
            true[number] = depth + 1
            if live.depths[number] != depth:
                record = _record(txn, number)
                txn.put("tensors", wire.sortable(number), record._replace(depth=depth).to_bytes())


def _pack_sizes(total: int) -> Iterator[int]:
    """Yield the sizes of packs that hold so many bytes of frames, about as `Packer` would fill them."""
    size = PACK_BYTES + ALONE_BYTES // 4
    yield from itertools.repeat(size, total // size)
    if total % size:
        yield total % size
