"""The cheapest tree of all, by bytes or by work: what no plan without second references can go below.

Edmonds' algorithm as Tarjan (Finding optimum branchings, Networks 7, 1977) arranges it: grow a path backwards along the
cheapest edges into each version; where it closes a cycle, contract that to one vertex, whose incoming edges cost less
by what was paid already; at the end expand the contracted cycles, last first. Heaps are merged small into large, so
it takes E log E log V steps.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from modelvault.planner.graph import ROOT, Edge, Graph
from modelvault.planner.plan import Plan


class _Union:
    """Disjoint sets whose joins can be taken back, last first."""

    def __init__(self, size: int) -> None:
        self._above = [-1] * size
        self._joins: list[tuple[int, int, int]] = []

    def find(self, member: int) -> int:
        while self._above[member] >= 0:
            member = self._above[member]
        return member

    def now(self) -> int:
        return len(self._joins)

    def join(self, one: int, other: int) -> None:
        one, other = self.find(one), self.find(other)
        if one == other:
            return
        if self._above[one] > self._above[other]:
            one, other = other, one
        self._joins.append((one, self._above[one], other))
        self._joins.append((other, self._above[other], other))
        self._above[one] += self._above[other]
        self._above[other] = one

    def back_to(self, moment: int) -> None:
        while len(self._joins) > moment:
            member, value, _ = self._joins.pop()
            self._above[member] = value


class _Heap:
    """Edges into one vertex by cost; all costs can be lowered at once."""

    __slots__ = ("entries", "paid")

    def __init__(self, entries: list[tuple[int, int]]) -> None:
        self.entries, self.paid = entries, 0  # entries: (cost + paid, index of the edge)

    def merged(self, other: _Heap) -> _Heap:
        small, large = (self, other) if len(self.entries) < len(other.entries) else (other, self)
        shift = large.paid - small.paid
        for cost, index in small.entries:
            heapq.heappush(large.entries, (cost + shift, index))
        return large


def least_bytes(graph: Graph) -> Plan:
    """Return the plan of the fewest bytes when nothing is limited and no edge has a second reference."""
    found = least_of(graph, [edge for into in graph.into[1:] for edge in into if not edge.second])
    assert found is not None  # every version has a keyframe
    return found


def least_of(graph: Graph, edges: Sequence[Edge]) -> Plan | None:
    """Return the plan of the fewest bytes that uses some of these edges only, None if they reach not every version."""
    heaps: list[_Heap | None] = [None] * (graph.versions + 1)
    into: list[list[tuple[int, int]]] = [[] for _ in range(graph.versions + 1)]
    for index, edge in enumerate(edges):
        into[edge.version].append((edge.nbytes, index))
    for version in range(1, graph.versions + 1):
        heapq.heapify(into[version])
        heaps[version] = _Heap(into[version])

    union = _Union(graph.versions + 1)
    chosen = [-1] * (graph.versions + 1)
    seen = [-1] * (graph.versions + 1)
    seen[ROOT] = ROOT
    cycles: list[tuple[int, int, list[int]]] = []
    for start in range(1, graph.versions + 1):
        vertex, path, taken = union.find(start), list[int](), list[int]()
        while seen[vertex] < 0:
            heap = heaps[vertex]
            assert heap is not None
            if not heap.entries:
                return None
            cost, index = heapq.heappop(heap.entries)
            heap.paid += cost - heap.paid
            path.append(vertex)
            taken.append(index)
            seen[vertex] = start
            vertex = union.find(edges[index].base)
            if seen[vertex] == start:  # round in a cycle: make one vertex of it
                moment, merged, cut = union.now(), None, len(path)
                while True:
                    cut -= 1
                    member = path[cut]
                    own = heaps[member]
                    assert own is not None
                    merged = own if merged is None else merged.merged(own)
                    is_last = member == vertex
                    union.join(vertex, member)
                    if is_last:
                        break
                vertex = union.find(vertex)
                heaps[vertex], seen[vertex] = merged, -1
                cycles.append((vertex, moment, taken[cut:]))
                del path[cut:], taken[cut:]
        for index in taken:
            chosen[union.find(edges[index].version)] = index
    for vertex, moment, ring in reversed(cycles):
        union.back_to(moment)
        entering = chosen[vertex]
        for index in ring:
            chosen[union.find(edges[index].version)] = index
        chosen[union.find(edges[entering].version)] = entering
    return Plan([Edge(0, 0, 0, 0, 0), *(edges[index] for index in chosen[1:])])


def least_work(graph: Graph) -> Plan:
    """Return the plan in which every version is restored with the least work, between equals with the fewest bytes."""
    best: dict[int, tuple[int, int]] = {ROOT: (0, 0)}
    chosen = list(graph.keyframe)
    queue = [(0, 0, ROOT)]
    done = set[int]()
    while queue:
        work, _, version = heapq.heappop(queue)
        if version in done:
            continue
        done.add(version)
        for edge in graph.out[version]:
            if edge.second:
                continue
            found = work + edge.work, edge.nbytes
            if edge.version not in done and (edge.version not in best or found < best[edge.version]):
                best[edge.version] = found
                chosen[edge.version] = edge
                heapq.heappush(queue, (*found, edge.version))
    return Plan(chosen)
