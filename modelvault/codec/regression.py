"""What several references foretell together: factors of a base and of terms, fitted on a sample of all of them.

For `repack` at its highest effort, where the search may take its time; the decoder is the same. Terms are taken up one
after the other, whichever saves most, as long as one pays. Factors are those of the least sum of absolute differences,
come to by least squares that are weighted anew a few times.

Sums run from front to back and nothing depends on the machine: the same sample gives the same predictors everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from modelvault.codec import floats, order, predict, residual_rans
from modelvault.codec.blocks import block_length
from modelvault.codec.floats import Format, Levels, Numbers
from modelvault.codec.order import Words
from modelvault.codec.parameters import (
    COMPUTED_DTYPES,
    MAX_PREDICTORS,
    MAX_TERMS,
    Combined,
    Parameters,
    Predictor,
    Previous,
    Term,
)
from modelvault.tensors import DType

if TYPE_CHECKING:
    from typing_extensions import Buffer

_FIT_WORDS = 16384
"""Words that factors are fitted on. GPT, AdamW, weights by both moments: 4096 words 22.23 bits, 16384 22.20, 65536
22.20."""

_LEAST_WORDS = 256

_ROUNDS = 6
"""Least squares that are solved for one set of terms: the first counts all words alike."""

_BIT = 2
"""Tokens add up to about two a bit: two of them make an octave."""

_TERM_BITS = 8 * 18
_REFERENCE_BITS = 8 * 3
"""What a term takes in the parameters, and what its reference does in the tensor's record."""


_CHANCE_BITS = 0.01
"""Bits a word that a term must save: sums of tokens know lengths no better. A constant "saved" 0.004."""


def fit_terms(
    dtype: DType,
    samples: Sequence[tuple[Buffer, Sequence[Buffer]]],
    terms: Sequence[Term],
    known: Sequence[Predictor] = (Previous(),),
    *,
    row: int = 0,
    share: float = 1.0,
) -> Parameters:
    """Return parameters whose blocks choose among known predictors and the best sum of some of these terms.

    Args:
        dtype: of the elements.
        samples: pieces of the tensor, each with those at the same place of all references, as long.
        terms: what might be added to the base; their factors are not looked at.
        known: predictors of the base alone, such as `fit` finds.
        row: words of a row, 0 where there are none.
        share: what part of the tensor the pieces are.

    >>> from modelvault.codec.parameters import TermKind
    >>> start, step = np.linspace(1, 2, 1000), np.sin(np.arange(1000)) / 100
    >>> one, two, three = ((start + n * step).astype("<f4").tobytes() for n in range(3))
    >>> found = fit_terms(DType.F32, [(three, [two, one])], [Term(TermKind.WORD, 1, 1.0)]).predictors[0]
    >>> round(found.a, 3), round(found.terms[0].factor, 3)
    (2.0, -1.0)
    """
    plain = Parameters(dtype, tuple(known))
    format_ = floats.FORMATS.get(dtype)
    if dtype not in COMPUTED_DTYPES or format_ is None or not samples:
        return plain
    length = block_length(row)
    words, *references = _joined(samples, dtype, length)
    if words.size < _LEAST_WORDS:
        return plain
    fitting = _Fitting(words, references, format_)
    price = _BIT * (_TERM_BITS + _REFERENCE_BITS) * share + _BIT * _CHANCE_BITS * words.size
    best: Combined | None = None
    costs = residual_rans.token_sums(words, format_, known, references, length)
    least = float(costs.min(axis=0).sum())
    chosen: list[Term] = []
    found = costs
    for _ in range(min(MAX_TERMS, len(terms))):
        trials: list[tuple[float, int, Combined, Levels, Term]] = []
        for term in terms:
            if term in chosen:
                continue
            combined = fitting.combined([*chosen, term])
            if combined is not None:
                sums = residual_rans.token_sums(words, format_, [combined], references, length)
                trials.append((float(np.minimum(costs.min(axis=0), sums[0]).sum()), len(trials), combined, sums, term))
        if not trials:
            break
        cost, _, combined, sums, term = min(trials, key=lambda trial: trial[:2])
        if cost + price >= least:
            break
        best, least, found = combined, cost, sums
        chosen.append(term)
    if best is None:
        return plain
    return Parameters(dtype, _selected([*known, best], np.concatenate((costs, found))))


def agreement(dtype: DType, new: Buffer, old: Buffer, moved: Buffer) -> float:
    """Return how far the signs of `moved` go with those of `new - old`: 1 always, -1 never, 0 as by chance.

    Words that did not move, or are no numbers to be computed with, do not count.

    >>> one, two, three = (np.array(values, "<f4").tobytes() for values in ([1, 2, 3, 4], [1, 1, 4, 3], [9, 1, -1, -1]))
    >>> round(agreement(DType.F32, one, two, three), 3)
    0.333
    """
    format_ = floats.FORMATS.get(dtype)
    if dtype not in COMPUTED_DTYPES or format_ is None:
        return 0.0
    sides = [order.words(np.frombuffer(memoryview(side), np.uint8), dtype) for side in (new, old, moved)]
    places = slice(None, None, max(1, sides[0].size // _FIT_WORDS))
    sides = [side[places] for side in sides]
    usable = ~np.logical_or.reduce([floats.special(side, format_) for side in sides])
    numbers = [floats.numbers(side[usable], format_) for side in sides]
    signs = np.sign(numbers[0] - numbers[1]) * np.sign(numbers[2])
    counted = int(np.count_nonzero(signs))
    return float(signs.sum()) / counted if counted else 0.0


def _selected(predictors: Sequence[Predictor], costs: Levels) -> tuple[Predictor, ...]:
    """Return the last predictor and those others that pay for the bits that tell which one a block takes."""
    kept = [len(predictors) - 1]

    def total(some: Sequence[int]) -> float:
        bits = (0, 1, 2, 2)[len(some) - 1]
        tokens: int = costs[list(some)].min(axis=0).sum().item()
        blocks: int = costs.shape[1]
        return tokens + _BIT * bits * blocks

    while len(kept) < min(len(predictors), MAX_PREDICTORS):
        more = min((sorted([*kept, at]) for at in range(len(predictors)) if at not in kept), key=total)
        if total(more) >= total(kept):
            break
        kept = more
    return tuple(predictors[at] for at in kept)


def _joined(samples: Sequence[tuple[Buffer, Sequence[Buffer]]], dtype: DType, length: int) -> list[Words]:
    """Return the words of the tensor and of each reference, in whole blocks where there are any."""
    pieces: list[list[Words]] = []
    for new, references in samples:
        sides = [order.words(np.frombuffer(memoryview(side), np.uint8), dtype) for side in (new, *references)]
        size = sides[0].size // length * length or sides[0].size
        pieces.append([side[:size] for side in sides])
    return [np.concatenate(sides) for sides in zip(*pieces, strict=True)]


class _Fitting:
    """Solves for factors on some words."""

    def __init__(self, words: Words, references: Sequence[Words], format_: Format) -> None:
        usable = np.flatnonzero(~(floats.special(words, format_) | floats.special(references[0], format_)))
        usable = usable[:: max(1, usable.size // _FIT_WORDS)]
        self._words, self._format = words[usable], format_
        self._references = [reference[usable] for reference in references]
        self._target = floats.numbers(self._words, format_)
        self._base = floats.numbers(self._references[0], format_)

    def combined(self, terms: Sequence[Term]) -> Combined | None:
        """Return the predictor of these terms with the factors that do best, or None if there are none."""
        if self._target.size < _LEAST_WORDS:
            return None
        with np.errstate(all="ignore"):
            columns = [self._base, *(predict.moved_by(term, self._references, self._format) for term in terms)]
        finite = np.logical_and.reduce([np.isfinite(column) for column in columns])
        columns = [np.where(finite, column, 0.0) for column in columns]
        largest = [float(np.abs(column).max()) for column in columns]
        if not all(0 < size < 1e300 for size in largest):
            return None
        columns = [column / size for column, size in zip(columns, largest, strict=True)]
        target = self._target / largest[0]
        weights = finite.astype(np.float64)
        factors: list[float] | None = None
        for _ in range(_ROUNDS):
            weighted = [weights * column for column in columns]
            factors = _solved(
                [[_sum(one * other) for other in columns] for one in weighted], [_sum(one * target) for one in weighted]
            )
            if factors is None:
                return None
            foretold = sum(
                (factor * column for factor, column in zip(factors, columns, strict=True)), start=0.0 * target
            )
            misses = np.abs(target - foretold)
            floor = 0.3 * float(np.partition(misses, misses.size // 2)[misses.size // 2])
            if floor == 0:
                break
            weights = finite / np.maximum(misses, floor)
        assert factors is not None
        scaled = [factor * largest[0] / size for factor, size in zip(factors, largest, strict=True)]
        if not np.isfinite(scaled).all():
            return None
        a, *rest = scaled
        return Combined(
            a,
            tuple(
                Term(term.kind, term.reference, factor, term.epsilon) for term, factor in zip(terms, rest, strict=True)
            ),
        )


def _sum(values: Numbers) -> float:
    running: Numbers = np.add.accumulate(values)
    return float(running[-1])


def _solved(matrix: list[list[float]], right: list[float]) -> list[float] | None:
    """Return the solution of a small symmetric system, or None if it is as good as singular."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    count = len(rows)
    for at in range(count):
        pivot = max(range(at, count), key=lambda place: abs(rows[place][at]))
        rows[at], rows[pivot] = rows[pivot], rows[at]
        if not abs(rows[at][at]) > 1e-13 * abs(matrix[at][at]):
            return None
        for below in range(at + 1, count):
            share = rows[below][at] / rows[at][at]
            rows[below] = [one - share * other for one, other in zip(rows[below], rows[at], strict=True)]
    found = [0.0] * count
    for at in range(count - 1, -1, -1):
        known = 0.0
        for place in range(at + 1, count):
            known += rows[at][place] * found[place]
        found[at] = (rows[at][count] - known) / rows[at][at]
    return found
