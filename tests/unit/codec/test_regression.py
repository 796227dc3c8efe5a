"""Are the factors found by which several references foretell a tensor, and only where that pays?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from modelvault.codec import (
    Combined,
    Parameters,
    Predictor,
    Previous,
    Scaled,
    Term,
    TermKind,
    agreement,
    decode_chunk,
    encode_chunk,
    fit_terms,
)
from modelvault.tensors import DType

Numbers = npt.NDArray[np.float64]
WORDS = 20_000
PREVIOUS = Previous()
WORD, SQUARE, STEP = (
    Term(TermKind.WORD, 1, 1.0),
    Term(TermKind.SQUARE, 1, 1.0),
    Term(TermKind.STEP, 1, 1.0, 1e-8),
)


def normal(scale: float, seed: int) -> Numbers:
    return np.random.default_rng(seed).normal(0, scale, WORDS)


def as_bytes(numbers: Numbers, dtype: DType = DType.F32) -> bytes:
    words = numbers.astype("<f4")
    return words.tobytes() if dtype is DType.F32 else (words.view("<u4") >> 16).astype("<u2").tobytes()


def fitted(
    new: Numbers, references: list[Numbers], terms: list[Term], dtype: DType = DType.F32, known: Predictor = PREVIOUS
) -> tuple[Predictor, ...]:
    """Return what is fitted, having seen that it codes and decodes, and that it does better than the base alone."""
    raw, *others = (as_bytes(numbers, dtype) for numbers in (new, *references))
    parameters = fit_terms(dtype, [(raw, others)], terms, (known,), row=100)
    assert parameters == fit_terms(dtype, [(raw, others)], terms, (known,), row=100)
    assert Parameters.from_bytes(parameters.to_bytes()) == parameters
    frame = encode_chunk(raw, parameters, others[: parameters.references], row=100)
    assert decode_chunk(frame, len(raw), parameters, others[: parameters.references]) == raw
    plain = encode_chunk(raw, Parameters(dtype, (known,)), others[:1], row=100)
    assert len(frame) <= len(plain)
    return parameters.predictors


def only(predictors: tuple[Predictor, ...]) -> Combined:
    (combined,) = [predictor for predictor in predictors if isinstance(predictor, Combined)]
    return combined


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_what_goes_on_along_a_line_is_found(dtype: DType) -> None:
    start, step = normal(1, 0), normal(0.1, 1)
    found = only(fitted(start + 2 * step, [start + step, start], [WORD], dtype))
    assert found.a == pytest.approx(2, abs=0.02)
    assert found.terms[0].factor == pytest.approx(-1, abs=0.02)


def test_steps_of_both_moments_are_found() -> None:
    base, mean, other = normal(1, 0), normal(1e-3, 1), normal(1e-3, 2)
    square, fourth = normal(1e-3, 3) ** 2 + 1e-8, normal(1e-3, 4) ** 2 + 1e-8
    new = 0.999 * base - 0.002 * mean / np.sqrt(square) + 0.001 * other / np.sqrt(fourth) + normal(1e-5, 5)
    terms = [Term(TermKind.STEP, 1, 1.0, 1e-8), Term(TermKind.STEP, 3, 1.0, 1e-8)]
    found = only(fitted(new, [base, mean, square, other, fourth], terms))
    factors = {term.reference: term.factor for term in found.terms}
    assert found.a == pytest.approx(0.999, abs=1e-4)
    assert factors == {1: pytest.approx(-0.002, rel=0.02), 3: pytest.approx(0.001, rel=0.02)}


def test_squares_of_gradients_are_found() -> None:
    base, mean = normal(1e-3, 0) ** 2 + 1e-9, normal(1e-3, 1)
    found = only(fitted(0.96 * base + 0.04 * mean**2, [base, mean], [SQUARE]))
    assert found.a == pytest.approx(0.96, abs=1e-3)
    assert found.terms[0].factor == pytest.approx(0.04, rel=0.01)


@pytest.mark.parametrize("term", [WORD, SQUARE, STEP])
def test_a_reference_that_tells_nothing_is_left_out(term: Term) -> None:
    base = normal(1, 0)
    others = [normal(1, 1), normal(1, 2) ** 2]
    assert fitted(base + normal(1e-3, 3), [base, *others], [term]) == (Previous(),)


def test_what_is_known_of_the_base_stays_where_it_does_better() -> None:
    base, step = normal(1, 0), normal(0.01, 1)
    decayed = (base.astype("<f4") * np.float32(0.98)).astype(np.float64)
    new = np.where(np.arange(WORDS) % 1000 < 500, decayed, base + step)
    predictors = fitted(new, [base, step], [WORD], known=Scaled(float(np.float32(0.98))))
    assert {type(predictor) for predictor in predictors} == {Scaled, Combined}


def test_words_that_are_no_numbers_do_not_count() -> None:
    start, step = normal(1, 0), normal(0.1, 1)
    new, base = start + 2 * step, start + step
    new[::7], base[::11], start[::13] = np.nan, np.inf, np.nan
    assert only(fitted(new, [base, start], [WORD])).a == pytest.approx(2, abs=0.02)


@pytest.mark.parametrize("other", [0.0, 3.0], ids=str)
def test_a_reference_without_numbers_of_its_own_is_none(other: float) -> None:
    base = normal(1, 0)
    constant = np.full(WORDS, other)
    fitted(base + normal(1e-3, 1), [base, constant, constant], [STEP])
    fitted(base + normal(1e-3, 1), [base, constant], [WORD])
    fitted(base + normal(1e-3, 1), [base, base], [WORD])  # no one solution


def test_few_words_and_other_dtypes_keep_what_is_known() -> None:
    few = as_bytes(normal(1, 0)[:100])
    assert fit_terms(DType.F32, [(few, [few, few])], [WORD]).predictors == (Previous(),)
    assert fit_terms(DType.F64, [(few, [few, few])], [WORD]).predictors == (Previous(),)
    assert fit_terms(DType.F32, [], [WORD]).predictors == (Previous(),)


def test_signs_that_go_together() -> None:
    old, step = normal(1, 0), normal(0.1, 1)
    sides = [as_bytes(numbers) for numbers in (old + step, old, step)]
    assert agreement(DType.F32, *sides) == pytest.approx(1)
    assert agreement(DType.F32, sides[1], sides[0], sides[2]) == pytest.approx(-1)
    assert abs(agreement(DType.F32, sides[0], sides[1], as_bytes(normal(1, 9)))) < 0.05
    assert agreement(DType.F32, sides[0], sides[0], sides[2]) == 0
    assert agreement(DType.I32, *sides) == 0
