"""What versions could lean on: families of such as are worth a try, and what each way to store one would take.

Versions of a family are those that follow one another, however far, or have tensors of the same dtype and lengths. Each
is measured as a keyframe, and against whatever may pay: neighbours in time, both ends of branches, the two-sided order,
the beginnings of lines against each other, and those that many gain by.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from modelvault import planner
from modelvault.planner import ROOT, Edge, Graph, Plan
from modelvault.repository.chunks import TensorDamagedError
from modelvault.repository.kept import Kept
from modelvault.repository.recode import is_computed
from modelvault.repository.threads import in_order
from modelvault.repository.version_samples import VersionSamples
from modelvault.repository.versions import Line, find_lines

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

Progress = Callable[[str, int, int], None]
"""Told what is done, how many of it, and of how many."""


class _Way(NamedTuple):
    """How a version could be stored: alone, or against one version or two."""

    version: int
    base: int
    second: int


class Family(NamedTuple):
    """Versions that could lean on one another.

    Attributes:
        versions: their numbers; the first has place 1 in the graph.
        graph: what each way to store one takes.
        leaning: the same, but what is in place counts as a little smaller than it is.
        present: how they are stored now; None if no plan can say it.
        stretches: places of those that follow one another in a straight line.
        tips: places of the newest of every line.
    """

    versions: tuple[int, ...]
    graph: Graph
    leaning: Graph
    present: Plan | None
    stretches: list[list[int]]
    tips: frozenset[int]

    def planned(self, at: int) -> int:
        """Return how many references the tensors of a version have now by a plan; what is behind these is more."""
        return planned_of(self.present.edges[at]) if self.present is not None else 1


class Families:
    """Finds families, and measures.

    Args:
        kept: all live tensors.
        samples: foretells what a version takes.
        known: what was measured before, by how many tensors a version has, the first of them, and its references.
        leaves_restoring_free: whether nothing is said of what restoring may take, but how long chains are.
        progress: told of what is measured.
    """

    def __init__(
        self,
        kept: Kept,
        samples: VersionSamples,
        known: dict[tuple[int, ...], int],
        progress: Progress,
        *,
        leaves_restoring_free: bool,
    ) -> None:
        self._kept, self._samples, self._known, self._progress = kept, samples, known, progress
        self._records, self._versions = kept.records, kept.versions
        self._leaves_restoring_free = leaves_restoring_free
        self._owners = {tensor: at for at, version in enumerate(self._versions) for tensor in version.tensors}
        self._aligned: dict[tuple[int, int], tuple[int, ...]] = {}  # (version, reference) -> references of its tensors

    def measure(self) -> list[Family]:
        """Return all families, measured."""
        return [self._measure(lines) for lines in self._related(find_lines(self._versions))]

    def sides(self, number: int, bases: Sequence[int]) -> list[tuple[int, ...]]:
        """Return for each of some versions that one could lean on what its tensors would lean on."""
        return [self._aligned[number, base] for base in bases]

    def _related(self, lines: list[Line]) -> list[list[Line]]:
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
            shape = self._versions[head].dtype, *self._kept.shape(head)
            above[find(head)] = find(heads.setdefault(shape, head))
        found: dict[int, list[Line]] = {}
        for line in lines:
            found.setdefault(find(line.versions[0]), []).append(line)
        return list(found.values())

    def _measure(self, family: list[Line]) -> Family:
        numbers = tuple(sorted(one for line in family for one in line.versions))
        place = {number: at for at, number in enumerate(numbers, start=1)}
        pairs = list(dict.fromkeys(self._pairs(family)))
        measured = self._measured([_Way(one, ROOT, ROOT) for one in numbers] + pairs)
        if _ALL < len(numbers) <= _MANY:
            measured |= self._measured(list(self._liked(numbers, measured)))
        present, broken = self._present(numbers, measured)
        factor = self._factors(present, measured)
        edges = []
        for way, nbytes in measured.items():
            one = way.version
            size = round(nbytes * factor[one][way.base != ROOT])
            if present[one] == way and (self._leaves_restoring_free or not self._kept.has_more(one, planned_of(way))):
                size = self._kept.stored(one)
            bases = place.get(way.base, ROOT), place.get(way.second, ROOT)
            edges.append(Edge(place[one], *bases, size, self._versions[one].nbytes + size))
        have = {edge.version for edge in edges if edge.base == ROOT}
        for one in numbers:  # what cannot be decoded is worth what it takes
            if place[one] not in have:
                size = self._kept.stored(one)
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
        return Family(numbers, graph, leaning, now, stretches, frozenset(place[line.versions[-1]] for line in family))

    def _measured(self, ways: list[_Way]) -> dict[_Way, int]:
        """Return what each way would take; those that need what is damaged are left out."""

        def measure(way: _Way) -> tuple[_Way, int] | None:
            try:
                sides = self.sides(way.version, [base for base in (way.base, way.second) if base != ROOT])
                tensors = self._versions[way.version].tensors
                key = len(tensors), tensors[0], *(side[0] for side in sides)
                if key not in self._known:
                    self._known[key] = self._samples.measure(way.version, *sides)
                return way, self._known[key]
            except TensorDamagedError:
                return None  # fsck's to report; it stays as it is

        found: dict[_Way, int] = {}
        is_long = max((self._samples.size(way.version) for way in ways), default=0) >= _LONG_SAMPLE
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
                if one != base and (one, base) not in self._aligned and self._kept.shape(one) == self._kept.shape(base):
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
                if (one, other) not in self._aligned and self._kept.shape(one) == self._kept.shape(other):
                    yield self._pair(one, other, self._versions[other].tensors)
        for number in (one for line in family for one in line.versions):
            bases = {self._records[tensor].base for tensor in self._versions[number].tensors}
            if 0 not in bases:  # what it leans on now
                owners = {self._owners.get(base) for base in bases}
                owner = owners.pop() if len(owners) == 1 else None
                if owner is not None and (number, owner) not in self._aligned:
                    yield self._pair(number, owner, [self._records[t].base for t in self._versions[number].tensors])

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
            actual = self._kept.stored(number)
            if self._kept.has_more(number, planned_of(way)):
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
        sides = self.sides(version, bases)
        there = 0
        for place, tensor in enumerate(self._versions[version].tensors):
            record, references = self._records[tensor], tuple(side[place] for side in sides)
            if record.references[: len(references)] == references and bool(record.base) == bool(references):
                there += record.nbytes
        share = there / max(1, self._versions[version].nbytes)
        return edge._replace(nbytes=round(edge.nbytes * (1 - _STAYING * share)))


def planned_of(way: _Way | Edge) -> int:
    """Return how many references a way to store a version has."""
    return int(way.base != ROOT) + int(way.second != ROOT)
