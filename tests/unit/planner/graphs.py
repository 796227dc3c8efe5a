"""Random graphs of versions: of no structure, of points in a plane, of a walk."""

from __future__ import annotations

import math
import random

from modelvault.planner import Edge, Graph, Limits, wanted_edges


def scattered(chance: random.Random, versions: int) -> Graph:
    """Costs that have nothing to do with one another."""
    edges = [Edge(v, 0, 0, chance.randint(800, 1200), chance.randint(80, 120)) for v in range(1, versions + 1)]
    edges += [
        Edge(v, b, 0, chance.randint(50, 1100), chance.randint(50, 150))
        for v in range(1, versions + 1)
        for b in range(1, versions + 1)
        if v != b and chance.random() < 0.5
    ]
    return Graph(versions, edges)


def in_a_plane(chance: random.Random, versions: int) -> Graph:
    """Costs that grow with a distance, as those of real versions do."""
    places = [(chance.random(), chance.random()) for _ in range(versions + 1)]
    edges = [Edge(v, 0, 0, chance.randint(800, 1200), 100) for v in range(1, versions + 1)]
    edges += [
        Edge(v, b, 0, int(200 + 900 * math.dist(places[v], places[b]) * chance.uniform(0.9, 1.1)), 100)
        for v in range(1, versions + 1)
        for b in range(1, versions + 1)
        if v != b and chance.random() < 0.9
    ]
    return Graph(versions, edges)


def walk(chance: random.Random, versions: int, *, both: bool = True) -> Graph:
    """A straight history: half a bit of seventeen for each doubling of the distance, 27 bits for a keyframe."""
    edges = [Edge(v, 0, 0, int(27_000 * chance.uniform(0.98, 1.02)), 100) for v in range(1, versions + 1)]
    for place, base, second in wanted_edges(versions):
        bits = 17 + 0.5 * math.log2(abs(place - base)) - (0.5 if second is not None else 0)
        if second is None or both:
            other = 0 if second is None else second + 1
            edges.append(Edge(place + 1, base + 1, other, int(1000 * bits * chance.uniform(0.99, 1.01)), 100))
    return Graph(versions, edges)


def with_seconds(chance: random.Random, versions: int) -> Graph:
    """No structure, and some second references that save more."""
    plain = scattered(chance, versions)
    edges = [edge for into in plain.into for edge in into]
    for edge in list(edges):
        second = chance.randint(1, versions)
        if edge.base and second not in (edge.version, edge.base) and chance.random() < 0.5:
            edges.append(edge._replace(second=second, nbytes=int(edge.nbytes * chance.uniform(0.4, 1.1))))
    return Graph(versions, edges)


def some_limits(chance: random.Random, versions: int) -> Limits:
    """Limits of depth, of work, of both, or none; all of them ones that keyframes keep."""
    depth, work = chance.randint(0, 5), chance.randint(150, 600)
    return chance.choice(
        [
            Limits.uniform(versions),
            Limits.uniform(versions, depth),
            Limits.uniform(versions, None, work),
            Limits.uniform(versions, depth, work),
            Limits(
                [chance.randint(0, 4) for _ in range(versions + 1)],
                [chance.randint(150, 600) for _ in range(versions + 1)],
            ),
        ]
    )
