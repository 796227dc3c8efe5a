"""Which reference a new tensor is coded against: a pure choice between measured costs.

The writer measures, on a sample, what each candidate would cost; this module decides. It knows no store, no clock and
no randomness, so the same candidates give the same plan on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

MAX_DEPTH = 16
"""Longest chain a commit makes unless its vault says otherwise. Restoring costs one decode a link. What a longer
chain would save is small: with keyframes of 1.2x and deltas of 1.6x to 2.2x (fp32, lossless), a keyframe after every 16
deltas adds 2 % to 5 %."""


class Candidate(NamedTuple):
    """A tensor that could be the reference.

    Attributes:
        number: the tensor.
        bytes: estimated bytes of the delta against it.
        depth: of its own chain.
        work: work units of its own chain.
    """

    number: int
    bytes: int
    depth: int
    work: int = 0


class Allowance(NamedTuple):
    """What restoring the new tensor may take.

    Attributes:
        max_depth: the longest chain.
        max_work: the most work units of a chain; None: no bound.
        nbytes: raw bytes of the tensor: what decoding it adds to the work of its chain, beside its frames.
    """

    max_depth: int = MAX_DEPTH
    max_work: int | None = None
    nbytes: int = 0

    def links(self, candidate: Candidate) -> int:
        """Return how many tensors may follow one another behind a candidate, the new one included, if all are like it.

        >>> Allowance(16).links(Candidate(1, 10, 14)), Allowance(16, 1000, 90).links(Candidate(1, 10, 2, 750))
        (2, 2)
        """
        links = max(0, self.max_depth - candidate.depth)
        if self.max_work is not None:
            links = min(links, max(0, self.max_work - candidate.work) // max(1, self.nbytes + candidate.bytes))
        return links


def choose(keyframe_bytes: int, candidates: Iterable[Candidate], allowed: Allowance = Allowance()) -> Candidate | None:  # noqa: B008
    """Return the cheapest reference that is allowed, or None where a keyframe is better.

    Where the cheapest of all is not allowed, something dearer must be taken now, and again whenever its chain is full:
    what it costs more is shared by all that can follow behind it. So a reference that is far but shallow wins over
    one that is near and leaves room for one link only. Between equals the shorter chain wins, then the lower number.

    >>> choose(100, [Candidate(7, 60, 16), Candidate(1, 80, 0)])
    Candidate(number=1, bytes=80, depth=0, work=0)
    >>> choose(100, [Candidate(7, 60, 16), Candidate(6, 70, 15), Candidate(1, 80, 0)])
    Candidate(number=1, bytes=80, depth=0, work=0)
    >>> choose(50, [Candidate(1, 80, 0)]) is None
    True
    """
    known = [candidate for candidate in candidates if candidate.bytes < keyframe_bytes]
    usable = [candidate for candidate in known if allowed.links(candidate)]
    if not usable:
        return None
    cheapest = min(known, key=_order)
    if allowed.links(cheapest):
        return cheapest
    keyframe = Candidate(0, keyframe_bytes, -1)  # which has one link more to give than a reference of depth 0

    def share(candidate: Candidate) -> float:
        return (candidate.bytes - cheapest.bytes) / max(1, allowed.links(candidate))

    best = min([keyframe, *usable], key=lambda candidate: (share(candidate), *_order(candidate)))
    return best if best.number else None


def _order(candidate: Candidate) -> tuple[int, ...]:
    return candidate.bytes, candidate.depth, candidate.number, candidate.work
