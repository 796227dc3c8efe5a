"""Two-sided references in a straight stretch of history, at a depth that grows with the logarithm of its length.

The versions of a stretch are numbered from 0. Version `x` stands between `x - s` and `x + s`, where `s` is the lowest
bit that is set in `x`: 32 leans on 0; 16 on 32 and 0; 8 on 16 and 0, 24 on 16 and 32; and so on. One of the two always
leans on the other, so decoding the deeper one decodes both. If versions differ as the places of a random walk do, the
middle of a gap of 2s is known to half the variance that s steps forward leave, and the whole costs what a chain
costs: half of all versions save half a bit a number, a quarter break even, an eighth pay half a bit, and so on
(docs/planner.md). Further versions at the end never change what is before them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from modelvault.planner.graph import ROOT, Edge, Graph, Limits
from modelvault.planner.plan import Plan


def neighbours(place: int, length: int) -> tuple[int, int | None]:
    """Return the places that one leans on: the deeper one and the other, or one and None at the end of the stretch.

    >>> neighbours(24, 64), neighbours(16, 64), neighbours(48, 64), neighbours(48, 100)
    ((16, 32), (32, 0), (32, None), (32, 64))
    """
    step = place & -place
    before, after = place - step, place + step
    if after >= length:
        return before, None
    return (before, after) if before and before & -before == 2 * step else (after, before)


def wanted_edges(length: int) -> Iterator[tuple[int, int, int | None]]:
    """Yield (place, base, second) of every edge that is worth measuring in a stretch; their number is linear.

    Both neighbours in time, both in the two-sided order, and these two together.
    """
    for place in range(length):
        singles = {place - 1, place + 1}
        if place:
            base, second = neighbours(place, length)
            singles |= {base} if second is None else {base, second}
            if second is not None:
                yield place, base, second
        for base in sorted(singles):
            if 0 <= base < length:
                yield place, base, None


def two_sided(graph: Graph, plan: Plan, limits: Limits, stretch: Sequence[int]) -> Plan:
    """Return the plan with a stretch put into two-sided order, or the plan itself where that is no gain.

    Every spacing of keyframes from the whole stretch down to 2 is tried. The first version keeps its edge if that
    leads out of the stretch, and is a keyframe otherwise.

    Args:
        graph: has the edges that `wanted_edges` names, or some of them.
        plan: a plan within the limits.
        limits: what is to be kept.
        stretch: versions, in order.
    """
    best = plan
    first = plan.edges[stretch[0]]
    if first.base in stretch:
        first = graph.keyframe[stretch[0]]
    spacing = 1 << max(0, len(stretch) - 1).bit_length()
    while spacing > 1:
        edges = [first, *_ordered(graph, stretch, spacing)]
        if sum(e.nbytes for e in edges) < sum(best.edges[e.version].nbytes for e in edges):
            trial = _replaced(plan, edges)
            if trial is not None and trial.nbytes < best.nbytes and trial.keeps(limits):
                best = trial
        spacing //= 2
    return best


def _ordered(graph: Graph, stretch: Sequence[int], spacing: int) -> Iterable[Edge]:
    for place in range(1, len(stretch)):
        version = stretch[place]
        keyframe = graph.keyframe[version]
        if place % spacing == 0:
            yield keyframe
            continue
        base, second = neighbours(place, len(stretch))
        options = [keyframe]
        start = place - place % spacing
        for one in {base} if second is None else {base, second}:
            single = graph.edge(version, stretch[one]) if one < start + spacing else None
            if single is not None:
                options.append(single)
        if second is not None and max(base, second) < start + spacing:
            both = graph.edge(version, stretch[base], stretch[second])
            if both is not None:
                options.append(both)
        yield min(options, key=lambda edge: (edge.nbytes, edge.base != ROOT))


def _replaced(plan: Plan, edges: Iterable[Edge]) -> Plan | None:
    chosen = plan.edges[:]
    for edge in edges:
        chosen[edge.version] = edge
    try:
        return Plan(chosen)
    except ValueError:
        return None
