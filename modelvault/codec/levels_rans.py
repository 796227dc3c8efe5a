"""Codec 5, `levels-rans`: words by themselves, their levels as tokens in the context of their block's mean level.

In trained weights signs and mantissas are noise, which nothing shortens; what there is to gain is in the levels, and
how large a row's weights are goes with the row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modelvault.codec import body, floats
from modelvault.codec.blocks import Blocks
from modelvault.codec.body import Head
from modelvault.codec.floats import Format, Levels
from modelvault.codec.frequencies import CONTEXTS
from modelvault.codec.order import Words
from modelvault.codec.residual_rans import common_shift

if TYPE_CHECKING:
    from typing_extensions import Buffer


POOR = 32
"""A keyframe that takes one more in so many bytes of the chunk than it should is held against a delta after all, though
that was not worth making. Means of gradients forget what they were: 26.5 to 26.9 bits of 32 alone, 29 as deltas, of
which tails are 26.1. Since those are not made, checkpoints of AdamW (MobileNetV2, 26 MB) are encoded in 39 ms in place
of 48, of SGD with momentum (ResNet, 89 MB) in 104 in place of 141, all of sixteen histories to the same bytes."""


def encode(words: Words, rest: Buffer, format_: Format, row: int, start: int) -> bytes | None:
    """Return a body, or None if there is none that is shorter than the words.

    Args:
        words: of the chunk.
        rest: the bytes after them.
        format_: of the words.
        row: words of a row of the tensor, or 0.
        start: which word of the tensor the first one is.
    """
    if not words.size:
        return None
    blocks = Blocks.along_rows(words.size, row, start)
    shift = common_shift(int(np.bitwise_or.reduce(words)), format_)
    levels = floats.levels(words, format_)
    subnormals = bool(((levels == 0) & (words != 0)).any())
    scales = _scales(blocks, words, levels)
    head = Head(blocks, shift, subnormals, None, scales, max(0, int(scales.max()) - CONTEXTS))
    coded = head.coded()
    words_, levels = words[coded], levels[coded]
    widths = _tail_widths(levels, format_, shift, subnormals)
    mantissas = (words_ & ((1 << format_.mantissa) - 1)) >> shift
    signs = words_ >> (format_.bits - 1)
    tails = (mantissas | signs << (format_.mantissa - shift)).astype(np.uint64)
    alphabet = format_.top_level + 1
    tokens = levels.astype(np.uint8)
    out = body.write(head, 0, head.contexts(), tokens, alphabet, format_.word_bytes, (tails, widths), rest)
    return None if out is None or len(out) >= words.nbytes + memoryview(rest).nbytes else out


def _scales(blocks: Blocks, words: Words, levels: Levels) -> Levels:
    """Return for each block twice the mean level of what is neither zero nor subnormal, plus one."""
    sums, counts = blocks.sums(levels), blocks.sums(levels > 0)
    means = 1 + 2 * sums // np.maximum(counts, 1)
    return np.where(blocks.sums(words != 0) > 0, means, 0)


def _tail_widths(levels: Levels, format_: Format, shift: int, subnormals: bool) -> Levels:
    width = format_.mantissa + 1 - shift
    return np.where(levels > 0, width, width if subnormals else 0)


def decode(data: Buffer, size: int, format_: Format) -> bytes:
    """Return the chunk.

    Args:
        data: the body.
        size: bytes of the chunk.
        format_: of its words.

    Raises:
        CodecError: not such a body, or not one of `size` bytes.
    """
    words, rest = divmod(size, format_.word_bytes)
    parts = body.read(data, words, rest, format_.mantissa, format_.top_level + 1, None)
    head = parts.head
    levels = parts.tokens(head.contexts()).astype(np.int64)
    tails = parts.tail_values(_tail_widths(levels, format_, head.shift, head.subnormals)).astype(np.int64)
    mantissa_bits = format_.mantissa - head.shift
    mantissas = (tails & ((1 << mantissa_bits) - 1)) << head.shift
    signs = tails >> mantissa_bits
    out = np.zeros(words, f"<u{format_.word_bytes}")
    out[parts.coded] = signs << (format_.bits - 1) | levels << format_.mantissa | mantissas
    return out.tobytes() + parts.rest
