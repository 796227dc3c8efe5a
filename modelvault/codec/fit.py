"""Which predictors a tensor's blocks may choose from: found on a sample of the tensor beside its reference.

Training leaves its mark on how weights move. Weight decay shrinks all of them by one factor (`Scaled`); rows without a
gradient are multiplied by the same constant at every step, which can be done again to the bit (`Decayed`), and so are
moments of an optimizer there; what is frozen stays (`Previous`). An embedding holds all of these in one tensor, so
several predictors may be named and each block takes its own.

Sums run from front to back and nothing depends on the machine: the same sample gives the same predictors everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from modelvault.codec import floats, kernels, order, predict
from modelvault.codec.blocks import block_length
from modelvault.codec.floats import Format, Mask, Numbers
from modelvault.codec.order import Words
from modelvault.codec.parameters import COMPUTED_DTYPES, MAX_STEPS, Decayed, Parameters, Predictor, Previous, Scaled
from modelvault.tensors import DType

if TYPE_CHECKING:
    from typing_extensions import Buffer

_FIT_WORDS = 4096
"""Words that a factor is fitted on. On a CNN under SGD four times as many move no ratio by more than 0.0002."""

_LEAST_WORDS = 64
"""Below this nothing but `Previous` pays for its constants."""

_BIT = 2
"""Tokens add up to about two a bit: two of them make an octave."""

_CONSTANT_BITS = 8 * 10
"""About what a predictor's constants take in the tensor's record."""

_SUSPECTS = 64
_SUSPECT_WORDS = 32
"""Blocks, and words of each, in which one common factor is looked for."""

_WITNESSES = 8
_AGREEMENT = 0.6
"""Blocks that a decay is tried on, and what share of their words it must reproduce to the bit. Some of them may
have had a gradient once."""

_BETAS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99999)
"""What optimizers multiply moments with at each step."""

_SHORT_STEPS = 64
"""In 16 bits longer decays leave nothing that could be told apart."""

_MOST_DECREMENTS = 64
_LONGEST_SHIFT = 128
"""Decay of weights: c = 1 - m * 2^-24 for m up to the first; two neighbouring m after each other, as under a schedule,
are tried where all steps together add up to no more than the second."""


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

    >>> old = np.linspace(1, 2, 1000, dtype="<f4")
    >>> new = (old * 0.98 + 1e-5 * np.sin(np.arange(1000))).astype("<f4")
    >>> (scaled,) = fit(DType.F32, [(new.tobytes(), old.tobytes())]).predictors
    >>> type(scaled).__name__, round(scaled.a, 3)
    ('Scaled', 0.98)
    """
    plain = Parameters(dtype, (Previous(),))
    if dtype not in COMPUTED_DTYPES or not scaled:
        return plain
    format_ = floats.FORMATS[dtype]
    length = block_length(row)
    whole = [_whole_blocks(new, old, length * format_.word_bytes) for new, old in samples]
    new, old = (b"".join(sides) for sides in zip(*whole, strict=True)) if whole else (b"", b"")
    if len(new) < _LEAST_WORDS * format_.word_bytes or new == old:
        return plain
    new_words, old_words = (order.words(np.frombuffer(side, np.uint8), dtype) for side in (new, old))
    candidates: list[Predictor] = [Previous()]
    factor = _factor(new_words, old_words, format_)
    if factor is not None:
        candidates.append(Scaled(factor))
    decayed = _find_decay(new_words, old_words, format_, length)
    if decayed is not None:
        candidates.append(decayed)
    if len(candidates) == 1:
        return plain
    costs = _costs(dtype, new, old, candidates, length)  # (predictors, blocks)
    return Parameters(dtype, tuple(candidates[place] for place in _selected(costs, share)))


def _whole_blocks(new: Buffer, old: Buffer, block_bytes: int) -> tuple[bytes, bytes]:
    """Return as many whole blocks as there are, or all of it if there is none, so that pieces join at block ends."""
    one, other = bytes(new), bytes(old)
    size = len(one) // block_bytes * block_bytes or len(one)
    return one[:size], other[:size]


def _costs(dtype: DType, new: bytes, old: bytes, candidates: Sequence[Predictor], length: int) -> npt.NDArray[np.int64]:
    found = kernels.current.block_costs(dtype.code, new, Parameters(dtype, tuple(candidates)).to_bytes(), [old], length)
    return np.frombuffer(found, "<u4").astype(np.int64).reshape(len(candidates), -1)


def _selected(costs: npt.NDArray[np.int64], share: float) -> list[int]:
    """Return the predictors that pay, `Previous` first wherever it does as well.

    Args:
        costs: sums of tokens, (predictors, blocks).
        share: what part of the tensor the blocks are.
    """
    blocks = costs.shape[1]
    price = _BIT * _CONSTANT_BITS * share

    def total(chosen: Sequence[int]) -> float:
        tokens: int = costs[list(chosen)].min(axis=0).sum().item()
        selectors: int = _BIT * blocks * (0, 1, 2, 2)[len(chosen) - 1]
        return tokens + selectors + price * sum(place > 0 for place in chosen)

    best = min(([place] for place in range(len(costs))), key=total)
    while len(best) < len(costs):
        more = min((sorted([*best, place]) for place in range(len(costs)) if place not in best), key=total)
        if total(more) >= total(best):
            break
        best = more
    return best


def _sum(values: Numbers) -> float:
    running: Numbers = np.add.accumulate(values)
    return float(running[-1])  # from front to back, whatever the machine


def _factor(new: Words, old: Words, format_: Format) -> float | None:
    """Return a for which a * old comes nearest to new in the sum of absolute differences, or None.

    Least squares, reweighted three times towards the absolute value.
    """
    usable = np.flatnonzero(~(floats.special(new, format_) | floats.special(old, format_)))
    if usable.size < _LEAST_WORDS:
        return None
    usable = usable[:: max(1, usable.size // _FIT_WORDS)]
    target, base = floats.numbers(new[usable], format_), floats.numbers(old[usable], format_)
    largest = float(np.abs(base).max())
    target, base = target / largest, base / largest  # squares neither overflow nor vanish
    square, product = base * base, base * target
    weights = np.ones_like(base)
    factor = 1.0
    for _ in range(4):
        below = _sum(weights * square)
        if not below > 0:
            return None
        factor = _sum(weights * product) / below
        misses = np.abs(target - factor * base)
        floor = 0.3 * float(np.sort(misses)[misses.size // 2])
        if floor == 0:
            break
        weights = 1 / np.maximum(misses, floor)
    return factor if math.isfinite(factor) and factor not in (0.0, 1.0) else None


def _find_decay(new: Words, old: Words, format_: Format, length: int) -> Decayed | None:
    """Return the decay that reproduces blocks whose elements all changed by one factor, if there are such blocks."""
    blocks = new.size // length
    if not blocks:
        return None
    chosen = np.arange(0, blocks, max(1, blocks // _SUSPECTS))
    words = min(length, _SUSPECT_WORDS)
    places = chosen[:, None] * length + np.arange(words)  # (suspects, words)
    after, before = new[places], old[places]
    usable = ~(floats.special(after, format_) | floats.special(before, format_))
    with np.errstate(all="ignore"):
        ratios = floats.numbers(after.reshape(-1), format_) / floats.numbers(before.reshape(-1), format_)
    ratios = np.where(usable, ratios.reshape(places.shape), np.nan)
    present = usable.sum(axis=1)
    ordered = np.sort(ratios, axis=1)  # NaN last
    middle = ordered[np.arange(chosen.size), np.maximum(present - 1, 0) // 2]
    with np.errstate(all="ignore"):
        spread = np.nanmax(np.where(usable, np.abs(ratios / middle[:, None] - 1), 0.0), axis=1)
    one_factor = (present >= words // 2) & (present > 4) & (middle > 0) & (middle != 1.0)
    one_factor &= spread < 2.0 ** ((5 if format_ is floats.BINARY32 else 2) - format_.mantissa)
    if not one_factor.any():
        return None
    found = np.flatnonzero(one_factor)
    found = found[np.argsort(spread[found], kind="stable")][:_WITNESSES]
    witnesses = usable[found].reshape(-1)
    after, before = after[found].reshape(-1)[witnesses], before[found].reshape(-1)[witnesses]
    ratio = float(np.sort(middle[found])[found.size // 2])
    return _known_decay(ratio, after, before, format_) or _weight_decay(ratio, after, before, format_)


def _known_decay(ratio: float, after: Words, before: Words, format_: Format) -> Decayed | None:
    """Return a decay of moments that makes `after` of `before`, if one does."""
    for beta in _BETAS:
        # multiplied by beta in binary32, or moved by 1 - beta towards zero in one fused step
        for c in (float(np.float32(beta)), 1.0 - float(np.float32(1.0 - beta))):
            guess = round(math.log(ratio) / math.log(c))
            for steps in (guess, guess - 1, guess + 1):
                if not 1 <= steps <= (MAX_STEPS if format_ is floats.BINARY32 else _SHORT_STEPS):
                    continue
                # Each step rounds by half a unit in the last place at most.
                if abs(c**steps / ratio - 1) > (steps + 2) * 2.0**-format_.mantissa:
                    continue
                decay = Decayed(((c, steps),))
                if _witnessed(predict.predicted(decay, [before], format_) == after):
                    return decay
    return None


def _weight_decay(ratio: float, after: Words, before: Words, format_: Format) -> Decayed | None:
    """Return a decoupled weight decay that makes `after` of `before`: repeated, or two of them one after the other.

    In binary32 each factor is 1 - m * 2^-24 with a small m. How far one step moves a word depends on how it rounds, so
    the number of steps is found by doing them.
    """
    shift = (1 - ratio) * 2**24
    if format_ is not floats.BINARY32 or not 0.5 <= shift <= _MOST_DECREMENTS * MAX_STEPS:
        return None
    target, base = after.view("<f4"), before.view("<f4")
    best, most = None, _AGREEMENT  # some that are not it reproduce two words of three
    for decrement in range(1, _MOST_DECREMENTS + 1):
        if decrement * MAX_STEPS < shift / 2:
            continue
        factor = np.float32(1 - decrement * 2.0**-24)
        states = [base]
        while len(states) <= MAX_STEPS and not _passed(states[-1], target):
            states.append(states[-1] * factor)
            agreed = float((states[-1] == target).mean())
            if agreed > most:
                best, most = Decayed(((float(factor), len(states) - 1),)), agreed
        if shift > _LONGEST_SHIFT or most == 1:
            continue
        for other in (decrement - 1, decrement + 1):
            if not other:
                continue
            more = np.float32(1 - other * 2.0**-24)
            table = np.stack(states[1:-1] or states[:1])  # (steps of the first, words)
            for steps in range(1, MAX_STEPS - len(states)):
                table = table * more
                shares = (table == target).mean(axis=1)
                at = int(shares.argmax())
                if float(shares[at]) > most:
                    best, most = Decayed(((float(factor), 1 + at), (float(more), steps))), float(shares[at])
                if _passed(table[0], target):
                    break
    return best


def _witnessed(agrees: Mask) -> bool:
    return bool(agrees.mean() > _AGREEMENT)


def _passed(now: npt.NDArray[np.float32], target: npt.NDArray[np.float32]) -> bool:
    """Whether most words have become smaller than they should."""
    return bool((np.abs(now) < np.abs(target)).mean() > _AGREEMENT)
