"""What it takes to decode: work units, and the seconds they stand for.

A work unit is a byte of a frame that is read or a byte that is decoded, so that a plan is the same on every machine.
Seconds are for people: one machine's rate, which others miss by what they are faster or slower. Light.
"""

from __future__ import annotations

WORK_PER_SECOND = 1_300_000_000
"""Work units a second of one processor. `scripts/bench/prediction` found 1,316 million over ten real histories: from
297 million (a bf16 ShuffleNet of 1.8 MB, where all else of a checkout takes longer than decoding) to 2,038 million (a
GPT of 50 MB). Hashing and writing are in it."""


def seconds(work: int) -> float:
    """Return about how long so much work takes."""
    return work / WORK_PER_SECOND


def work_in(time: float) -> float:
    """Return how much work is done in so many seconds."""
    return time * WORK_PER_SECOND
