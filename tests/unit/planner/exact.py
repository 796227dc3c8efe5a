"""The optimum, found by others' means: a mixed integer program for HiGHS, or by trying everything."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_array

from modelvault.planner import Edge, Graph, Limits, Plan


def least_bytes(graph: Graph, limits: Limits) -> int:
    """Return the fewest bytes of any plan within limits; second references are left out."""
    return round(_solve(graph, limits, None))


def least_work(graph: Graph, limits: Limits, budget: int) -> int:
    """Return the least work of all restores together, of any plan within limits and budget."""
    return round(_solve(graph, limits, budget))


def _solve(graph: Graph, limits: Limits, budget: int | None) -> float:
    """Minimise bytes, or work, over: x[e], whether an edge is used; f[e], how many restores pass it; d[v], w[v], the
    depth and the work of a version, where any is limited."""
    edges = [edge for into in graph.into for edge in into if not edge.second]
    n, m = graph.versions, len(edges)
    into: list[list[int]] = [[i for i, e in enumerate(edges) if e.version == v] for v in range(n + 1)]
    out: list[list[int]] = [[i for i, e in enumerate(edges) if e.base == v] for v in range(n + 1)]
    flow, depth, work = m, 2 * m - 1, 2 * m + n - 1  # of edge i: flow + i; of version v: depth + v, work + v
    rows: list[tuple[dict[int, float], float, float]] = []
    # What is limited may lean on what is not, so every version has a depth and a work as soon as one has a limit.
    longest = sum(max(edges[i].work for i in into[v]) for v in range(1, n + 1))
    deepest = [min(n, depth) for depth in limits.depth]
    dearest = [min(longest, work) for work in limits.work]
    for version in range(1, n + 1):
        rows.append((dict.fromkeys(into[version], 1.0), 1, 1))
        passing = {flow + i: 1.0 for i in into[version]} | {flow + i: -1.0 for i in out[version]}
        rows.append((passing, 1, 1))
    for i, e in enumerate(edges):
        rows.append(({flow + i: 1, i: -float(n)}, -np.inf, 0))
        rows.append(({flow + i: 1, i: -1.0}, 0, np.inf))
        if e.base and min(deepest[1:]) < n:
            rows.append(({depth + e.version: 1, depth + e.base: -1, i: -(n + 1.0)}, -n, np.inf))
        if min(dearest[1:]) < longest:
            most = float(max(dearest) + e.work) if e.base else float(e.work)
            terms = {work + e.version: 1.0, i: -most} | ({work + e.base: -1.0} if e.base else {})
            rows.append((terms, e.work - most, np.inf))
    if budget is not None:
        rows.append(({i: float(e.nbytes) for i, e in enumerate(edges)}, 0, budget))
    matrix = lil_array((len(rows), 2 * m + 2 * n))
    for row, (terms, _, _) in enumerate(rows):
        for column, value in terms.items():
            matrix[row, column] = value
    cost = np.zeros(2 * m + 2 * n)
    if budget is None:
        cost[:m] = [e.nbytes for e in edges]
    else:
        cost[m : 2 * m] = [e.work for e in edges]
    upper = np.concatenate(
        [
            np.ones(m),
            np.full(m, n),
            deepest[1:],
            dearest[1:],
        ]
    )
    found = milp(
        cost,
        constraints=LinearConstraint(matrix.tocsr(), [low for _, low, _ in rows], [high for _, _, high in rows]),
        integrality=np.concatenate([np.ones(m), np.zeros(m + 2 * n)]),
        bounds=Bounds(np.zeros(2 * m + 2 * n), upper),
        options={"mip_rel_gap": 0.0},
    )
    assert found.success, found.message
    return float(found.fun)


def every_plan(graph: Graph, limits: Limits) -> Iterable[Plan]:
    """Yield every plan within limits, second references and all. For half a dozen versions."""
    for edges in itertools.product(*graph.into[1:]):
        try:
            plan = Plan([Edge(0, 0, 0, 0, 0), *edges])
        except ValueError:
            continue
        if plan.keeps(limits):
            yield plan
