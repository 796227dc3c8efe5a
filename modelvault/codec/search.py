"""Which predictors do best on some words and their references, in numpy: `codec.native.fit` finds the same ones.

Sums have eight lanes, which take terms in turn and are added up in order; every other step rounds once or is one of
integers. So all implementations come to the same predictors, to the bit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from modelvault.codec import floats, predict, residual_rans
from modelvault.codec.floats import Format, Levels, Mask, Numbers
from modelvault.codec.order import Words
from modelvault.codec.parameters import MAX_STEPS, Decayed, Predictor, Previous, Scaled

LEAST_WORDS = 64
"""Below this nothing but `Previous` pays for its constants."""

_FIT_WORDS, _LEAST_RATIOS = 256, 32
"""Words whose ratios tell the factor, about, and how many must have moved. Bytes by those with least squares on 512
words, weighted anew three times: ShuffleNet after SGD 0.984, checkpoints of it 0.974, of GPT after AdamW 0.990, of
MiniLM 0.998, nine other histories 0.9990 to 1.0003. With 512 ratios all are within 0.001 of that, and to find
ShuffleNet's predictors takes 1.2 times as long."""

_COST_BLOCKS, _COST_WORDS = 32, 64
"""Where no decay was found, so many blocks tell, about, which predictors pay, each by its first words. With blocks that
are whole each of 21 histories takes 0.9997 to 1.0007 of the bytes."""

_BIT = 2
"""Tokens add up to about two a bit: two of them make an octave."""

_CONSTANT_BITS = 8 * 10
"""About what a predictor's constants take in the tensor's record."""

_WORTH = 0.99
"""What another predictor may leave of what there is without it. Where the choice matters less, chunks become longer, if
anything: MiniLM 25,101 kB, with this 25,086; ResNet 26,042 and 26,036. And each predictor takes a tenth of the time."""

_SUSPECTS = 64
_SUSPECT_WORDS = 32
"""Blocks, and words of each, in which one common factor is looked for."""

_WITNESSES = 8
_AGREEMENT = 0.6
"""Blocks that a decay is tried on, and what share of their words that changed it must reproduce to the bit. Some of
them may have had a gradient once."""

_FIRST_WITNESSES = 32
_FIRST_AGREEMENT = 0.3
"""Words that are tried first, and what share of them must agree for the others to be tried."""

_BETAS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99999)
"""What optimizers multiply moments with at each step."""

_SHORT_STEPS = 64
"""In 16 bits longer decays leave nothing that could be told apart."""

_LEAST_UNITS = 4
"""In 16 bits what decayed by less is as good as moved by a step or two, which nearly any decay would reproduce."""

_MOST_DECREMENTS = 64
_LONGEST_SHIFT = 128
"""Decay of weights: c = 1 - m * 2^-24 for m up to the first; two neighbouring m after each other, as under a schedule,
are tried where all steps together add up to no more than the second."""


def find(format_: Format, new: Words, old: Words, length: int, share: float) -> tuple[Predictor, ...]:
    """Return the predictors that pay.

    Args:
        format_: of the words.
        new: words to predict, at least `LEAST_WORDS`; they do not all equal `old`.
        old: the reference's words at the same places.
        length: words of a block.
        share: what part of the tensor the words are.
    """
    candidates: list[Predictor] = [Previous()]
    part = 1.0
    factor = _factor(new, old, format_)
    if factor is not None:
        candidates.append(Scaled(factor))
    decay = _find_decay(new, old, format_, length)
    if decay is not None:
        candidates.append(decay)
    elif factor is None:
        return (Previous(),)
    elif new.size >= length:
        blocks = new.size // length
        step, words = max(1, blocks // _COST_BLOCKS), min(length, _COST_WORDS)
        new, old = (side[: blocks * length].reshape(-1, length)[::step, :words].reshape(-1) for side in (new, old))
        part = words / length
        share *= part / step
        length = words
    costs = residual_rans.token_sums(new, format_, candidates, [old], length)
    return tuple(candidates[place] for place in _selected(costs, part, share))


def _selected(costs: Levels, part: float, share: float) -> list[int]:
    """Return the predictors that pay, `Previous` first wherever it does as well.

    Args:
        costs: sums of tokens, (predictors, blocks).
        part: what part of each block they are of.
        share: what part of the tensor.
    """
    blocks = costs.shape[1]
    price = _BIT * _CONSTANT_BITS * share

    def total(chosen: Sequence[int]) -> float:
        tokens: int = costs[list(chosen)].min(axis=0).sum().item()
        selectors: int = _BIT * blocks * (0, 1, 2, 2)[len(chosen) - 1]
        return tokens + part * selectors + price * sum(place > 0 for place in chosen)

    best = min(([place] for place in range(len(costs))), key=total)
    while len(best) < len(costs):
        more = min((sorted([*best, place]) for place in range(len(costs)) if place not in best), key=total)
        if total(more) >= total(best) * _WORTH:
            break
        best = more
    return best


def _factor(new: Words, old: Words, format_: Format) -> float | None:
    """Return the middle ratio of words that moved to what they were, or None if too few did, or it is of no use.

    Where many words were only multiplied, as by weight decay or momentum, the middle one is what they were multiplied
    with, however far the others have gone. Of an even number it is the larger one in the middle.
    """
    step = new.size // _FIT_WORDS | 1  # odd: rows often have an even number of words
    new, old = new[::step], old[::step]
    usable = (new != old) & ~(floats.special(new, format_) | floats.special(old, format_))
    if np.count_nonzero(usable) < _LEAST_RATIOS:
        return None
    with np.errstate(over="ignore", under="ignore"):
        ratios = (floats.numbers(new[usable], format_) / floats.numbers(old[usable], format_)).astype(np.float32)
    factor = float(np.sort(ratios)[ratios.size // 2])
    # Words of 16 bits that moved by a unit have such ratios too, and none tells which others did.
    nearest = 0.0 if format_ is floats.BINARY32 else 2.0**-format_.mantissa
    return factor if math.isfinite(factor) and factor != 0 and abs(factor - 1) > nearest else None


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
        spread = np.where(usable, np.abs(ratios / middle[:, None] - 1), 0.0).max(axis=1)
    highest = 1.0 if format_ is floats.BINARY32 else 1 - _LEAST_UNITS * 2.0**-format_.mantissa
    one_factor = (present >= words // 2) & (present > 4) & (middle > 0) & (middle < highest)
    one_factor &= (ratios <= 1.0).sum(axis=1) > _AGREEMENT * present  # what decays grows nowhere
    one_factor &= spread < 2.0 ** ((5 if format_ is floats.BINARY32 else 2) - format_.mantissa)
    if not one_factor.any():
        return None
    found = np.flatnonzero(one_factor)
    found = found[np.argsort(spread[found], kind="stable")][:_WITNESSES]
    witnesses = (usable & (after != before))[found].reshape(-1)
    after, before = after[found].reshape(-1)[witnesses], before[found].reshape(-1)[witnesses]
    ratio = float(np.sort(middle[found])[found.size // 2])
    return _known_decay(ratio, after, before, format_) or _weight_decay(ratio, after, before, format_)


@functools.cache
def _powers(c: float) -> Numbers:
    """Return c, c * c and so on, each product rounded."""
    found: Numbers = np.multiply.accumulate(np.full(MAX_STEPS, c))
    return found


def _known_decay(ratio: float, after: Words, before: Words, format_: Format) -> Decayed | None:
    """Return a decay of moments that makes `after` of `before`, if one does."""
    longest = MAX_STEPS if format_ is floats.BINARY32 else _SHORT_STEPS
    for beta in _BETAS:
        # multiplied by beta in binary32, or moved by 1 - beta towards zero in one fused step
        for c in (float(np.float32(beta)), 1.0 - float(np.float32(1.0 - beta))):
            powers = _powers(c)[:longest]
            guess = 1 + int(np.count_nonzero(powers > ratio))  # the first that is not above
            for steps in (guess, guess - 1, guess + 1):
                if not 1 <= steps <= longest:
                    continue
                # Each step rounds by half a unit in the last place at most.
                if abs(powers[steps - 1] / ratio - 1) > (steps + 2) * 2.0**-format_.mantissa:
                    continue
                decay = Decayed(((c, steps),))
                if _is_witnessed(decay, after, before, format_):
                    return decay
    return None


def _is_witnessed(decay: Decayed, after: Words, before: Words, format_: Format) -> bool:
    some = slice(_FIRST_WITNESSES)
    if not _share(predict.predicted(decay, [before[some]], format_) == after[some]) > _FIRST_AGREEMENT:
        return False
    return _share(predict.predicted(decay, [before], format_) == after) > _AGREEMENT


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
            agreed = _share(states[-1] == target)
            if agreed > most:
                best, most = Decayed(((float(factor), len(states) - 1),)), agreed
        if shift > _LONGEST_SHIFT or most == 1 or len(states) < 3:
            continue
        for other in (decrement - 1, decrement + 1):
            if not other:
                continue
            more = np.float32(1 - other * 2.0**-24)
            table = np.stack(states[1:-1])  # (steps of the first, words)
            for steps in range(1, MAX_STEPS - len(states)):
                table = table * more
                agreements = np.count_nonzero(table == target, axis=1)
                at = int(agreements.argmax())
                if agreements[at] / target.size > most:
                    best, most = Decayed(((float(factor), 1 + at), (float(more), steps))), agreements[at] / target.size
                if _passed(table[0], target):
                    break
    return best


def _share(agrees: Mask) -> float:
    return int(np.count_nonzero(agrees)) / agrees.size


def _passed(now: npt.NDArray[np.float32], target: npt.NDArray[np.float32]) -> bool:
    """Whether most words have become smaller than they should."""
    return _share(np.abs(now) < np.abs(target)) > _AGREEMENT
