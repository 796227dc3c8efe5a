"""Which codecs there are: a literal table. Ids are part of the format and are never used again.

`since` and `until` are format versions of a vault: the first whose writers may use the codec, the last whose writers
did (None: they still do). A retired row stays, because its frames are read for ever. What a body of each codec holds
is specified in docs/format/codecs.md.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Codec:
    """One row of the table.

    Attributes:
        id: the first byte of a frame.
        name: for people.
        since: the first format version with this codec.
        until: the last format version that writes it, or None.
        needs_reference: whether its frames are deltas.
    """

    id: int
    name: str
    since: int
    until: int | None = None
    needs_reference: bool = False


RAW = Codec(0, "raw", since=1)
PLANES_ZSTD = Codec(1, "planes-zstd", since=1)
PREVIOUS_PLANES_ZSTD = Codec(2, "previous-planes-zstd", since=1, needs_reference=True)
SAME = Codec(3, "same", since=1, needs_reference=True)
RESIDUAL_RANS = Codec(4, "residual-rans", since=1, needs_reference=True)
LEVELS_RANS = Codec(5, "levels-rans", since=1)
LATTICE = Codec(16, "lattice", since=1)
LATTICE_DELTA = Codec(17, "lattice-delta", since=1, needs_reference=True)
STEPS_DELTA = Codec(18, "steps-delta", since=1, needs_reference=True)
PIECES_DELTA = Codec(19, "pieces-delta", since=1, needs_reference=True)
PIECES = Codec(20, "pieces", since=1)
STRIDES_DELTA = Codec(21, "strides-delta", since=1, needs_reference=True)
LOW_RANK = Codec(22, "low-rank", since=1)
LOW_RANK_DELTA = Codec(23, "low-rank-delta", since=1, needs_reference=True)

TABLE = (
    RAW,
    PLANES_ZSTD,
    PREVIOUS_PLANES_ZSTD,
    SAME,
    RESIDUAL_RANS,
    LEVELS_RANS,
    LATTICE,
    LATTICE_DELTA,
    STEPS_DELTA,
    PIECES_DELTA,
    PIECES,
    STRIDES_DELTA,
    LOW_RANK,
    LOW_RANK_DELTA,
)
OF_FLOATS = (RESIDUAL_RANS, LEVELS_RANS, STRIDES_DELTA, LOW_RANK, LOW_RANK_DELTA)
"""What the kernels code and decode: chunks of dtypes that have a float format."""

BY_ID = {codec.id: codec for codec in TABLE}
"""Every codec by the first byte of its frames."""
