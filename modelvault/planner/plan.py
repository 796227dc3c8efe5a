"""A plan: one edge for every version, and what follows from that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modelvault.planner.graph import ROOT, Edge, Graph, Limits


class Plan:
    """Which edge stores each version. Depths, works and the tree are kept as edges are changed.

    Args:
        edges: by version, from 1; what stands at 0 is ignored.

    Raises:
        ValueError: the edges close a cycle.
    """

    def __init__(self, edges: Sequence[Edge]) -> None:
        self.edges = list(edges)
        size = len(self.edges)
        self.depth, self.work = [-1] * size, [0] * size
        self.children: list[set[int]] = [set() for _ in range(size)]
        self.nbytes = 0  # of all versions
        self.total_work = 0  # to restore every version on its own
        for edge in self.edges[1:]:
            self.children[edge.base].add(edge.version)
            self.nbytes += edge.nbytes
        reached = 0
        for version in self.below(ROOT):
            edge = self.edges[version]
            self.depth[version] = self.depth[edge.base] + 1
            self.work[version] = self.work[edge.base] + edge.work
            self.total_work += self.work[version]
            reached += 1
        if reached != size - 1:
            raise ValueError("the edges close a cycle")

    @classmethod
    def of_keyframes(cls, graph: Graph) -> Plan:
        """Return the plan in which nothing leans on anything."""
        return cls(graph.keyframe)

    def copy(self) -> Plan:
        """Return a plan that can be changed without changing this one."""
        twin = object.__new__(Plan)
        twin.edges, twin.depth, twin.work = self.edges[:], self.depth[:], self.work[:]
        twin.children = [children.copy() for children in self.children]
        twin.nbytes, twin.total_work = self.nbytes, self.total_work
        return twin

    @property
    def max_depth(self) -> int:
        """The longest chain."""
        return max(self.depth[1:], default=0)

    @property
    def max_work(self) -> int:
        """Work units of the dearest restore."""
        return max(self.work[1:], default=0)

    def below(self, version: int) -> Iterator[int]:
        """Yield everything that leans on a version, bases before what leans on them."""
        stack = list(self.children[version])
        while stack:
            found = stack.pop()
            yield found
            stack.extend(self.children[found])

    def chain(self, version: int) -> Iterator[int]:
        """Yield what must be decoded before a version, nearest first."""
        base = self.edges[version].base
        while base:
            yield base
            base = self.edges[base].base

    def is_possible(self, edge: Edge, limits: Limits) -> bool:
        """Whether this edge could replace the present one of its version and all limits would still hold."""
        version, base, second = edge.version, edge.base, edge.second
        depth, work = self.depth[base] + 1, self.work[base] + edge.work
        if depth > limits.depth[version] or work > limits.work[version]:
            return False
        found = not second
        while base:
            if base == version:
                return False
            base = self.edges[base].base
            found = found or base == second
        if not found:
            return False
        below = list(self.below(version))
        if not below:
            return True
        deeper, dearer = depth - self.depth[version], work - self.work[version]
        if deeper > 0 or dearer > 0:
            for other in below:
                if self.depth[other] + deeper > limits.depth[other] or self.work[other] + dearer > limits.work[other]:
                    return False
        return not any(self.edges[other].second for other in below) or self._keeps_seconds(edge, below)

    def _keeps_seconds(self, edge: Edge, below: list[int]) -> bool:
        """Whether second references below an edge that is to change would still be on the chains that need them."""
        stays = {edge.version, *below}
        base = edge.base
        while base:
            stays.add(base)
            base = self.edges[base].base
        return all(self.edges[other].second in stays for other in below if self.edges[other].second)

    def change(self, edge: Edge) -> None:
        """Store a version by another edge, which must be possible."""
        version = edge.version
        before = self.edges[version]
        self.children[before.base].discard(version)
        self.children[edge.base].add(version)
        self.edges[version] = edge
        self.nbytes += edge.nbytes - before.nbytes
        deeper = self.depth[edge.base] + 1 - self.depth[version]
        dearer = self.work[edge.base] + edge.work - self.work[version]
        self.depth[version] += deeper
        self.work[version] += dearer
        self.total_work += dearer
        if deeper or dearer:
            for other in self.below(version):
                self.depth[other] += deeper
                self.work[other] += dearer
                self.total_work += dearer

    def keeps(self, limits: Limits) -> bool:
        """Whether every version is within its limits, and every second reference on the chain of its base."""
        for version in range(1, len(self.edges)):
            if self.depth[version] > limits.depth[version] or self.work[version] > limits.work[version]:
                return False
            second = self.edges[version].second
            if second and second not in self.chain(self.edges[version].base):
                return False
        return True
