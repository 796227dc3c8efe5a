"""The whole history planned anew, and coded so: the same bytes, the same ids, less space or shorter chains.

    1. Versions: tensors that are planned as one, and what follows what (`versions`).
    2. Measure: a sample of each version, coded as keyframe and against each reference worth a try (`families`).
    3. Plan: `planner.solve` on what was measured. Where that saves too little, everything stays.
    4. Recode, bases first: each tensor in a transaction of its own (`recode.Recoder`), verified.

Killed at any moment, a vault is complete: some tensors are coded by the new plan and some by the old. The next repack
measures and plans again, finds most of its work done, and does the rest. If samples were wrong and the vault has grown
in the end, it is coded back, and the next repack knows (`attempts`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from modelvault import codec, planner, wire
from modelvault.errors import CorruptError, UsageError
from modelvault.objects.tensor import TensorRecord
from modelvault.planner import ROOT, Graph, Limits, Plan
from modelvault.repository.attempts import digest_of, note_for_nothing, was_for_nothing
from modelvault.repository.chains import StaleError, TooDeepError, depths_of, too_deep
from modelvault.repository.chunks import TensorDamagedError
from modelvault.repository.cost import work_in
from modelvault.repository.families import Families, Family, Progress
from modelvault.repository.gc import DEFAULT_GRACE
from modelvault.repository.kept import Kept, State
from modelvault.repository.liveness import Cutoff, Liveness, mark
from modelvault.repository.moments import find_moments
from modelvault.repository.packs import BATCH_BYTES, next_number
from modelvault.repository.recode import Recoder
from modelvault.repository.refine import improve, improvements
from modelvault.repository.repository import Repository
from modelvault.repository.resketch import enter_forgotten
from modelvault.repository.version_samples import VersionSamples
from modelvault.repository.versions import find_versions
from modelvault.store.base import ReadTransaction

_WORTHWHILE = 0.01
"""A plan that saves less than this share of a family's bytes is not worth coding anything anew: samples are right to a
few per cent, and what is left alone cannot go wrong. It is also why a second repack changes nothing."""

_ROUNDS = 4
"""How often it is measured and planned at most. What tensors really take then changes what is worth a try, and what the
rest of a budget buys. Two do for nearly all; the last of them finds nothing to do."""


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
        self._kept = Kept({}, [])
        self._known: dict[tuple[int, ...], int] = {}  # what was measured
        self._attempt = b""  # what was foreseen last
        self._saves_only = False  # all other bounds are kept already, so that there is nothing to gain but bytes

    def run(self, dry_run: bool) -> Repacked:
        """Measure, plan, and unless it is a dry run, code anew."""
        with self._store.read() as txn:
            floors = {table: next_number(txn, table) for table in ("tensors", "packs", "templates")}
        wanted, report = self._foreseen()
        refines = self._bounds.thorough and self._bounds.leaves_restoring_free
        if not dry_run:
            enter_forgotten(self._repository, self._kept.records)
        if dry_run or not (wanted or refines):
            return report._replace(after=report.after if wanted else report.before)
        with self._store.open_session(floors):
            done, undone = self._settle(wanted)
            if refines and (refined := self._refine()):
                done |= refined | self._settle(self._foreseen()[0])[0]
        self._repository.give_back()
        self._look()
        return report._replace(after=self._kept.state(), recoded=len(done), undone=undone and not done)

    def _settle(self, wanted: dict[int, tuple[int, ...]]) -> tuple[set[int], bool]:
        """Code anew what is wanted, and then; return what changed, and whether the end was taken back."""
        done, undone = set[int](), False
        recoder = Recoder(self._repository)
        for _ in range(_ROUNDS):
            if not wanted:
                break
            attempt, present = self._attempt, dict(self._kept.records)
            undone = self._recode(recoder, wanted, present, "coding anew") > 0 and self._saves_only
            if undone:
                self._restore(recoder, self._changed(present), present)
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
        self._look()
        after = self._kept.records
        return {
            number
            for number, record in before.items()
            if number not in after
            or (after[number].references, after[number].stored_bytes) != (record.references, record.stored_bytes)
        }

    def _foreseen(self) -> tuple[dict[int, tuple[int, ...]], Repacked]:
        """Measure and plan; return the references of what is to be coded anew, bases first, and what is foreseen."""
        with self._store.read() as txn:
            live, records = _live_records(txn)
            self._kept = Kept(records, find_versions(txn, live))
        versions, bounds = self._kept.versions, self._bounds
        samples = VersionSamples(self._store, versions, records, thorough=bounds.thorough)
        measuring = Families(
            self._kept, samples, self._known, self._progress, leaves_restoring_free=bounds.leaves_restoring_free
        )
        families = measuring.measure()
        kept = [self._keeps(family) for family in families]
        self._saves_only = all(kept) and bounds.budget is None
        plans = self._plan(families, kept)
        wanted, after = self._wanted(measuring, families, plans), self._predicted(families, plans)
        self._attempt = digest_of(wanted, self._kept.references(wanted), after.nbytes)
        with self._store.read() as txn:
            if wanted and was_for_nothing(txn, self._attempt):
                wanted = {}
        return wanted, Repacked(
            self._kept.state(),
            after,
            len(records),
            len(wanted),
            len(versions) - 1,
            sum(len(family.graph) for family in families),
            sum(planner.bound(family.graph) for family in families),
        )

    def _look(self) -> None:
        """Read anew how live tensors are kept."""
        with self._store.read() as txn:
            self._kept = Kept(_live_records(txn)[1], self._kept.versions)

    # plan

    def _limits(self, family: Family) -> Limits:
        """Return what restoring the versions of a family may take."""
        bounds = self._bounds
        limits = Limits.uniform(len(family.versions), bounds.max_depth)
        work = list(limits.work)
        depth = list(limits.depth)
        if bounds.max_restore is not None:
            for at, number in enumerate(family.versions, start=1):
                work[at] = int(work_in(bounds.max_restore) * self._kept.versions[number].share)
        if bounds.keyframe_tips:
            for at in family.tips:
                depth[at] = 0
        return Limits(depth, work).lenient(family.graph)

    def _keeps(self, family: Family) -> bool:
        """Whether a family keeps to the bounds as it is, as far as they are none of bytes."""
        limits = self._limits(family)
        for at, number in enumerate(family.versions, start=1):
            if self._kept.depth(number) > limits.depth[at] or self._kept.work(number) > limits.work[at]:
                return False
            # What was refined may need tensors of another family, which may be about to change.
            if not self._bounds.leaves_restoring_free and self._kept.has_more(number, family.planned(at)):
                return False
        return True

    def _plan(self, families: list[Family], kept: list[bool]) -> list[Plan | None]:
        """Return a plan for each family, None where everything is to stay."""
        solved = []
        for done, family in enumerate(families, start=1):
            present = _by_edges_of(family.leaning, family.present) if family.present is not None else None
            found = planner.solve(family.leaning, self._limits(family), present=present, stretches=family.stretches)
            solved.append(_by_edges_of(family.graph, found))
            self._progress("planning", done, len(families))
        least = sum(plan.nbytes for plan in solved)
        spare = max(0, self._bounds.budget - least) if self._bounds.budget is not None else 0
        is_over = spare > 0 and least + spare < self._kept.stored_bytes
        plans: list[Plan | None] = []
        for family, plan, keeps in zip(families, solved, kept, strict=True):
            nbytes = sum(self._kept.stored(number) for number in family.versions)
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
                decoded = sum(self._kept.decoded(number) for number in family.versions)
                is_better = is_over or self._decoded_by(family, plan) < decoded * (1 - _WORTHWHILE)
            else:
                is_better = plan.nbytes < nbytes * (1 - _WORTHWHILE)
            plans.append(plan if is_better or not keeps else None)
        return plans

    def _wanted(
        self, measuring: Families, families: list[Family], plans: list[Plan | None]
    ) -> dict[int, tuple[int, ...]]:
        """Return the references of each tensor that is to be coded anew, bases first.

        References behind those of the plan, which `refine` found, stay where all bounds are kept with them.
        """
        after = {number: record.references for number, record in self._kept.records.items()}
        limit = dict.fromkeys(after, planner.MAX_DEPTH)
        fewer: dict[int, tuple[int, ...]] = {}
        for family, plan in zip(families, plans, strict=True):
            depth = self._limits(family).depth
            for at in range(1, len(family.versions) + 1):
                for tensor, wanted, may_have_more in self._leant_on(measuring, family, plan, at):
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
        changed = [number for number, record in self._kept.records.items() if after[number] != record.references]
        return {number: after[number] for number in sorted(changed, key=lambda number: (depths[number], number))}

    def _leant_on(
        self, measuring: Families, family: Family, plan: Plan | None, at: int
    ) -> Iterator[tuple[int, tuple[int, ...], bool]]:
        """Yield each tensor of a version, what it is to lean on, and whether it may lean on more behind that."""
        number = family.versions[at - 1]
        was = family.present.edges[at] if family.present is not None else None
        edge = plan.edges[at] if plan is not None else None
        owners = [family.versions[one - 1] for one in (edge.base, edge.second) if one] if edge is not None else []
        sides = measuring.sides(number, owners)
        for place, tensor in enumerate(self._kept.versions[number].tensors):
            now, planned = self._kept.records[tensor].references, tuple(side[place] for side in sides)
            if edge is None:
                yield tensor, now[: family.planned(at)], True
            elif was is not None and was[:3] == edge[:3] and now == planned[: len(now)]:
                yield tensor, now, True  # tried already, and it was smaller without
            else:
                # A second reference that was planned goes with the plan: the base may not lead to it any more.
                yield tensor, planned, was is None or not was.second or bool(edge.second)

    # recode

    def _recode(
        self,
        recoder: Recoder,
        wanted: Mapping[int, tuple[int, ...]],
        before: Mapping[int, TensorRecord],
        what: str,
    ) -> int:
        """Code tensors anew; return by how many bytes frames have grown.

        Args:
            recoder: does it.
            wanted: what each is to lean on, bases first.
            before: how tensors were. One that is to lean on the same again is coded by the very parameters.
            what: the word for it.
        """
        grown = 0
        aside = dict[int, None]()
        for done, number in enumerate(wanted, start=1):
            grown += self._one(recoder, number, wanted[number], before, aside)
            aside.pop(number, None)
            self._progress(what, done, len(wanted))
            if sum(recoder.waste.values()) > BATCH_BYTES:
                recoder.tidy()
        # What was in the way and has no turn of its own, or had it before, goes back to where it belongs.
        for number in sorted(aside, key=lambda number: (before[number].depth, number)):
            references = wanted.get(number, before[number].references)
            grown += self._one(recoder, number, references, before, {})
        return grown

    def _restore(self, recoder: Recoder, changed: Iterable[int], before: Mapping[int, TensorRecord]) -> None:
        """Code tensors as they were, bases first in the order that chains had."""
        back = sorted(changed, key=lambda number: (before[number].depth, number))
        self._recode(recoder, {number: before[number].references for number in back}, before, "coding back")

    def _one(
        self,
        recoder: Recoder,
        number: int,
        references: tuple[int, ...],
        before: Mapping[int, TensorRecord],
        aside: dict[int, None],
    ) -> int:
        """Code a tensor anew, and set aside what is in its way; return by how many bytes frames have grown."""
        grown = 0
        base, *others = references or (0,)
        parameters = None
        if number in before and before[number].references == references:
            parameters = codec.Parameters.from_bytes(before[number].parameters)
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
                if error.number in before:
                    aside[error.number] = None
        raise CorruptError(f"tensor {number} cannot be coded anew: its chains do not end", hint="run modelvault fsck")

    def _refine(self) -> set[int]:
        """Code tensors by more references than were planned with, where that is smaller; return which ones."""
        with self._store.read() as txn:
            live, records = _live_records(txn)
            beside = find_moments(txn, live)
        recoder = Recoder(self._repository, self._bounds.max_depth)
        done = set[int]()
        for place, found in enumerate(improvements(recoder, records, beside), start=1):
            if improve(recoder, found, records) < 0:
                done.add(found.number)
            self._progress("refining", place, len(records))
            if sum(recoder.waste.values()) > BATCH_BYTES:
                recoder.tidy()
        recoder.tidy()
        return done

    # report

    def _decoded_by(self, family: Family, plan: Plan) -> int:
        """Return the bytes that are decoded when every version of a family is restored on its own."""
        decoded = [0] * len(plan.edges)
        for at in plan.below(ROOT):
            decoded[at] = decoded[plan.edges[at].base] + self._kept.versions[family.versions[at - 1]].nbytes
        return sum(decoded)

    def _predicted(self, families: list[Family], plans: list[Plan | None]) -> State:
        nbytes = 0
        depths: list[int] = []
        works: list[int] = []
        for family, plan in zip(families, plans, strict=True):
            for at, number in enumerate(family.versions, start=1):
                tensors = self._kept.versions[number].tensors
                if plan is None:
                    nbytes += self._kept.stored(number)
                    depths += [self._kept.records[tensor].depth for tensor in tensors]
                    works.append(self._kept.work(number))
                else:
                    nbytes += plan.edges[at].nbytes
                    depths += [plan.depth[at]] * len(tensors)
                    works.append(plan.work[at])
        return State.of(nbytes, depths, works)


def _live_records(txn: ReadTransaction) -> tuple[Liveness, dict[int, TensorRecord]]:
    """Return what lives, and the records of all tensors among it that are not damaged."""
    live = mark(txn, Cutoff(0, int((time.time() - DEFAULT_GRACE) * 1000) + 1))
    records = {}
    for key, value in txn.scan("tensors"):
        number = wire.read_sortable(key)
        if live.wants(number) and number not in live.damaged:
            records[number] = TensorRecord.from_bytes(value)
    return live, records


def _by_edges_of(graph: Graph, plan: Plan) -> Plan:
    """Return the same plan with what its edges cost in another graph of the same edges."""
    return Plan([graph.edge(edge.version, edge.base, edge.second) or edge for edge in plan.edges])
