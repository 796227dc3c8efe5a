"""Codec 4, `residual-rans`: what is left of words when predictions are known, as tokens in the context of their scale.

How far a word is from its prediction goes with how large the prediction is, within a block by a common factor. A
block's *scale* stands for that factor, and the context of a token is the scale relative to the level of the prediction.
Blocks whose words all equal their predictions cost a bit or two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from modelvault.codec import body, floats, frequencies, order, predict, tokens
from modelvault.codec.blocks import Blocks
from modelvault.codec.body import Head
from modelvault.codec.floats import Format, Levels
from modelvault.codec.order import Words
from modelvault.codec.parameters import Predictor, Previous
from modelvault.codec.tokens import Tokens

if TYPE_CHECKING:
    from typing_extensions import Buffer

_EXPECTED_TOKENS = np.array(
    [
        1, 2, 3, 4, 6, 9, 13, 18, 25, 36, 51, 72, 103, 147, 211, 300, 416, 560, 728, 919, 1126, 1347, 1577,
        1815, 2058, 2305, 2555, 2806, 3059, 3313, 3567, 3822, 4077, 4352, 4608, 4864, 5120, 5376, 5632, 5888,
        6144, 6400, 6656, 6912, 7168, 7424, 7680, 7936, 8192, 8448, 8704, 8960, 9216, 9472, 9728, 9984, 10240,
        10496, 10752, 11008, 11264, 11520, 11776, 12032,
    ]
)  # fmt: skip
"""256 times the mean token in each context, for residuals of a two-sided exponential distribution."""

_FALLOFF = 32
"""Levels below a block's highest that are told apart."""

_LEAST = -62
_MOST = 63
"""Between these is twice the factor's logarithm, relative to the block's highest level."""

_MANY_TOKENS = 256
"""Where tokens are this large on average, in 256ths, a block's scale is told by that and by how far its levels are
below the highest on average. It takes a third of the time of a sum over all levels. Bytes of nineteen histories by
those with sums alone: GPT after AdamW 0.9991 to 1.0001, MiniLM fine-tuned in bf16 1.001, ShuffleNet in bf16 1.003,
all others 0.9996 to 1.0006; with 128 for 256 MiniLM's were 1.008. ShuffleNet and MobileNetV2 (fp32) are encoded in
0.9 of the time."""

_SHORT_BLOCK, _SOME_TOKENS = 256, 64
"""The same in short blocks, which take longer: ShuffleNet in bf16 is encoded in 0.96 of the time, and no history of
nineteen takes more bytes by it."""

_TYPICAL = np.array(
    [
        132, 138, 144, 149, 154, 158, 162, 166, 171, 178, 184, 189, 194, 199, 203, 207,
        213, 220, 226, 232, 237, 243, 247, 252, 258, 266, 273, 280, 287, 293, 299, 304,
        313, 323, 333, 342, 352, 361, 369, 378,
    ]
)  # fmt: skip
"""The context, in 16ths, at which words are expected to have so large a token on average, if their levels are those of
a normal distribution: eight steps of the average an octave, from `_SOME_TOKENS` to 2048."""

_BEYOND = 2048
"""From here on a typical context is 16 more than the token."""

_LEAST_SHIFT = 8
"""Words are shifted if they have as many zero bits: up-cast ones do, others only by chance."""


_LEAST_SAMPLED, _PLACES, _AT_EACH, _FIRST = 1 << 12, 16, 64, 4
_SEEMS_LONG, _SEEMS_SHORT = 64, 8
"""No others are looked at where a few words from some places say that a body takes more than the limit, and one more in
so many bytes. Their tails, and what their tokens hold without contexts, are within 0.5 bits a word of the body, nearly
always. Without this, deltas of momentum were made that took 27.5 to 29 bits of 32, only to be dropped for keyframes of
27: checkpoints of ShuffleNet after SGD with Nesterov's momentum take 0.9 of the time, for the same bytes. With 128 in
place of 64 MobileNetV2's take 0.14 % more bytes. A quarter of the places tells of most weights that they take less than
seven eighths. Of 16 bits, where what is coded takes half the time, none are looked at."""


def encode(
    words: Words,
    rest: Buffer,
    format_: Format,
    predictors: Sequence[Predictor],
    references: Sequence[Words],
    row: int,
    start: int,
    limit: int,
) -> bytes | None:
    """Return a body, or None if there is none that is shorter than the words, or worth making.

    Args:
        words: of the chunk.
        rest: the bytes after them.
        format_: of the words.
        predictors: one to four.
        references: words of as many references as the predictors need.
        row: words of a row of the tensor, or 0.
        start: which word of the tensor the first one is.
        limit: no body is made if its tails and two bits for each token alone take so many bytes.
    """
    if not words.size:
        return None
    blocks = Blocks.along_rows(words.size, row, start)
    shift = 0
    if tuple(predictors) == (Previous(),):
        shift = common_shift(int(np.bitwise_or.reduce(words) | np.bitwise_or.reduce(references[0])), format_)
    if len(predictors) == 1 and _seems_long(words, format_, predictors[0], references, shift, limit):
        return None
    predictions = [predict.predicted(predictor, references, format_) for predictor in predictors]
    residuals = [_residuals(words, prediction, shift) for prediction in predictions]
    found = [tokens.tokens(residual) for residual in residuals]
    sums = np.stack([blocks.sums(token) for token in found])
    selectors = np.argmin(sums, axis=0)
    if len(predictors) == 1:
        prediction, residual, token = predictions[0], residuals[0], found[0]
    else:
        chosen = blocks.spread(selectors)
        prediction = np.choose(chosen, predictions)
        residual, token = np.choose(chosen, residuals), np.choose(chosen, found)
    # A tail has half as many bits as its token says, less one and a half; and two bits for the token.
    if (int(token.sum(dtype=np.int64)) + token.size) // 16 >= limit:
        return None
    levels = floats.levels(prediction, format_)
    head = Head(blocks, shift, False, selectors, _scales(blocks, sums.min(axis=0), levels), 0)
    coded = head.coded()
    token, widths = token[coded], tokens.tail_widths(token[coded])
    tails = tokens.tails(residual[coded], widths), widths
    alphabet = tokens.alphabet(format_.bits)
    contexts = head.contexts(levels[coded])
    out = body.write(head, len(predictors), contexts, token, alphabet, format_.word_bytes, tails, rest)
    return None if out is None or len(out) >= words.nbytes + memoryview(rest).nbytes else out


def _seems_long(
    words: Words, format_: Format, predictor: Predictor, references: Sequence[Words], shift: int, limit: int
) -> bool:
    """Return whether a few of the words tell that no body is worth making."""
    if words.size < _LEAST_SAMPLED or format_ is not floats.BINARY32:
        return False
    some = np.arange(_PLACES)[:, None] * (words.size // _PLACES) + np.arange(_AT_EACH)
    prediction = predict.predicted(predictor, [reference[some.ravel()] for reference in references], format_)
    token = tokens.tokens(_residuals(words[some.ravel()], prediction, shift))
    first = token.reshape(some.shape)[:: _PLACES // _FIRST]
    if (int(first.sum(dtype=np.int64)) + first.size) * words.size < (limit - limit // _SEEMS_SHORT) * 16 * first.size:
        return False
    bits = frequencies.token_bits(np.bincount(token)) + 256 * int(tokens.tail_widths(token).sum())
    return bits * words.size > (limit + limit // _SEEMS_LONG) * 8 * 256 * token.size


def common_shift(union: int, format_: Format) -> int:
    """Return how many low bits to leave out, given the bits that any word has."""
    zeros = (union & -union).bit_length() - 1 if union else format_.bits
    return min(zeros, format_.mantissa) if zeros >= _LEAST_SHIFT else 0


def token_sums(
    words: Words, format_: Format, predictors: Sequence[Predictor], references: Sequence[Words], length: int
) -> Levels:
    """Return the sum of the tokens of each block of `length` words, one row for each predictor."""
    blocks = Blocks(words.size, length, length)
    rows = []
    for predictor in predictors:
        prediction = predict.predicted(predictor, references, format_)
        rows.append(blocks.sums(tokens.tokens(_residuals(words, prediction, 0))))
    return np.stack(rows)


def _residuals(words: Words, predictions: Words, shift: int) -> Words:
    """Return zigzag coded differences of places, without their low bits, which must be zero in both words."""
    if not shift:
        return order.zigzag(order.places(words) - order.places(predictions))
    differences = (order.places(words) >> shift) - (order.places(predictions) >> shift)
    differences <<= shift
    # A zigzag coded multiple of 2^shift, shifted, is that multiple zigzag coded.
    residuals: Words = order.zigzag(differences)
    residuals >>= np.array(shift, residuals.dtype)
    return residuals


def _scales(blocks: Blocks, sums: Levels, levels: Levels) -> Levels:
    """Return for each block the scale at which its tokens would be expected to sum up to what they do."""
    tops = np.maximum.reduceat(levels, blocks.starts())
    relative = np.minimum(blocks.spread(tops) - levels, _FALLOFF - 1)
    number = blocks.spread(np.arange(blocks.count))
    histogram = np.bincount(number * _FALLOFF + relative, minlength=blocks.count * _FALLOFF).reshape(-1, _FALLOFF)

    def expected(q: Levels) -> Levels:
        contexts = np.clip(q[:, None] + 2 * np.arange(_FALLOFF), 0, _EXPECTED_TOKENS.size - 1)
        total: Levels = (histogram * _EXPECTED_TOKENS[contexts]).sum(axis=1)
        return total

    wanted = 256 * sums
    low, high = np.full(blocks.count, _LEAST), np.full(blocks.count, _MOST)
    while (low < high).any():  # the least q that is expected to give as much
        middle = (low + high) >> 1
        enough = expected(middle) >= wanted
        low, high = np.where(enough, low, np.minimum(middle + 1, high)), np.where(enough, middle, high)
    q = low
    nearer = (wanted - expected(q - 1) < expected(q) - wanted) & (q > _LEAST)
    lengths = np.bincount(number, minlength=blocks.count)
    mean = wanted // lengths
    enough = np.where(lengths < _SHORT_BLOCK, _SOME_TOKENS, _MANY_TOKENS)
    q = np.where(mean >= enough, _typical_scales(mean, blocks.sums(relative), lengths), q - nearer)
    return np.where(sums > 0, np.maximum(q + 1 + 2 * tops, 1), 0)


def _typical_scales(mean: Levels, below: Levels, lengths: Levels) -> Levels:
    """Return the context of each block's highest level, where tokens are large."""
    octave = np.digitize(mean, _SOME_TOKENS << np.arange(1, 5))
    step = np.clip((mean * 8 // _SOME_TOKENS >> octave) + 8 * octave - 8, 0, _TYPICAL.size - 1)
    typical = np.where(mean < _BEYOND, _TYPICAL[step], mean // 16 + 256)
    found: Levels = np.minimum((typical + 8 - 32 * below // lengths) >> 4, _MOST)
    return found


def decode(
    data: Buffer, size: int, format_: Format, predictors: Sequence[Predictor], references: Sequence[Words]
) -> bytes:
    """Return the chunk.

    Args:
        data: the body.
        size: bytes of the chunk.
        format_: of its words.
        predictors: one to four.
        references: words of as many references as the predictors need, of the chunk's length.

    Raises:
        CodecError: not such a body, or not one of `size` bytes.
    """
    words, rest = divmod(size, format_.word_bytes)
    alphabet = tokens.alphabet(format_.bits)
    parts = body.read(data, words, rest, format_.mantissa, alphabet, len(predictors))
    head = parts.head
    assert head.selectors is not None
    out = _chosen(predictors, references, format_, head)
    expected = out[parts.coded]
    token: Tokens = parts.tokens(head.contexts(floats.levels(expected, format_)))
    residuals = tokens.residuals(token, parts.tail_values(tokens.tail_widths(token)), format_.bits)
    order.unzigzag(residuals)
    residuals <<= head.shift
    residuals += order.places(expected)
    order.unplace(residuals)
    residuals >>= head.shift
    residuals <<= head.shift
    out[parts.coded] = residuals
    return out.tobytes() + parts.rest


def _chosen(predictors: Sequence[Predictor], references: Sequence[Words], format_: Format, head: Head) -> Words:
    """Return the predictions of the predictor that each block chose; others are not computed."""
    assert head.selectors is not None
    if not head.blocks.words:
        return references[0].copy()
    chosen = head.blocks.spread(head.selectors)
    used = np.unique(head.selectors).tolist()
    out = predict.predicted(predictors[used[0]], references, format_).copy()
    for at in used[1:]:
        here = chosen == at
        out[here] = predict.predicted(predictors[at], [words[here] for words in references], format_)
    return out
