"""What it takes to decode: work units, and the seconds they stand for.

A work unit is a byte of a frame that is read or a byte that is decoded, so that a plan is the same on every machine.
Seconds are for people: one machine's rate, which others miss by what they are faster or slower. Light.
"""

from __future__ import annotations

WORK_PER_SECOND = 250_000_000
"""Work units a second."""


def seconds(work: int) -> float:
    """Return about how long so much work takes."""
    return work / WORK_PER_SECOND


def work_in(time: float) -> float:
    """Return how much work is done in so many seconds."""
    return time * WORK_PER_SECOND
