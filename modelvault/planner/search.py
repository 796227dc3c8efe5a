"""Small changes to a plan that make it better, until there is none.

What is made small is `bytes + price * work`, work summed over the restores of every version; at price 0 that is bytes.
Three kinds of change: another edge for one version; a version made shallower, at a cost, so that others may lean on
it; and, with effort, any edge forced upon a version, everything that no longer fits placed anew around it.
"""

from __future__ import annotations

from collections.abc import Iterable

from modelvault.planner.graph import ROOT, Edge, Graph, Limits
from modelvault.planner.greedy import spend
from modelvault.planner.plan import Plan

_PASSES = 12
"""Passes over all versions at most; it ends earlier where a pass changes nothing."""


def polish(graph: Graph, plan: Plan, limits: Limits, price: float = 0.0) -> None:
    """Improve a plan within its limits by changes of one version at a time."""
    for _ in range(_PASSES):
        before = _score(plan, price)
        _settle(graph, plan, limits, range(1, graph.versions + 1), price)
        _lift(graph, plan, limits, price)
        if _score(plan, price) >= before:
            break


def _score(plan: Plan, price: float) -> float:
    return plan.nbytes + price * plan.total_work if price else plan.nbytes


def _settle(graph: Graph, plan: Plan, limits: Limits, versions: Iterable[int], price: float) -> None:
    """Give each version the best edge that is possible, in turn."""
    for version in versions:
        present = plan.edges[version]
        size = 1 + sum(1 for _ in plan.below(version)) if price else 1
        cost = present.nbytes + price * size * plan.work[version]
        for edge in graph.into[version]:
            if not price and edge.nbytes > cost:
                break  # they are in order of their bytes
            found = edge.nbytes + price * size * (plan.work[edge.base] + edge.work)
            is_shallower = found == cost and plan.depth[edge.base] + 1 < plan.depth[version]
            if (found < cost or is_shallower) and edge != present and plan.is_possible(edge, limits):
                plan.change(edge)
                present, cost = edge, found


def _lift(graph: Graph, plan: Plan, limits: Limits, price: float) -> None:
    """Make a version shallower where others save more by leaning on it then than that costs."""
    height = _heights(plan)  # as it was at first: only to estimate with
    for version in range(1, graph.versions + 1):
        onward = [edge for edge in graph.out[version] if edge.nbytes < plan.edges[edge.version].nbytes]
        if not onward:
            continue
        most = sum(plan.edges[other.version].nbytes - other.nbytes for other in onward if not other.second)
        for edge in graph.into[version]:
            if plan.depth[edge.base] + 1 >= plan.depth[version] or edge == plan.edges[version]:
                continue
            if most <= edge.nbytes - plan.edges[version].nbytes or not plan.is_possible(edge, limits):
                continue
            depth = plan.depth[edge.base] + 1
            saved = sum(
                plan.edges[other.version].nbytes - other.nbytes
                for other in onward
                if not other.second and depth + 1 + height[other.version] <= limits.depth[other.version]
            )
            if saved <= edge.nbytes - plan.edges[version].nbytes:
                continue
            before, start = plan.edges[version], _score(plan, price)
            undo = [before]
            plan.change(edge)
            for other in onward:
                present = plan.edges[other.version]
                if other.nbytes < present.nbytes and plan.is_possible(other, limits):
                    undo.append(present)
                    plan.change(other)
            if _score(plan, price) < start:
                break
            for present in reversed(undo):
                plan.change(present)


def _heights(plan: Plan) -> list[int]:
    """Return how many links there are at most below each version."""
    height = [0] * len(plan.edges)
    for version in reversed(list(plan.below(ROOT))):
        base = plan.edges[version].base
        if base:
            height[base] = max(height[base], height[version] + 1)
    return height


def shake(graph: Graph, plan: Plan, limits: Limits, price: float = 0.0, rounds: int = 3) -> Plan:
    """Force every edge in turn, let the rest settle around it, and keep what is better.

    Takes as many polishings as there are edges, so it is for small graphs.
    """
    best = plan
    for _ in range(rounds):
        start = _score(best, price)
        for into in graph.into[1:]:
            for edge in into:
                if edge == best.edges[edge.version]:
                    continue
                trial = _forced(graph, best, limits, edge)
                if trial is None:
                    continue
                polish(graph, trial, limits, price)
                if _score(trial, price) < _score(best, price):
                    best = trial
        if _score(best, price) >= start:
            break
    return best


def rearrange(graph: Graph, plan: Plan, limits: Limits, budget: int, price: float) -> Plan:
    """Force every edge in turn as `shake` does, for less work within a budget of bytes."""
    best = plan
    for _ in range(3):
        start = best.total_work
        for into in graph.into[1:]:
            for edge in into:
                if edge == best.edges[edge.version]:
                    continue
                for charge in (price, price / 2, 0.0):
                    trial = _forced(graph, best, limits, edge)
                    if trial is None:
                        break
                    polish(graph, trial, limits, charge)
                    if trial.nbytes > budget:
                        continue
                    spend(graph, trial, limits, budget)
                    if trial.total_work < best.total_work:
                        best = trial
                    break
        if best.total_work >= start:
            break
    return best


def _forced(graph: Graph, plan: Plan, limits: Limits, edge: Edge) -> Plan | None:
    """Return the plan with one edge forced upon it, what is in its way made a keyframe; None if it cannot be."""
    trial = plan.copy()
    if edge.base:
        chain = [edge.base, *trial.chain(edge.base)]
        if edge.version in chain:  # what leads from the version to its new base is cut where it leaves the version
            first = chain[chain.index(edge.version) - 1]
            if not _cut(graph, trial, limits, first):
                return None
    if trial.depth[edge.base] + 1 > limits.depth[edge.version]:
        return None
    if trial.work[edge.base] + edge.work > limits.work[edge.version]:
        return None
    if edge.second and edge.second not in trial.chain(edge.base):
        return None
    for other in list(trial.children[edge.version]):
        if trial.is_possible(edge, limits):
            break
        if not _cut(graph, trial, limits, other):
            return None
    if not trial.is_possible(edge, limits):
        return None
    trial.change(edge)
    return trial


def _cut(graph: Graph, plan: Plan, limits: Limits, version: int) -> bool:
    """Make a version a keyframe, and what leaned on it through a second reference that is gone as well."""
    keyframe = graph.keyframe[version]
    if plan.is_possible(keyframe, limits):
        plan.change(keyframe)
        return True
    inside = {version, *plan.below(version)}
    for other in list(plan.below(version)):
        edge = plan.edges[other]
        if edge.second and edge.second not in inside:
            single = graph.edge(other, edge.base) or graph.keyframe[other]
            if not plan.is_possible(single, limits):
                return False
            plan.change(single)
    if not plan.is_possible(keyframe, limits):
        return False
    plan.change(keyframe)
    return True
