"""Small graphs, solved to the end: branch and bound over the least arborescence.

If the least arborescence breaks a limit, some chain in it is too long or too dear, and every plan that keeps the limits
lacks one edge of that chain. So: leave out the first; or keep the first and leave out the second; and so on. What
costs more than the best plan known is not followed; what breaks limits is mended, which often finds a better one.
Second references are not looked at.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from modelvault.planner.arborescence import least_of
from modelvault.planner.graph import ROOT, Edge, Graph, Limits
from modelvault.planner.plan import Plan
from modelvault.planner.search import polish

_MOST = 1500
"""Arborescences looked at. Of 160 random graphs of 3 to 12 versions all were solved to the optimum HiGHS proves."""


def exhaust(graph: Graph, limits: Limits, best: Plan) -> Plan:
    """Return a plan of fewer bytes than `best`, or that: the optimum without second references, if time allowed."""
    usable = [edge for into in graph.into[1:] for edge in into if not edge.second and _fits(graph, edge, limits)]
    queue: list[tuple[int, int, frozenset[Edge], frozenset[Edge]]] = []
    plans: dict[int, Plan] = {}
    count = 0

    def look(kept: frozenset[Edge], out: frozenset[Edge]) -> None:
        nonlocal count
        count += 1
        fixed = {edge.version: edge for edge in kept}
        found = least_of(graph, [e for e in usable if e not in out and fixed.get(e.version, e) == e])
        if found is not None and found.nbytes < best.nbytes:
            plans[count] = found
            heapq.heappush(queue, (found.nbytes, count, kept, out))

    look(frozenset(), frozenset())
    while queue and count < _MOST:
        nbytes, number, kept, out = heapq.heappop(queue)
        plan = plans.pop(number)
        if nbytes >= best.nbytes:
            break
        chain = _broken(plan, limits)
        if not chain:
            return plan  # nothing cheaper is left
        mended = _mended(graph, plan, limits)
        if mended.nbytes < best.nbytes:
            best = mended
        for place, edge in enumerate(chain):
            if edge not in kept:
                look(kept.union(chain[:place]), out | {edge})
    return best


def _fits(graph: Graph, edge: Edge, limits: Limits) -> bool:
    """Whether any plan within limits could use an edge: its base as shallow and as cheap as can be."""
    if edge.base == ROOT:
        return edge.work <= limits.work[edge.version]
    least = min(into.work for into in graph.into[edge.base])
    return limits.depth[edge.version] > 0 and least + edge.work <= limits.work[edge.version]


def _mended(graph: Graph, plan: Plan, limits: Limits) -> Plan:
    """Return a plan with keyframes where limits were broken, and polished."""
    trial = plan.copy()
    for version in plan.below(ROOT):
        if trial.depth[version] > limits.depth[version] or trial.work[version] > limits.work[version]:
            trial.change(graph.keyframe[version])
    polish(graph, trial, limits)
    return trial


def _broken(plan: Plan, limits: Limits) -> Sequence[Edge]:
    """Return the edges of a shortest chain that breaks a limit, from the root on."""
    worst: list[Edge] | None = None
    for version in range(1, len(plan.edges)):
        if plan.depth[version] > limits.depth[version] or plan.work[version] > limits.work[version]:
            chain = [plan.edges[version], *(plan.edges[base] for base in plan.chain(version))]
            if worst is None or len(chain) < len(worst):
                worst = chain
    return worst[::-1] if worst else []
