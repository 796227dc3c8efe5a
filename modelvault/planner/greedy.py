"""Plans grown one edge at a time.

`grow` is the modified Prim of Bhattacherjee et al. (Principles of dataset versioning, VLDB 2015, section 4.2): the
cheapest edge that keeps the limits, again and again. `spend` is LMG-All (arXiv 2402.11741): while bytes are left, the
change of one edge that takes most work off all restores for each byte it adds.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from modelvault.planner.graph import ROOT, Edge, Graph, Limits
from modelvault.planner.plan import Plan


def grow(graph: Graph, limits: Limits) -> Plan:
    """Return a plan within the limits, built from the cheapest edges first; keyframes where nothing else is allowed."""
    depth, work = [-1] * (graph.versions + 1), [0] * (graph.versions + 1)
    placed = [False] * (graph.versions + 1)
    placed[ROOT] = True
    chosen = list(graph.keyframe)
    queue: list[tuple[int, int, int, Edge]] = [(edge.nbytes, 0, edge.version, edge) for edge in graph.out[ROOT]]
    heapq.heapify(queue)
    left = graph.versions
    while left and queue:
        edge = heapq.heappop(queue)[3]
        version, base = edge.version, edge.base
        if placed[version]:
            continue
        chosen[version] = edge
        placed[version] = True
        left -= 1
        depth[version], work[version] = depth[base] + 1, work[base] + edge.work
        for onward in graph.out[version]:
            if onward.second or placed[onward.version]:
                continue
            if (
                depth[version] + 1 <= limits.depth[onward.version]
                and work[version] + onward.work <= limits.work[onward.version]
            ):
                heapq.heappush(queue, (onward.nbytes, depth[version] + 1, onward.version, onward))
    return Plan(chosen)


def spend(graph: Graph, plan: Plan, limits: Limits, budget: int) -> None:
    """Take work off a plan, changing it, as long as it stays within a budget of bytes."""
    size = [1] * (graph.versions + 1)
    for version in reversed(list(plan.below(ROOT))):
        size[plan.edges[version].base] += size[version]

    def gain(edge: Edge) -> tuple[float, int] | None:
        """Return (minus work saved a byte, bytes added) of a change, None if it saves nothing."""
        saved = (plan.work[edge.version] - plan.work[edge.base] - edge.work) * size[edge.version]
        added = edge.nbytes - plan.edges[edge.version].nbytes
        if saved <= 0:
            return None
        return (-saved / added if added > 0 else -saved * 2.0**40), added

    queue: list[tuple[float, Edge]] = []

    def offer(edge: Edge) -> None:
        found = gain(edge)
        if found is not None:
            heapq.heappush(queue, (found[0], edge))

    for into in graph.into[1:]:
        for edge in into:
            offer(edge)
    while queue:
        promised, edge = heapq.heappop(queue)
        found = gain(edge)
        if found is None:
            continue
        if found[0] > promised * (1 - 1e-12):  # worth less by now: look at it again when its turn comes
            heapq.heappush(queue, (found[0], edge))
            continue
        if plan.nbytes + found[1] > budget or not plan.is_possible(edge, limits):
            continue
        before = plan.edges[edge.version].base
        plan.change(edge)
        for base, sign in ((before, -1), (edge.base, 1)):
            while base:
                size[base] += sign * size[edge.version]
                base = plan.edges[base].base
        for version in (edge.version, *plan.below(edge.version)):
            for onward in graph.out[version]:
                offer(onward)
        for other in graph.into[edge.version]:
            offer(other)


def star(graph: Graph, limits: Limits) -> Plan:
    """Return the plan of fewest bytes in which all lean on one version, or on nothing where that is cheaper.

    A base that came late, and its fine-tunes: growing edge by edge starts elsewhere and never gets there.
    """
    saved = [0] * (graph.versions + 1)
    for centre in range(1, graph.versions + 1):
        saved[centre] = sum(graph.keyframe[edge.version].nbytes - edge.nbytes for edge in _rays(graph, limits, centre))
    best = list(graph.keyframe)
    for edge in _rays(graph, limits, saved.index(max(saved))):
        best[edge.version] = edge
    return Plan(best)


def _rays(graph: Graph, limits: Limits, centre: int) -> Iterator[Edge]:
    """Yield the edges by which others are smaller than alone where they lean on this version, itself a keyframe."""
    for edge in graph.out[centre]:
        if edge.second or edge.nbytes >= graph.keyframe[edge.version].nbytes or limits.depth[edge.version] < 1:
            continue
        if graph.keyframe[centre].work + edge.work <= limits.work[edge.version]:
            yield edge
