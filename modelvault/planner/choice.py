"""Which reference a tensor is coded against: a pure choice between measured costs.

The writer measures, on a sample, what each candidate would cost; this module decides. It knows no store, no clock and
no randomness, so the same candidates give the same plan on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

MAX_DEPTH = 16
"""Longest chain a commit makes. Restoring costs one decode a link. What a longer chain would save is small: with
keyframes of 1.2x and deltas of 1.6x to 2.2x (fp32, lossless), a keyframe after every 16 deltas adds 2 % to 5 %."""


class Candidate(NamedTuple):
    """A tensor that could be the reference: its number, estimated bytes of the delta, depth of its own chain."""

    number: int
    bytes: int
    depth: int


def choose(keyframe_bytes: int, candidates: Iterable[Candidate], max_depth: int = MAX_DEPTH) -> Candidate | None:
    """Return the cheapest reference, or None where a keyframe costs no more.

    A reference at `max_depth` already is out. Between equal costs the shorter chain wins, then the lower number.

    >>> choose(100, [Candidate(7, 60, 16), Candidate(1, 80, 0)])
    Candidate(number=1, bytes=80, depth=0)
    >>> choose(50, [Candidate(1, 80, 0)]) is None
    True
    """
    best: Candidate | None = None
    for candidate in candidates:
        if candidate.depth >= max_depth or candidate.bytes >= keyframe_bytes:
            continue
        if best is None or (candidate.bytes, candidate.depth, candidate.number) < (
            best.bytes,
            best.depth,
            best.number,
        ):
            best = candidate
    return best
