"""The best plan that uses the edges of one tree only, in either direction: dynamic programming.

After "To Store or Not to Store" (arXiv 2402.11741, DP-BMR): a tree of a few edges catches most of what there is to
save, and on a tree a bounded plan can be found exactly. Levels are whole numbers: links of the chain, or work in steps
of a share of the limit, rounded up, so that what is found keeps the limit.

For each version v and each level l, `given` is what v and all below it in the tree cost at least when v leans on its
neighbour above and stands at level l, `own` when it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from modelvault.planner.graph import ROOT, Edge, Graph, Limits
from modelvault.planner.plan import Plan

_NEVER = 1 << 80

_WORK_STEPS = 48
"""Levels of work: how finely chains of about 16 links can be told apart; time grows with it."""


def by_depth(graph: Graph, tree: Plan, limits: Limits) -> Plan:
    """Return the plan of fewest bytes that uses edges between neighbours in a tree and keeps the limits of depth."""
    return _best(graph, tree, lambda edge: int(edge.base != ROOT), limits.depth)


def by_work(graph: Graph, tree: Plan, limits: Limits) -> Plan:
    """Return one that keeps the limits of work, of fewest bytes but for the rounding of levels."""
    step = max(1, max(limits.work[1:], default=1) // _WORK_STEPS)
    if step > 2**50:  # no limit: as cheap as it gets
        return tree
    return _best(graph, tree, lambda edge: -(-edge.work // step), [work // step for work in limits.work])


def _best(graph: Graph, tree: Plan, rise: Callable[[Edge], int], limit: Sequence[int]) -> Plan:
    versions = graph.versions
    order = list(tree.below(ROOT))
    highest = max(limit[1:], default=0)
    highest = min(highest, versions + max((rise(edge) for edge in graph.keyframe[1:]), default=0) * 2)
    levels = range(highest + 1)
    given: list[list[int]] = [[] for _ in range(versions + 1)]
    own: list[list[int]] = [[] for _ in range(versions + 1)]
    least: list[int] = [0] * (versions + 1)

    def leaning(child: int, level: int, edge: Edge) -> int:
        """Return what a child costs that leans on its neighbour above, which stands at a level."""
        at = level + rise(edge)
        return given[child][at] if at <= highest else _NEVER

    for version in reversed(order):
        below = [0] * (highest + 1)
        children = [(child, tree.edges[child]) for child in tree.children[version]]
        for level in levels:
            if level > limit[version]:
                below[level] = _NEVER
                continue
            below[level] = sum(min(least[child], leaning(child, level, edge)) for child, edge in children)
        keyframe = graph.keyframe[version]
        found = [_NEVER] * (highest + 1)
        if rise(keyframe) <= highest:
            found[rise(keyframe)] = keyframe.nbytes + below[rise(keyframe)]
        for child, edge in children:
            up = graph.edge(version, child)
            if up is None:
                continue
            for level in range(rise(up), highest + 1):
                if below[level] >= _NEVER:
                    continue
                rest = below[level] - min(least[child], leaning(child, level, edge))
                found[level] = min(found[level], up.nbytes + own[child][level - rise(up)] + rest)
        own[version], least[version] = found, min(found)
        nbytes = tree.edges[version].nbytes
        given[version] = [nbytes + cost if cost < _NEVER else _NEVER for cost in below]

    chosen = list(graph.keyframe)
    todo: list[tuple[int, int, bool]] = []  # version, level, whether it leans upwards
    for top in tree.children[ROOT]:
        if least[top] >= _NEVER:
            return Plan.of_keyframes(graph)  # a limit that not even a keyframe keeps
        todo.append((top, own[top].index(least[top]), False))
    while todo:
        version, level, leans = todo.pop()
        settled = 0
        children = [(child, tree.edges[child]) for child in tree.children[version]]
        if leans:
            chosen[version] = tree.edges[version]
        else:
            cost = sum(min(least[child], leaning(child, level, edge)) for child, edge in children)
            keyframe = graph.keyframe[version]
            if rise(keyframe) != level or own[version][level] != keyframe.nbytes + cost:
                for child, edge in children:
                    up = graph.edge(version, child)
                    if up is None or level < rise(up):
                        continue
                    rest = cost - min(least[child], leaning(child, level, edge))
                    if own[version][level] == up.nbytes + own[child][level - rise(up)] + rest:
                        chosen[version], settled = up, child
                        todo.append((child, level - rise(up), False))
                        break
        for child, edge in children:
            if child == settled:
                continue
            if leaning(child, level, edge) < least[child]:
                todo.append((child, level + rise(edge), True))
            else:
                todo.append((child, own[child].index(least[child]), False))
    return Plan(chosen)
