"""Small graphs, solved to the end: the fewest bytes within limits, or the least work within limits and a budget.

Both searches keep, for each version, the edges it may still use, and drop those that no plan better than the best known
can use: because even the shallowest and cheapest base would break a limit, because the other versions leave too few
bytes for it, or because a second reference is not on the chain that is left.

`fewest_bytes` branches over the least arborescence. If that breaks a limit, some chain in it is too long or too dear,
and every plan that keeps the limits lacks one edge of that chain. So: leave out the first; or keep the first and leave
out the second; and so on.

`least_work` prices bytes as Lagrange does: with a price for each byte and every base restored as cheaply as may be,
each version takes the edge that is cheapest, and what that costs, less the price of the budget, no plan can go below.
The price that bounds best is searched for, and an edge that would raise the bound above the best plan known is
dropped. Then the version whose choice matters most takes each of its edges in turn.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from modelvault.planner.arborescence import least_of
from modelvault.planner.graph import ROOT, Edge, Graph, Limits
from modelvault.planner.plan import Plan
from modelvault.planner.search import polish

_MOST = 50_000
"""States looked at by `least_work`: some five seconds. Of 550 random graphs of 3 to 12 versions one needed more than
10,000, and the plan it had by then took 7 % more work than the best; most need a few hundred."""

_MOST_WHEN_LARGE, _LARGE = 10_000, 12
"""States with more versions than so many, where it seldom ends."""

_MOST_TREES = 4000
"""Arborescences looked at by `fewest_bytes`, each some ten times as dear."""

_PRICES = 10
"""Steps of the search for the price of a byte, in each state."""

_FAR = 1 << 63

Domains = list[list[Edge]]
"""By version, the edges it may use; what stands at 0 is empty."""


def fewest_bytes(graph: Graph, limits: Limits, best: Plan, most: int = _MOST_TREES) -> Plan:
    """Return the plan of fewest bytes, or of fewer than `best` has, or that, if it takes too long.

    Args:
        graph: versions and measured edges.
        limits: what restoring may take.
        best: a plan within the limits.
        most: arborescences looked at.
    """
    queue: list[tuple[int, int, Plan, Domains]] = []
    count = 0

    def look(domains: Domains) -> None:
        nonlocal count
        count += 1
        left = _narrowed(domains, limits, best.nbytes - 1)
        if left is None:
            return
        found = least_of(graph, [edge for options in left[0] for edge in options])
        if found is not None and found.nbytes < best.nbytes:
            heapq.heappush(queue, (found.nbytes, count, found, left[0]))

    look(graph.into)
    while queue and count < most:
        nbytes, _, plan, domains = heapq.heappop(queue)
        if nbytes >= best.nbytes:
            break
        chain = _broken(plan, limits)
        if not chain:
            return plan  # nothing cheaper is left
        mended = _mended(graph, plan, limits)
        polish(graph, mended, limits)
        if mended.nbytes < best.nbytes:
            best = mended
        for place, edge in enumerate(chain):
            if len(domains[edge.version]) > 1:
                onward = domains[:]
                for kept in chain[:place]:
                    onward[kept.version] = [kept]
                onward[edge.version] = [other for other in onward[edge.version] if other != edge]
                look(onward)
    return best


def least_work(graph: Graph, limits: Limits, budget: int, best: Plan, most: int | None = None) -> Plan:
    """Return the plan whose restores take the least work together, or less than those of `best`, or that.

    Args:
        graph: versions and measured edges.
        limits: what restoring may take.
        budget: the most bytes.
        best: a plan within limits and budget.
        most: states looked at; if not said, as many as take a few seconds.
    """
    if most is None:
        most = _MOST if graph.versions <= _LARGE else _MOST_WHEN_LARGE
    step = math.gcd(*(edge.work for into in graph.into for edge in into))
    search = _LeastWork(limits, budget, best, max(1, step), most)
    search.visit(graph.into, 1.0)
    return search.best


class _LeastWork:
    """One search; `best` is the best plan so far."""

    def __init__(self, limits: Limits, budget: int, best: Plan, step: int, most: int) -> None:
        self.best = best
        self._limits, self._budget, self._left = limits, budget, most
        self._step = step  # all work is a multiple of it, so what is better is better by so much

    def visit(self, domains: Domains, price: float) -> None:
        """Look at all plans that these edges make."""
        self._left -= 1
        if self._left < 0:
            return
        while True:
            narrowed = _narrowed(domains, self._limits, self._budget)
            if narrowed is None:
                return
            domains, work = narrowed
            floor, price = self._bound(domains, work, price)
            target = self.best.total_work - self._step + 1e-6
            if floor > target:
                return
            fewer: Domains = [[]]
            for options in domains[1:]:
                costs = [work[edge.base] + edge.work + price * edge.nbytes for edge in options]
                spare = target - floor + min(costs)
                fewer.append([edge for edge, cost in zip(options, costs, strict=True) if cost <= spare])
            is_same = all(len(one) == len(other) for one, other in zip(fewer, domains, strict=True))
            domains = fewer
            if is_same:
                break
        if all(len(options) == 1 for options in domains[1:]):
            self._enter(domains)
            return
        version = _most_decisive(domains, work, price)
        for edge in sorted(domains[version], key=lambda edge: work[edge.base] + edge.work + price * edge.nbytes):
            onward = domains[:]
            onward[version] = [edge]
            self.visit(onward, price)

    def _bound(self, domains: Domains, work: Sequence[int], price: float) -> tuple[float, float]:
        """Return the highest bound on the work of any plan that was found, and its price of a byte."""
        best, at = -1.0, price
        low, high = 0.0, 0.0  # high: 0 while unknown
        for _ in range(_PRICES):
            floor, nbytes = -price * self._budget, 0
            for options in domains[1:]:
                least, chosen = float(_FAR), 0
                for edge in options:
                    cost = work[edge.base] + edge.work + price * edge.nbytes
                    if cost < least:
                        least, chosen = cost, edge.nbytes
                floor += least
                nbytes += chosen
            if floor > best:
                best, at = floor, price
            if nbytes > self._budget:
                low = price
                price = (low + high) / 2 if high else price * 2
            elif price == 0:
                break
            else:
                high = price
                price = (low + high) / 2
        return best, at

    def _enter(self, domains: Domains) -> None:
        try:
            plan = Plan([Edge(0, 0, 0, 0, 0), *(options[0] for options in domains[1:])])
        except ValueError:
            return  # a cycle
        if plan.nbytes <= self._budget and plan.total_work < self.best.total_work and plan.keeps(self._limits):
            self.best = plan


def _narrowed(domains: Domains, limits: Limits, budget: int) -> tuple[Domains, list[int]] | None:
    """Return what is left when edges that break a limit go, and the least work of each version; None if nothing is."""
    size = len(domains)
    while True:
        work, depth = [0] + [_FAR] * (size - 1), [-1] + [_FAR] * (size - 1)
        is_lower = True
        while is_lower:
            is_lower = False
            for version in range(1, size):
                least, shallowest = work[version], depth[version]
                for edge in domains[version]:
                    least = min(least, work[edge.base] + edge.work)
                    shallowest = min(shallowest, depth[edge.base] + 1)
                if least < work[version] or shallowest < depth[version]:
                    work[version], depth[version] = least, shallowest
                    is_lower = True
        cheapest = [min((edge.nbytes for edge in options), default=0) for options in domains]
        spare = budget - sum(cheapest)
        if spare < 0:
            return None
        settled: dict[int, frozenset[int]] = {ROOT: frozenset()}
        left: Domains = [[]]
        is_same = True
        for version in range(1, size):
            most_work, most_depth, most_bytes = limits.work[version], limits.depth[version], cheapest[version] + spare
            options = [
                edge
                for edge in domains[version]
                if edge.nbytes <= most_bytes
                and work[edge.base] + edge.work <= most_work
                and depth[edge.base] + 1 <= most_depth
                and (not edge.second or edge.second in (_chain(domains, edge.base, settled) or (edge.second,)))
            ]
            if not options:
                return None
            is_same = is_same and len(options) == len(domains[version])
            left.append(options)
        if is_same:
            return domains, work
        domains = left


def _chain(domains: Domains, version: int, settled: dict[int, frozenset[int]]) -> frozenset[int] | None:
    """Return what a version leans on if that is settled (never empty then: the root is in it), else None."""
    path = list[int]()
    while version not in settled:
        if len(domains[version]) != 1 or len(path) > len(domains):
            return None
        path.append(version)
        version = domains[version][0].base
    for one in reversed(path):
        base = domains[one][0].base
        settled[one] = settled[base] | {base}
    return settled[path[0]] if path else settled[version]


def _most_decisive(domains: Domains, work: Sequence[int], price: float) -> int:
    """Return the version that most others would lean on, and whose edge is least like its cheapest restore."""
    users, gap = [0] * len(domains), [0] * len(domains)
    for version in range(1, len(domains)):
        best = min(domains[version], key=lambda edge: work[edge.base] + edge.work + price * edge.nbytes)
        users[best.base] += 1
        gap[version] = work[best.base] + best.work - work[version]
    undecided = [version for version in range(1, len(domains)) if len(domains[version]) > 1]
    return max(undecided, key=lambda version: (users[version] * (1 + gap[version]), -len(domains[version])))


def _mended(graph: Graph, plan: Plan, limits: Limits) -> Plan:
    """Return a plan with keyframes where limits were broken."""
    trial = plan.copy()
    for version in plan.below(ROOT):
        if (
            trial.depth[version] > limits.depth[version]
            or trial.work[version] > limits.work[version]
            or not _has_second(trial, version)
        ):
            trial.change(graph.keyframe[version])
    return trial


def _has_second(plan: Plan, version: int) -> bool:
    edge = plan.edges[version]
    return not edge.second or edge.second in plan.chain(edge.base)


def _broken(plan: Plan, limits: Limits) -> Sequence[Edge]:
    """Return the edges of a shortest chain that breaks a limit, from the root on."""
    worst: list[Edge] | None = None
    for version in range(1, len(plan.edges)):
        if (
            plan.depth[version] > limits.depth[version]
            or plan.work[version] > limits.work[version]
            or not _has_second(plan, version)
        ):
            chain = [plan.edges[version], *(plan.edges[base] for base in plan.chain(version))]
            if worst is None or len(chain) < len(worst):
                worst = chain
    return worst[::-1] if worst else []
