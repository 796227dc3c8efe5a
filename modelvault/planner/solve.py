"""The best plan that all methods together find.

Least bytes within limits: the least arborescence if that keeps them (then nothing is better, second references aside);
else dynamic programming on it, the modified Prim, the best star, the tree of least work and the plan in force, each
polished. Straight stretches are put into two-sided order where that is smaller. Least work within a budget of bytes:
LMG-All from there, and polishing at a price of work, which is searched for. Up to two dozen versions the optimum itself
is searched for.
"""

from __future__ import annotations

from collections.abc import Sequence

from modelvault.planner import arborescence, tree
from modelvault.planner.exhaust import fewest_bytes, least_work
from modelvault.planner.graph import Graph, Limits
from modelvault.planner.greedy import grow, spend, star
from modelvault.planner.plan import Plan
from modelvault.planner.search import polish, rearrange, shake
from modelvault.planner.stretch import two_sided

_SMALL = 48
"""Versions up to which every edge is forced in turn, which takes as many polishings as there are edges."""

_FEW = 24
"""Versions up to which the optimum is searched for: a dozen are solved to the end, of two dozen most are bettered."""

_PRICES = 14
"""Steps of the search for a price of work; each halves the logarithm of what is unknown."""


def bound(graph: Graph) -> int:
    """Return the bytes that no plan without second references can go below, whatever the limits."""
    return arborescence.least_bytes(graph).nbytes


def solve(
    graph: Graph,
    limits: Limits,
    *,
    budget: int | None = None,
    present: Plan | None = None,
    stretches: Sequence[Sequence[int]] = (),
) -> Plan:
    """Return the plan of fewest bytes within limits; with a budget, that of least work within both.

    Args:
        graph: versions and measured edges.
        limits: what restoring may take. A version whose keyframe takes more is a keyframe.
        budget: bytes that may be spent to make restores cheaper. If the fewest bytes are more, it changes nothing.
        present: the plan in force, to start from as well.
        stretches: versions that follow one another in a straight line.
    """
    limits = limits.lenient(graph)
    best = _least_bytes(graph, limits, present, stretches)
    if budget is None or best.nbytes >= budget:
        return best
    return _least_work(graph, limits, best, budget)


def _least_bytes(graph: Graph, limits: Limits, present: Plan | None, stretches: Sequence[Sequence[int]]) -> Plan:
    least = arborescence.least_bytes(graph)
    if least.keeps(limits):
        found = [least]
    else:
        found = [tree.by_depth(graph, least, limits), tree.by_work(graph, least, limits), grow(graph, limits)]
        found += [star(graph, limits), Plan.of_keyframes(graph), arborescence.least_work(graph)]
    if present is not None:
        found.insert(0, present.copy())
    best: Plan | None = None
    for plan in found:
        if not plan.keeps(limits):
            continue
        polish(graph, plan, limits)
        if best is None or (plan.nbytes, plan.total_work) < (best.nbytes, best.total_work):
            best = plan
    assert best is not None  # keyframes keep any limits
    for stretch in sorted(stretches, key=lambda versions: (-len(versions), versions[:1])):
        if len(stretch) > 2:
            best = two_sided(graph, best, limits, stretch)
    polish(graph, best, limits)
    if graph.versions > _SMALL:
        return best
    best = shake(graph, best, limits)
    return fewest_bytes(graph, limits, best) if graph.versions <= _FEW else best


def _least_work(graph: Graph, limits: Limits, least: Plan, budget: int) -> Plan:
    best = least.copy()
    spend(graph, best, limits, budget)
    found = [best]
    middle = max(1e-9, least.nbytes / max(1, least.total_work))
    low, high = middle / 2**_PRICES, middle * 2**_PRICES
    for _ in range(_PRICES):
        price = (low * high) ** 0.5
        trial = least.copy()
        polish(graph, trial, limits, price)
        if graph.versions <= _SMALL:
            trial = shake(graph, trial, limits, price, rounds=1)
        if trial.nbytes > budget:
            high = price
            continue
        low = price
        spend(graph, trial, limits, budget)
        found.append(trial)
    best = min(found, key=lambda plan: (plan.total_work, plan.nbytes))
    if graph.versions > _SMALL:
        return best
    best = rearrange(graph, best, limits, budget, low)
    return least_work(graph, limits, budget, best) if graph.versions <= _FEW else best
