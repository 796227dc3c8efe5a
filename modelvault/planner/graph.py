"""Versions, how each could be stored, and what that would cost.

A version is anything with bytes of its own: a tensor, or the tensors of one class of a commit. Node 0 is the root: an
edge from it is a keyframe. An edge with a `second` reference needs two versions decoded; it is allowed only where the
second lies on the chain of the base, so that it costs no restore anything: what is decoded is the chain, and a plan
stays a tree. An arborescence knows nothing of such edges, so the least arborescence bounds only plans without them.

Work is in units that mean the same on every machine (bytes read plus bytes decoded); nobody's clock is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

ROOT = 0


class Edge(NamedTuple):
    """One way to store one version.

    Attributes:
        version: what is stored, from 1.
        base: the version it is coded against, `ROOT` for a keyframe.
        second: a further reference on the chain of the base, 0 if there is none.
        nbytes: bytes it takes.
        work: work units to decode it when its references are decoded.
    """

    version: int
    base: int
    second: int
    nbytes: int
    work: int


class Limits(NamedTuple):
    """How much restoring a version may take.

    Attributes:
        depth: the longest chain, by version; what stands at 0 means nothing.
        work: the most work units of a whole chain, by version.
    """

    depth: Sequence[int]
    work: Sequence[int]

    @classmethod
    def uniform(cls, versions: int, depth: int | None = None, work: int | None = None) -> Limits:
        """Return the same limits for every version; None is no limit."""
        return cls(
            [versions if depth is None else depth] * (versions + 1), [2**62 if work is None else work] * (versions + 1)
        )

    def lenient(self, graph: Graph) -> Limits:
        """Return limits that keyframes keep: what not even a keyframe keeps is asked of nobody."""
        work = [max(allowed, edge.work) for allowed, edge in zip(self.work, graph.keyframe, strict=True)]
        return Limits([max(0, depth) for depth in self.depth], work)


class Graph:
    """The versions and every edge that was measured.

    Raises:
        ValueError: a version has no keyframe edge, or an edge names what is not there or refers to its own version.
    """

    def __init__(self, versions: int, edges: Iterable[Edge]) -> None:
        self.versions = versions
        best: dict[tuple[int, int, int], Edge] = {}
        for edge in edges:
            version, base, second, nbytes, work = edge
            if not (0 < version <= versions and 0 <= base <= versions and 0 <= second <= versions):
                raise ValueError(f"{edge} names a version that is not there")
            if version in (base, second) or (second and second == base) or (second and not base):
                raise ValueError(f"{edge} refers to itself or has a second reference without a first")
            if nbytes < 0 or work < 0:
                raise ValueError(f"{edge} costs less than nothing")
            key = version, base, second
            if key not in best or (nbytes, work) < best[key][3:]:
                best[key] = edge
        self.into: list[list[Edge]] = [[] for _ in range(versions + 1)]
        self.out: list[list[Edge]] = [[] for _ in range(versions + 1)]
        self.keyframe: list[Edge] = [Edge(0, 0, 0, 0, 0)] * (versions + 1)
        self._by_pair = best
        for edge in sorted(best.values(), key=lambda e: (e.version, e.nbytes, e.work, e.base, e.second)):
            self.into[edge.version].append(edge)
            self.out[edge.base].append(edge)
            if edge.base == ROOT:
                self.keyframe[edge.version] = edge
        for version in range(1, versions + 1):
            if not self.keyframe[version].version:
                raise ValueError(f"version {version} has no keyframe edge")

    def edge(self, version: int, base: int, second: int = 0) -> Edge | None:
        """Return the edge between these, or None if none was measured."""
        return self._by_pair.get((version, base, second))

    def __len__(self) -> int:
        return len(self._by_pair)
