"""Two factors whose product is nearly what rows of numbers are: how weights changed, and means of gradients.

The gradient of a matrix is a sum of products, of what went in and of what came back, one for each example or position;
what an optimizer makes of a few has few directions that matter. They are found as by Halko, Martinsson and Tropp
("Finding Structure with Randomness", 2011, section 4): sums of rows with signs as good as random are a sketch of them
all, the rows times the sketch span the directions, and among so few an exact decomposition tells what each is worth.

Numbers are rounded to small integers first, so that long sums are exact in any order. What is binary64 are matrices as
small as the sketch, in a fixed order, each operation rounded by itself: compiled loops find the same.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from modelvault.codec.floats import Numbers

Integers: TypeAlias = npt.NDArray[np.int64]
"""Two dimensions, or one."""

Singles: TypeAlias = npt.NDArray[np.float32]

Matrix: TypeAlias = npt.NDArray[np.float64]
"""Two dimensions."""

LEAST_SIDE, MOST_SIDE = 16, (1 << 13) - 1
"""Rows and columns of what is looked at: sums stay within 32 bits."""

SOME_COLUMNS = 512
"""A few rows are looked at first, so many columns of them."""

MOST = 255
"""Directions that a body may have."""

MOST_FACTOR = (1 << 15) - 1

_MOST_NUMBER = 127

_BITS = 3
"""Numbers are rounded so that the root of their mean square is 8 to 16: what that adds is a thousandth."""

_DIRECTIONS = 16
"""That are looked for. With 32 GPT after AdamW takes 1 % fewer bytes (in bf16 4 %) and ResNet after SGD 0.9 %, and what
finds them takes twice as long."""

_SKETCH_BITS, _BITS_BETWEEN = 10, 11
"""Of integers between products, so that no sum of them passes 2^31."""

_SPAN_ROOT, _MOST_IN_SPAN = 256.0, (1 << _BITS_BETWEEN) - 1
"""The root of the mean square of lines that are at right angles, and the most that one of their integers has."""

_SWEEPS = 4
"""Of rotations: what is left beside the diagonal then is worth nothing."""

_COST = 5.0
"""Bits of a number in a factor, with what it takes to be found and multiplied: 3 to 5, measured."""

_SAVED = 0.72
"""Bits of each word, at least, by the share of the squares that a direction takes away: half a binary logarithm."""

_ROUNDING = 1 / 12
"""What is left of squares where numbers were rounded to integers."""

_MOST_NOISE = 0.12
"""The most that rounding of factors adds to the squares that are left. Else it adds as large a share as there are
numbers in factors by words, where a finer rounding takes as many bytes as it saves: against 0.12 throughout, GPT after
AdamW takes 0.6 % fewer bytes, in bf16 2.3 %. Checkpoints of ResNet after SGD, with 0.28 numbers by words, take 0.03 %
more with 0.2."""

_NOTHING = 1e-12
"""A direction of which less is not in those before it, by squares, is in them: what is left are roundings."""


class Factors(NamedTuple):
    """Numbers are nearly `s` times the product.

    Attributes:
        s: the unit, a binary32.
        left: a row for each row of the numbers, a column for each direction; up to `MOST_FACTOR`.
        right: a row for each direction, a column for each column.
    """

    s: float
    left: Integers
    right: Integers

    def numbers(self) -> Singles:
        """Return what they give, row by row, in one dimension: of products, as 32 bits with a sign hold them."""
        exact = (self.left.astype(np.float64) @ self.right.astype(np.float64)).astype(np.int64)
        held = exact.astype(np.uint32).view(np.int32).astype(np.float32)
        with np.errstate(all="ignore"):
            found: Singles = np.float32(self.s) * held.ravel()
        return found


def some_rows(rows: int) -> Integers:
    """Return which few of so many rows are looked at first."""
    return np.arange(LEAST_SIDE) * rows // LEAST_SIDE


def unit_of(root: float) -> float:
    """Return the power of two that numbers of such a root mean square are rounded to, 0 if that is too far off."""
    if not 2.0**-100 < root < 2.0**100:
        return 0.0
    return math.ldexp(1.0, math.frexp(root)[1] - 1 - _BITS)


def integers(numbers: Singles, unit: float) -> Integers:
    """Return numbers by their unit, the largest ones held."""
    with np.errstate(over="ignore"):
        scaled = numbers * np.float32(1 / unit)
    held: Integers = np.rint(np.clip(scaled, -_MOST_NUMBER, _MOST_NUMBER)).astype(np.int64)
    return held


class Likeness(NamedTuple):
    """What a few rows tell.

    Attributes:
        cosines: the mean of squared cosines between them: 1 if all are the same, one by columns if by chance.
        squares: the sum of squares.
        weak: how many rows have less than a quarter of the mean of those.
    """

    cosines: float
    squares: int
    weak: int


def likeness(some: Integers) -> Likeness:
    """Return how alike the directions of a few rows are."""
    exact = some.astype(np.float64)
    products = exact @ exact.T
    alike = 0.0
    for i in range(len(some)):
        for j in range(i):
            product, own = float(products[i, j]), float(products[i, i]) * float(products[j, j])
            alike += product * product / own if own else 0.0
    squares = int(products.trace())
    weak = int(np.count_nonzero(products.diagonal() * 4 * len(some) < squares))
    return Likeness(alike / (len(some) * (len(some) - 1) / 2), squares, weak)


def found(numbers: Integers, unit: float, words: int) -> Factors | None:
    """Return the factors that are worth their bytes, None if there are none.

    Args:
        numbers: in rows, `LEAST_SIDE` to `MOST_SIDE` each way; up to 127.
        unit: what they are multiples of.
        words: how many of them are told. Others are 0.
    """
    rows, columns = numbers.shape
    exact = numbers.astype(np.float64)
    sketch, _ = _narrowed(_sketched(numbers), _SKETCH_BITS)
    first, _ = _narrowed(_exactly(sketch @ exact.T), _BITS_BETWEEN)
    angles = _solved(_cholesky(first @ first.T), np.eye(_DIRECTIONS)) * (_SPAN_ROOT * math.sqrt(rows))
    span = _combined(first, angles, _MOST_IN_SPAN).astype(np.float64)
    part, shift = _narrowed(_exactly(span @ exact), _BITS_BETWEEN)
    lower = _cholesky(span @ span.T)
    energies, turned = _eigen(_between(lower, part @ part.T))
    energies = np.ldexp(energies, 2 * shift)
    chosen, left, total = list[int](), float((numbers * numbers).sum()), 0.0
    for at in np.argsort(-energies, kind="stable"):
        energy = float(energies[at])
        many = (len(chosen) + 1) * (rows + columns)
        if many > words or not _SAVED * energy * words > _COST * (rows + columns) * left:
            break
        chosen.append(int(at))
        left = max(left - energy, words * _ROUNDING)
        total += math.sqrt(energy)
    if not chosen:
        return None
    noise = min(len(chosen) * (rows + columns) / words, _MOST_NOISE)
    step = math.sqrt(12 * noise * left / (total * (rows + columns)))
    by = _solved(lower, turned[:, chosen])
    roots = np.sqrt(np.sqrt(energies[chosen]))
    return Factors(
        float(np.float32(step * step * unit)),
        _combined(span, by * (roots / step), MOST_FACTOR).T,
        _combined(part, np.ldexp(by, shift) * (1 / (roots * step)), MOST_FACTOR),
    )


def _exactly(products: Matrix) -> Integers:
    return products.astype(np.int64)


def _sketched(numbers: Integers) -> Integers:
    """Return sums of rows, each row in one of so many and with a sign."""
    rows, columns = numbers.shape
    turn = np.arange(rows) // _DIRECTIONS + 1
    signs = 1 - 2 * (turn * 0x9E3779B1 >> 15 & 1)
    padded = np.zeros((-(-rows // _DIRECTIONS) * _DIRECTIONS, columns), np.int64)
    padded[:rows] = numbers * signs[:, None]
    sums: Integers = padded.reshape(-1, _DIRECTIONS, columns).sum(0)
    return sums


def _narrowed(values: Integers, width: int) -> tuple[Matrix, int]:
    """Return integers shifted until they have so many bits without their signs, and by how much."""
    shift = max(0, int(np.abs(values).max()).bit_length() - width)
    return (values >> shift).astype(np.float64), shift


def _combined(lines: Matrix, by: Matrix, most: int) -> Integers:
    """Return sums of lines, one for each column of `by`, in the order of the lines and in binary32, as integers."""
    made = np.zeros((by.shape[1], lines.shape[1]), np.float32)
    with np.errstate(all="ignore"):
        for line, times in zip(lines.astype(np.float32), by.astype(np.float32), strict=True):
            made += times[:, None] * line
    return np.rint(np.clip(made, -most, most)).astype(np.int64)


def _cholesky(gram: Matrix) -> Matrix:
    """Return the lower factor, with columns of 0 for what is in those before it."""
    lower = np.zeros_like(gram)
    for j in range(len(gram)):
        column = gram[j:, j].copy()
        for k in range(j):
            column -= lower[j:, k] * lower[j, k]
        if column[0] > _NOTHING * gram[j, j]:
            lower[j:, j] = column * (1 / math.sqrt(column[0]))
    return lower


def _between(lower: Matrix, gram: Matrix) -> Matrix:
    """Return the matrix with the inverse of the factor on its left, and that turned on its right."""
    return _divided(lower, _divided(lower, gram).T).T


def _divided(lower: Matrix, other: Matrix) -> Matrix:
    """Return what the factor gives `other` times; lines of 0 where it has none."""
    made = np.zeros(other.shape)
    for i in range(len(lower)):
        line = other[i].copy()
        for k in range(i):
            line -= lower[i, k] * made[k]
        if lower[i, i] > 0:
            made[i] = line * (1 / lower[i, i])
    return made


def _solved(lower: Matrix, turned: Matrix) -> Matrix:
    """Return what the factor, turned, gives `turned` times; lines of 0 where it has none."""
    made = np.zeros(turned.shape)
    for i in range(len(lower) - 1, -1, -1):
        line = turned[i].copy()
        for k in range(i + 1, len(lower)):
            line -= lower[k, i] * made[k]
        if lower[i, i] > 0:
            made[i] = line * (1 / lower[i, i])
    return made


def _eigen(matrix: Matrix) -> tuple[Numbers, Matrix]:
    """Return eigenvalues and vectors, one a column, of a symmetric matrix, nearly: by rotations of pairs, in rounds."""
    size = len(matrix)
    half, a, vectors = size // 2, matrix.copy(), np.eye(size)
    order = _next_round(size)
    for _ in range(_SWEEPS * (size - 1)):
        p, q = np.arange(half), np.arange(half, size)
        cosine, sine = _turns(a[p, p], a[q, q], a[p, q])
        for some in (a, a.T, vectors):
            one, other = some[:half].copy(), some[half:].copy()
            some[:half] = cosine[:, None] * one - sine[:, None] * other
            some[half:] = sine[:, None] * one + cosine[:, None] * other
        a, vectors = a[np.ix_(order, order)], vectors[order]
    return a.diagonal().copy(), vectors.T


def _next_round(size: int) -> Integers:
    """Return where lines come from, so that all have met after `size - 1` rounds: the first stays, others go around."""
    half = size // 2
    order = [0, half, *range(1, half - 1), *range(half + 1, size), half - 1]
    return np.array(order, np.int64)


def _turns(pp: Numbers, qq: Numbers, pq: Numbers) -> tuple[Numbers, Numbers]:
    """Return cosines and sines of the rotations that make `pq` 0."""
    with np.errstate(all="ignore"):
        tau = (qq - pp) / (2 * pq)
        tangent = 1 / (np.abs(tau) + np.sqrt(1 + tau * tau))
    tangent = np.where(pq == 0, 0.0, np.where(tau < 0, -tangent, tangent))
    cosine: Numbers = 1 / np.sqrt(1 + tangent * tangent)
    return cosine, tangent * cosine
