"""Which predictors a tensor's blocks may choose from: found on a sample of the tensor beside its reference.

Training leaves its mark on how weights move. Weight decay shrinks all of them by one factor (`Scaled`); rows without a
gradient are multiplied by the same constant at every step, which can be done again to the bit (`Decayed`), and so are
moments of an optimizer there; what is frozen stays (`Previous`). An embedding holds all of these in one tensor, so
several predictors may be named and each block takes its own.

Nothing depends on the machine: the same sample gives the same predictors everywhere. `search` says how they are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modelvault.codec import floats, kernels
from modelvault.codec.blocks import block_length
from modelvault.codec.parameters import COMPUTED_DTYPES, Parameters, Previous
from modelvault.tensors import DType

if TYPE_CHECKING:
    from typing_extensions import Buffer


def fit(
    dtype: DType, samples: Sequence[tuple[Buffer, Buffer]], *, row: int = 0, share: float = 1.0, scaled: bool = True
) -> Parameters:
    """Return parameters with the predictors that do best on pieces of a tensor and of its reference.

    Args:
        dtype: of the elements.
        samples: pieces of the tensor, each with the piece at the same place of the reference, as long; best each of
            whole rows.
        row: words of a row, 0 where there are none.
        share: what part of the tensor the pieces are.
        scaled: whether to look beyond `Previous`.

    >>> import numpy as np
    >>> old = np.linspace(1, 2, 1000, dtype="<f4")
    >>> new = (old * 0.98 + 1e-5 * np.sin(np.arange(1000))).astype("<f4")
    >>> (scaled,) = fit(DType.F32, [(new.tobytes(), old.tobytes())]).predictors
    >>> type(scaled).__name__, round(scaled.a, 3)
    ('Scaled', 0.98)
    """
    if dtype not in COMPUTED_DTYPES or not scaled or not samples:
        return Parameters(dtype, (Previous(),))
    length = block_length(row)
    new, old = samples[0] if len(samples) == 1 else _joined(samples, length * floats.FORMATS[dtype].word_bytes)
    return Parameters.from_bytes(kernels.current.fit(dtype.code, new, old, length, share))


def _joined(samples: Sequence[tuple[Buffer, Buffer]], block_bytes: int) -> tuple[Buffer, Buffer]:
    pieces = [_whole_blocks(new, old, block_bytes) for new, old in samples]
    return b"".join(new for new, _ in pieces), b"".join(old for _, old in pieces)


def _whole_blocks(new: Buffer, old: Buffer, block_bytes: int) -> tuple[memoryview, memoryview]:
    """Return as many whole blocks as there are, or all of it if there is none, so that pieces join at block ends."""
    one, other = memoryview(new).cast("B"), memoryview(old).cast("B")
    size = len(one) // block_bytes * block_bytes or len(one)
    return one[:size], other[:size]
