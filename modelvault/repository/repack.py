"""The whole history planned anew, and coded so: the same bytes, the same ids, less space or shorter chains.

    1. Versions: tensors that are planned as one, and what follows what (`versions`).
    2. Measure: a sample of each version, coded as keyframe and against each reference that is worth a try.
    3. Plan: `planner.solve` on what was measured. Where that saves too little, everything stays.
    4. Recode, bases first: each tensor in a transaction of its own (`recode.Recoder`), verified.

Killed at any moment, a vault is complete: some tensors are coded by the new plan and some by the old. The next repack
measures and plans again, finds most of its work done, and does the rest. If samples were wrong and the vault has grown
in the end, it is coded back, and the next repack knows (`attempts`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from modelvault import codec, planner, wire
from modelvault.errors import CorruptError, UsageError
from modelvault.objects.tensor import TensorRecord
from modelvault.planner import ROOT, Edge, Graph, Limits, Plan
from modelvault.repository.attempts import digest_of, note_for_nothing, was_for_nothing
from modelvault.repository.chains import StaleError, TooDeepError, depths_of, too_deep
from modelvault.repository.chunks import TensorDamagedError
from modelvault.repository.cost import work_in
from modelvault.repository.gc import DEFAULT_GRACE
from modelvault.repository.liveness import Cutoff, Liveness, mark
from modelvault.repository.moments import find_moments
from modelvault.repository.packs import BATCH_BYTES, next_number
from modelvault.repository.recode import Recoder, is_computed
from modelvault.repository.refine import improve, improvements
from modelvault.repository.repository import Repository
from modelvault.repository.resketch import enter_forgotten
from modelvault.repository.threads import in_order
from modelvault.repository.version_samples import VersionSamples
from modelvault.repository.versions import Line, Version, find_lines, find_versions
from modelvault.store.base import ReadTransaction

_WORTHWHILE = 0.01
"""A plan that saves less than this share of a family's bytes is not worth coding anything anew: samples are right to a
few per cent, and what is left alone cannot go wrong. It is also why a second repack changes nothing."""

_STAYING = 0.005
"""What is in place counts as so much smaller, by the share of a version that is: between plans that samples cannot tell
apart the one wins that is there already, and a repack that was interrupted goes on where it was."""

_HEADS = 48
"""Beginnings of lines that are measured each against each: two dozen fine-tunes take a second or two."""

_ALL = 24
"""Versions of a family up to which every pair is measured: five fine-tunes committed one after another, their base
last, look like a run, and only a pair that no run would have shows which of them is the base."""

_LIKED, _MANY = 3, 512
"""Of a larger family, with up to so many versions, so many of the bases that most gain by are tried for all."""

_LONG_SAMPLE = 256 << 10
"""Samples so long are measured by several threads. Shorter ones only wait for one another: 50,000 ways with 64 KiB each
took 24 s by one thread and 31 s by two; 30 with 1 MiB, 1.05 s and 0.79 s."""

_ROUNDS = 4
"""How often it is measured and planned at most. What tensors really take then changes what is worth a try, and what the
rest of a budget buys. Two do for nearly all; the last of them finds nothing to do."""

Progress = Callable[[str, int, int], None]


class Bounds(NamedTuple):
    """What a repack is to keep to.

    Attributes:
        max_depth: the longest chain.
        max_restore: the most seconds that a commit's files may take to be decoded, as `cost` reckons; None: no bound.
        budget: bytes of frames that may be spent to make restoring cheaper; None: as few bytes as the bounds allow.
        keyframe_tips: whether the newest version of every line is a keyframe.
        thorough: whether larger samples are measured.
    """

    max_depth: int = planner.MAX_DEPTH
    max_restore: float | None = None
    budget: int | None = None
    keyframe_tips: bool = False
    thorough: bool = False

    @property
    def leaves_restoring_free(self) -> bool:
        """Whether nothing is said of what restoring may take, but how long chains are."""
        return self.max_restore is None and self.budget is None


class State(NamedTuple):
    """How live tensors are kept.

    Attributes:
        nbytes: bytes of their frames.
        depth_max: the longest chain.
        depth_mean: over all live tensors.
        work_max: the most work units of a chain of a version.
        work_mean: over all versions.
    """

    nbytes: int
    depth_max: int
    depth_mean: float
    work_max: int
    work_mean: float


class Repacked(NamedTuple):
    """What a repack did, or would do.

    Attributes:
        before: as it was.
        after: as it is; of a dry run, as predicted.
        tensors: how many live tensors there are.
        recoded: how many were, or would be, coded anew.
        versions: how many versions were planned.
        edges: how many ways to store one were measured.
        bound: predicted bytes that no plan goes below, second references aside.
        undone: whether it grew, and everything was coded back.
    """

    before: State
    after: State
    tensors: int
    recoded: int
    versions: int
    edges: int
    bound: int
    undone: bool = False


class _Way(NamedTuple):
    """How a version could be stored: alone, or against one version or two."""

    version: int
    base: int
    second: int


class _Family(NamedTuple):
    """A family's graph: versions by their place in it, and the tensor that each tensor leans on, by edge.

    `leaning` is the graph in which what is in place counts as a little smaller than it is.
    """

    versions: tuple[int, ...]
    graph: Graph
    leaning: Graph
    present: Plan | None
    stretches: list[list[int]]
    tips: frozenset[int]

    def planned(self, at: int) -> int:
        """Return how many references the tensors of a version have now by a plan; what is behind these is more."""
        return _planned(self.present.edges[at]) if self.present is not None else 1


def repack(
    repository: Repository, bounds: Bounds, *, dry_run: bool = False, progress: Progress | None = None
) -> Repacked:
    """Plan the whole history anew and code it so.

    Raises:
        UsageError: a bound that makes no sense.
        CorruptError: something needed is damaged. What was done so far stands; every commit is as it was.
        LockedError: another writer did not end in time. As above.
    """
    if not 0 <= bounds.max_depth <= planner.MAX_DEPTH:
        raise UsageError(f"--max-depth {bounds.max_depth}: 0 to {planner.MAX_DEPTH} is wanted")
    return _Repack(repository, bounds, progress or (lambda *_: None)).run(dry_run)


class _Repack:
    def __init__(self, repository: Repository, bounds: Bounds, progress: Progress) -> None:
        self._repository, self._store = repository, repository.store
        self._bounds, self._progress = bounds, progress
        self._records: dict[int, TensorRecord] = {}
        self._versions: list[Version] = []
        self._owners: dict[int, int] = {}  # tensor -> version
        self._aligned: dict[tuple[int, int], tuple[int, ...]] = {}  # (version, reference) -> references of its tensors
        self._known: dict[tuple[int, ...], int] = {}  # tensors of a version, the first, its references: what it takes
        self._attempt = b""  # what was foreseen last
        self._saves_only = False  # all other bounds are kept already, so that there is nothing to gain but bytes

    def run(self, dry_run: bool) -> Repacked:
        """Measure, plan, and unless it is a dry run, code anew."""
        with self._store.read() as txn:
            floors = {table: next_number(txn, table) for table in ("tensors", "packs", "templates")}
        wanted, report = self._foreseen()
        refines = self._bounds.thorough and self._bounds.leaves_restoring_free
        if not dry_run:
            enter_forgotten(self._repository, self._records)
        if dry_run or not (wanted or refines):
            return report._replace(after=report.after if wanted else report.before)
        with self._store.open_session(floors):
            done, undone = self._settle(wanted)
            if refines and (refined := self._refine()):
                done |= refined | self._settle(self._foreseen()[0])[0]
        self._repository.give_back()
        with self._store.read() as txn:
            self._look(txn)
        return report._replace(after=self._state(), recoded=len(done), undone=undone and not done)

    def _settle(self, wanted: dict[int, tuple[int, ...]]) -> tuple[set[int], bool]:
        """Code anew what is wanted, and then; return what changed, and whether the end was taken back."""
        done, undone = set[int](), False
        recoder = Recoder(self._repository)
        for _ in range(_ROUNDS):
            if not wanted:
                break
            attempt, present = self._attempt, {number: self._records[number] for number in wanted}
            undone = self._recode(recoder, wanted, "coding anew") > 0 and self._saves_only
            if undone:
                self._restore(recoder, present)
            recoder.tidy()
            changed = self._changed(present)
            if undone or not changed:
                repository = self._repository
                with repository.store.write(timeout=repository.lock_timeout, waiting=repository.waiting) as txn:
                    note_for_nothing(txn, attempt)
                break
            done |= changed
            wanted, _ = self._foreseen()
        return done, undone

    def _changed(self, before: Mapping[int, TensorRecord]) -> set[int]:
        """Return which tensors are coded otherwise than before."""
        with self._store.read() as txn:
            self._look(txn)
        return {
            number
            for number, record in before.items()
            if number not in self._records
            or (self._records[number].references, self._records[number].stored_bytes)
            != (record.references, record.stored_bytes)
        }

    def _foreseen(self) -> tuple[dict[int, tuple[int, ...]], Repacked]:
        """Measure and plan; return the references of what is to be coded anew, bases first, and what is foreseen."""
        with self._store.read() as txn:
            live = self._look(txn)
            self._versions = find_versions(txn, live)
        self._owners = {tensor: at for at, version in enumerate(self._versions) for tensor in version.tensors}
        self._aligned.clear()
        lines = find_lines(self._versions)
        samples = VersionSamples(self._store, self._versions, self._records, thorough=self._bounds.thorough)
        families = [self._measure(family, samples) for family in self._families(lines)]
        kept = [self._keeps(family) for family in families]
        self._saves_only = all(kept) and self._bounds.budget is None
        plans = self._plan(families, kept)
        wanted, after = self._wanted(families, plans), self._predicted(families, plans)
        self._attempt = digest_of(wanted, {one: self._records[one].references for one in wanted}, after.nbytes)
        with self._store.read() as txn:
            if wanted and was_for_nothing(txn, self._attempt):
                wanted = {}
        return wanted, Repacked(
            self._state(),
            after,
            len(self._records),
            len(wanted),
            len(self._versions) - 1,
            sum(len(family.graph) for family in families),
            sum(planner.bound(family.graph) for family in families),
        )

    def _look(self, txn: ReadTransaction) -> Liveness:
        moment = int((time.time() - DEFAULT_GRACE) * 1000) + 1
        live = mark(txn, Cutoff(0, moment))
        self._records = {}
        for key, value in txn.scan("tensors"):
            number = wire.read_sortable(key)
            if live.wants(number) and number not in live.damaged:
                self._records[number] = TensorRecord.from_bytes(value)
        return live

    # 1. versions

    def _families(self, lines: list[Line]) -> list[list[Line]]:
        """Return lines that could lean on one another."""
        above = list(range(len(self._versions)))

        def find(place: int) -> int:
            while above[place] != place:
                above[place] = above[above[place]]
                place = above[place]
            return place

        heads: dict[tuple[object, ...], int] = {}
        for line in lines:
            head = line.versions[0]
            for one in line.versions[1:]:
                above[find(one)] = find(head)
            for link in self._versions[head].links:
                above[find(head)] = find(link.version)
            shape = (
                self._versions[head].dtype,
                *(self._records[number].nbytes for number in self._versions[head].tensors),
            )
            above[find(head)] = find(heads.setdefault(shape, head))
        found: dict[int, list[Line]] = {}
        for line in lines:
            found.setdefault(find(line.versions[0]), []).append(line)
        return list(found.values())

    # 2. measure

    def _measure(self, family: list[Line], samples: VersionSamples) -> _Family:
        numbers = tuple(sorted(one for line in family for one in line.versions))
        place = {number: at for at, number in enumerate(numbers, start=1)}
        pairs = list(dict.fromkeys(self._pairs(family)))
        measured = self._measured([_Way(one, ROOT, ROOT) for one in numbers] + pairs, samples)
        if _ALL < len(numbers) <= _MANY:
            measured |= self._measured(list(self._liked(numbers, measured)), samples)
        present, broken = self._present(numbers, measured)
        factor = self._factors(present, measured)
        edges = []
        for way, nbytes in measured.items():
            one = way.version
            size = round(nbytes * factor[one][way.base != ROOT])
            if present[one] == way and (self._bounds.leaves_restoring_free or not self._has_more(one, _planned(way))):
                size = self._stored(self._versions[one])
            bases = place.get(way.base, ROOT), place.get(way.second, ROOT)
            edges.append(Edge(place[one], *bases, size, self._versions[one].nbytes + size))
        have = {edge.version for edge in edges if edge.base == ROOT}
        for one in numbers:  # what cannot be decoded is worth what it takes
            if place[one] not in have:
                size = self._stored(self._versions[one])
                edges = [e for e in edges if place[one] not in (e.version, e.base, e.second)]
                edges.append(Edge(place[one], ROOT, 0, size, self._versions[one].nbytes + size))
        graph = Graph(len(numbers), edges)
        leaning = Graph(len(numbers), (self._leaning(edge, numbers) for edge in edges))
        now = None
        if not broken:
            ways = [present[one] for one in numbers]
            chosen = [
                graph.edge(place[way.version], place.get(way.base, ROOT), place.get(way.second, ROOT)) for way in ways
            ]
            if all(chosen):
                now = Plan([Edge(0, 0, 0, 0, 0), *(edge for edge in chosen if edge)])
        stretches = [[place[one] for one in line.versions] for line in family]
        return _Family(numbers, graph, leaning, now, stretches, frozenset(place[line.versions[-1]] for line in family))

    def _measured(self, ways: list[_Way], samples: VersionSamples) -> dict[_Way, int]:
        """Return what each way would take; those that need what is damaged are left out."""

        def measure(way: _Way) -> tuple[_Way, int] | None:
            try:
                sides = [self._aligned[way.version, base] for base in (way.base, way.second) if base != ROOT]
                tensors = self._versions[way.version].tensors
                key = len(tensors), tensors[0], *(side[0] for side in sides)
                if key not in self._known:
                    self._known[key] = samples.measure(way.version, *sides)
                return way, self._known[key]
            except TensorDamagedError:
                return None  # fsck's to report; it stays as it is

        found: dict[_Way, int] = {}
        is_long = max((samples.size(way.version) for way in ways), default=0) >= _LONG_SAMPLE
        results = in_order(measure, sorted(ways)) if is_long else map(measure, sorted(ways))
        for done, one in enumerate(results, start=1):
            self._progress("measuring", done, len(ways))
            if one is not None:
                found[one[0]] = one[1]
        return found

    def _liked(self, numbers: Sequence[int], measured: dict[_Way, int]) -> Iterator[_Way]:
        """Yield ways with the bases that save most where they are the best that was measured."""
        best: dict[int, list[tuple[int, int]]] = {}
        for way, nbytes in measured.items():
            if way.second == ROOT:
                best.setdefault(way.version, []).append((nbytes, way.base))
        saved = dict.fromkeys(numbers, 0)
        for ways in best.values():
            (first, base), *others = sorted(ways)
            if base != ROOT and others:
                saved[base] += others[0][0] - first
        for base in sorted(saved, key=lambda one: (-saved[one], one))[:_LIKED]:
            for one in numbers:
                if one != base and (one, base) not in self._aligned and self._shape(one) == self._shape(base):
                    yield self._pair(one, base, self._versions[base].tensors)

    def _pairs(self, family: list[Line]) -> Iterator[_Way]:
        """Yield what is worth measuring beside keyframes, and note which tensor leans on which."""
        for line in family:
            for at, base, second in planner.wanted_edges(len(line.versions)):
                if second is not None and not is_computed(self._versions[line.versions[at]].dtype):
                    continue
                for one in (base,) if second is None else (base, second):
                    self._pair(line.versions[at], line.versions[one], self._versions[line.versions[one]].tensors)
                yield _Way(line.versions[at], line.versions[base], ROOT if second is None else line.versions[second])
            head = line.versions[0]
            for link in self._versions[head].links:
                yield self._pair(head, link.version, link.tensors)
                before = self._versions[link.version]
                if len(set(link.tensors)) == len(before.tensors) == len(link.tensors):
                    turned = dict(zip(link.tensors, self._versions[head].tensors, strict=True))
                    yield self._pair(link.version, head, [turned[number] for number in before.tensors])
        heads = [line.versions[0] for line in family]
        versions = [one for line in family for one in line.versions]
        if len(versions) <= _ALL:
            heads = versions
        if len(heads) <= _HEADS:
            for one, other in itertools.permutations(heads, 2):
                if (one, other) not in self._aligned and self._shape(one) == self._shape(other):
                    yield self._pair(one, other, self._versions[other].tensors)
        for number in (one for line in family for one in line.versions):
            bases = {self._records[tensor].base for tensor in self._versions[number].tensors}
            if 0 not in bases:  # what it leans on now
                owners = {self._owners.get(base) for base in bases}
                owner = owners.pop() if len(owners) == 1 else None
                if owner is not None and (number, owner) not in self._aligned:
                    yield self._pair(number, owner, [self._records[t].base for t in self._versions[number].tensors])

    def _shape(self, number: int) -> list[int]:
        return [self._records[tensor].nbytes for tensor in self._versions[number].tensors]

    def _pair(self, version: int, base: int, tensors: Sequence[int]) -> _Way:
        self._aligned[version, base] = tuple(tensors)
        return _Way(version, base, ROOT)

    def _present(self, numbers: Sequence[int], measured: dict[_Way, int]) -> tuple[dict[int, _Way], bool]:
        """Return how each version is kept now, and whether any leans on something that no plan can say."""
        present: dict[int, _Way] = {}
        broken = False
        for number in numbers:
            records = [self._records[tensor] for tensor in self._versions[number].tensors]
            base = self._common_owner(number, [record.base for record in records])
            second = self._common_owner(number, [next(iter(record.others), 0) for record in records])
            broken |= base is None
            way = _Way(number, -1 if base is None else base, second or ROOT)
            # Other references behind the first, such as moments, are not planned: they make an edge cheaper.
            present[number] = way if way in measured else way._replace(second=ROOT)
        return present, broken

    def _common_owner(self, number: int, references: Sequence[int]) -> int | None:
        """Return the version that these references of a version's tensors make up, ROOT if there are none."""
        if not any(references):
            return ROOT
        owners = {self._owners.get(one, -1) for one in references if one}
        owner = owners.pop() if len(owners) == 1 else -1
        aligned = self._aligned.get((number, owner))
        # A tensor that gains nothing by a reference stays without it under any plan.
        if aligned is None or any(one and one != other for one, other in zip(references, aligned, strict=True)):
            return None
        return owner

    def _factors(self, present: dict[int, _Way], measured: dict[_Way, int]) -> dict[int, tuple[float, float]]:
        """Return, by version, what keyframes and deltas really take by what samples said they would.

        Deltas take less: each tensor has factors of its own, a sample has one for all. ShuffleNet, SGD: 0.80 to 1.0 of
        what samples say. Where a version is a keyframe, its deltas are judged by those of its family; so are those that
        lean on more than was planned, since other ways to store them know nothing of that.
        """
        found: dict[int, float] = {}
        for number, way in present.items():
            said = measured.get(way, 0)
            actual = self._stored(self._versions[number])
            if self._has_more(number, _planned(way)):
                continue
            if said and actual:
                found[number] = min(2.0, max(0.5, actual / said))
        deltas = [found[number] for number, way in present.items() if number in found and way.base != ROOT]
        common = sum(deltas) / len(deltas) if deltas else 1.0
        return {
            number: (found.get(number, 1.0), common) if way.base == ROOT else (1.0, found.get(number, common))
            for number, way in present.items()
        }

    def _leaning(self, edge: Edge, numbers: Sequence[int]) -> Edge:
        """Return an edge that counts as a little smaller, by the share of the version that is kept so already."""
        version, *bases = (numbers[at - 1] for at in (edge.version, edge.base, edge.second) if at)
        sides = [self._aligned[version, base] for base in bases]
        there = 0
        for place, tensor in enumerate(self._versions[version].tensors):
            record, references = self._records[tensor], tuple(side[place] for side in sides)
            if record.references[: len(references)] == references and bool(record.base) == bool(references):
                there += record.nbytes
        share = there / max(1, self._versions[version].nbytes)
        return edge._replace(nbytes=round(edge.nbytes * (1 - _STAYING * share)))

    def _has_more(self, number: int, planned: int) -> bool:
        """Whether any tensor of a version leans on more than was planned: what `refine` found."""
        return any(len(self._records[tensor].references) > planned for tensor in self._versions[number].tensors)

    def _depth(self, number: int) -> int:
        return max(self._records[tensor].depth for tensor in self._versions[number].tensors)

    def _stored(self, version: Version) -> int:
        return sum(self._records[tensor].stored_bytes for tensor in version.tensors)

    # 3. plan

    def _limits(self, family: _Family) -> Limits:
        """Return what restoring the versions of a family may take."""
        bounds = self._bounds
        limits = Limits.uniform(len(family.versions), bounds.max_depth)
        work = list(limits.work)
        depth = list(limits.depth)
        if bounds.max_restore is not None:
            for at, number in enumerate(family.versions, start=1):
                work[at] = int(work_in(bounds.max_restore) * self._versions[number].share)
        if bounds.keyframe_tips:
            for at in family.tips:
                depth[at] = 0
        return Limits(depth, work).lenient(family.graph)

    def _keeps(self, family: _Family) -> bool:
        """Whether a family keeps to the bounds as it is, as far as they are none of bytes."""
        limits = self._limits(family)
        for at, number in enumerate(family.versions, start=1):
            if self._depth(number) > limits.depth[at] or self._work(self._versions[number]) > limits.work[at]:
                return False
            # What was refined may need tensors of another family, which may be about to change.
            if not self._bounds.leaves_restoring_free and self._has_more(number, family.planned(at)):
                return False
        return True

    def _plan(self, families: list[_Family], kept: list[bool]) -> list[Plan | None]:
        """Return a plan for each family, None where everything is to stay."""
        solved = []
        for done, family in enumerate(families, start=1):
            present = _by_edges_of(family.leaning, family.present) if family.present is not None else None
            found = planner.solve(family.leaning, self._limits(family), present=present, stretches=family.stretches)
            solved.append(_by_edges_of(family.graph, found))
            self._progress("planning", done, len(families))
        least = sum(plan.nbytes for plan in solved)
        spare = max(0, self._bounds.budget - least) if self._bounds.budget is not None else 0
        is_over = spare > 0 and least + spare < sum(record.stored_bytes for record in self._records.values())
        plans: list[Plan | None] = []
        for family, plan, keeps in zip(families, solved, kept, strict=True):
            nbytes = sum(self._stored(self._versions[number]) for number in family.versions)
            if spare:
                budget = plan.nbytes + spare * plan.nbytes // max(1, least)
                plan = planner.solve(
                    family.graph,
                    self._limits(family),
                    budget=budget,
                    present=family.present,
                    stretches=family.stretches,
                )
                # How much is read samples foretell, but how much is decoded is known: no other gain would stay one.
                decoded = sum(self._decoded(self._versions[number]) for number in family.versions)
                is_better = is_over or self._decoded_by(family, plan) < decoded * (1 - _WORTHWHILE)
            else:
                is_better = plan.nbytes < nbytes * (1 - _WORTHWHILE)
            plans.append(plan if is_better or not keeps else None)
        return plans

    def _wanted(self, families: list[_Family], plans: list[Plan | None]) -> dict[int, tuple[int, ...]]:
        """Return the references of each tensor that is to be coded anew, bases first.

        References behind those of the plan, which `refine` found, stay where all bounds are kept with them.
        """
        after = {number: record.references for number, record in self._records.items()}
        limit = dict.fromkeys(after, planner.MAX_DEPTH)
        fewer: dict[int, tuple[int, ...]] = {}
        for family, plan in zip(families, plans, strict=True):
            depth = self._limits(family).depth
            for at in range(1, len(family.versions) + 1):
                for tensor, wanted, may_have_more in self._leant_on(family, plan, at):
                    now = after[tensor]
                    limit[tensor] = depth[at]
                    if not wanted or not may_have_more or now[: len(wanted)] != wanted:
                        after[tensor] = wanted
                    elif len(now) > len(wanted):
                        fewer[tensor] = wanted
        if not self._bounds.leaves_restoring_free:
            after |= fewer
        else:
            while gone := too_deep(after, limit) & fewer.keys():
                after |= {tensor: fewer.pop(tensor) for tensor in gone}
        depths = depths_of(after)
        changed = [number for number, record in self._records.items() if after[number] != record.references]
        return {number: after[number] for number in sorted(changed, key=lambda number: (depths[number], number))}

    def _leant_on(self, family: _Family, plan: Plan | None, at: int) -> Iterator[tuple[int, tuple[int, ...], bool]]:
        """Yield each tensor of a version, what it is to lean on, and whether it may lean on more behind that."""
        number = family.versions[at - 1]
        was = family.present.edges[at] if family.present is not None else None
        edge = plan.edges[at] if plan is not None else None
        owners = [family.versions[one - 1] for one in (edge.base, edge.second) if one] if edge is not None else []
        sides = [self._aligned[number, owner] for owner in owners]
        for place, tensor in enumerate(self._versions[number].tensors):
            now, planned = self._records[tensor].references, tuple(side[place] for side in sides)
            if edge is None:
                yield tensor, now[: family.planned(at)], True
            elif was is not None and was[:3] == edge[:3] and now == planned[: len(now)]:
                yield tensor, now, True  # tried already, and it was smaller without
            else:
                # A second reference that was planned goes with the plan: the base may not lead to it any more.
                yield tensor, planned, was is None or not was.second or bool(edge.second)

    # 4. recode

    def _recode(
        self,
        recoder: Recoder,
        wanted: dict[int, tuple[int, ...]],
        what: str,
        parameters: Mapping[int, codec.Parameters] | None = None,
    ) -> int:
        """Code tensors anew; return by how many bytes frames have grown."""
        grown = 0
        for done, (number, references) in enumerate(wanted.items(), start=1):
            grown += self._one(recoder, number, references, (parameters or {}).get(number))
            self._progress(what, done, len(wanted))
            if sum(recoder.waste.values()) > BATCH_BYTES:
                recoder.tidy()
        return grown

    def _restore(self, recoder: Recoder, before: Mapping[int, TensorRecord]) -> None:
        """Code tensors as they were, bases first in the order that chains had, by the very parameters."""
        back = sorted(before, key=lambda number: (before[number].depth, number))
        references = {number: before[number].references for number in back}
        parameters = {number: codec.Parameters.from_bytes(before[number].parameters) for number in back}
        self._recode(recoder, references, "coding back", parameters)

    def _one(
        self, recoder: Recoder, number: int, references: tuple[int, ...], parameters: codec.Parameters | None = None
    ) -> int:
        grown = 0
        base, *others = references or (0,)
        for _ in range(1000):
            try:
                return grown + recoder.recode(number, base, parameters, tuple(others))
            except StaleError:
                return grown  # somebody else dealt with it
            except TensorDamagedError:
                return grown
            except TooDeepError as error:
                # What leans on this tensor is in the way until its own turn comes. If it is this one, its base grew.
                if error.number == number:
                    return grown
                grown += recoder.recode(error.number, 0)
        raise CorruptError(f"tensor {number} cannot be coded anew: its chains do not end", hint="run modelvault fsck")

    def _refine(self) -> set[int]:
        """Code tensors by more references than were planned with, where that is smaller; return which ones."""
        with self._store.read() as txn:
            beside = find_moments(txn, self._look(txn))
        recoder = Recoder(self._repository, self._bounds.max_depth)
        done = set[int]()
        for place, found in enumerate(improvements(recoder, self._records, beside), start=1):
            if improve(recoder, found, self._records) < 0:
                done.add(found.number)
            self._progress("refining", place, len(self._records))
            if sum(recoder.waste.values()) > BATCH_BYTES:
                recoder.tidy()
        recoder.tidy()
        return done

    # report

    def _state(self) -> State:
        depths = [record.depth for record in self._records.values()]
        works = [self._work(version) for version in self._versions[1:]]
        return State(
            sum(record.stored_bytes for record in self._records.values()),
            max(depths, default=0),
            sum(depths) / max(1, len(depths)),
            max(works, default=0),
            sum(works) / max(1, len(works)),
        )

    def _work(self, version: Version) -> int:
        return sum(record.nbytes + record.stored_bytes for record in self._needed(version))

    def _decoded(self, version: Version) -> int:
        return sum(record.nbytes for record in self._needed(version))

    def _needed(self, version: Version) -> Iterator[TensorRecord]:
        """Yield what must be decoded for each tensor of a version, itself included."""
        for tensor in version.tensors:
            needed, todo = {tensor}, [tensor]
            while todo:
                record = self._records.get(todo.pop())
                if record is None:
                    continue
                yield record
                todo.extend(one for one in record.references if one not in needed)
                needed.update(record.references)

    def _decoded_by(self, family: _Family, plan: Plan) -> int:
        """Return the bytes that are decoded when every version of a family is restored on its own."""
        decoded = [0] * len(plan.edges)
        for at in plan.below(ROOT):
            decoded[at] = decoded[plan.edges[at].base] + self._versions[family.versions[at - 1]].nbytes
        return sum(decoded)

    def _predicted(self, families: list[_Family], plans: list[Plan | None]) -> State:
        nbytes = 0
        depths: list[int] = []
        works: list[int] = []
        for family, plan in zip(families, plans, strict=True):
            for at, number in enumerate(family.versions, start=1):
                version = self._versions[number]
                if plan is None:
                    nbytes += self._stored(version)
                    depths += [self._records[tensor].depth for tensor in version.tensors]
                    works.append(self._work(version))
                else:
                    nbytes += plan.edges[at].nbytes
                    depths += [plan.depth[at]] * len(version.tensors)
                    works.append(plan.work[at])
        return State(
            nbytes,
            max(depths, default=0),
            sum(depths) / max(1, len(depths)),
            max(works, default=0),
            sum(works) / max(1, len(works)),
        )


def _by_edges_of(graph: Graph, plan: Plan) -> Plan:
    """Return the same plan with what its edges cost in another graph of the same edges."""
    return Plan([graph.edge(edge.version, edge.base, edge.second) or edge for edge in plan.edges])


def _planned(way: _Way | Edge) -> int:
    """Return how many references a way to store a version has."""
    return int(way.base != ROOT) + int(way.second != ROOT)
