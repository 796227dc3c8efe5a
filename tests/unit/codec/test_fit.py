"""Are the predictors found that training calls for, and no others?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from modelvault.codec import Decayed, Predictor, Previous, Scaled, decode_chunk, encode_chunk, fit
from modelvault.tensors import DType

Weights = npt.NDArray[np.float32]


def weights(count: int, seed: int = 0) -> Weights:
    return np.random.default_rng(seed).normal(0, 0.05, count).astype("<f4")


def moved(old: Weights, by: float, seed: int = 1) -> Weights:
    return (old + np.random.default_rng(seed).normal(0, by, old.size)).astype("<f4")


def decayed(old: Weights, factor: float, steps: int) -> Weights:
    for _ in range(steps):
        old = old * np.float32(factor)
    return old


def found(new: Weights, old: Weights, row: int = 100) -> tuple[Predictor, ...]:
    """Return what is fitted, having seen that it codes and decodes, and no longer than without it."""
    parameters = fit(DType.F32, [(new.tobytes(), old.tobytes())], row=row)
    frame = encode_chunk(new.tobytes(), parameters, [old.tobytes()], row=row)
    assert decode_chunk(frame, new.nbytes, parameters, [old.tobytes()]) == new.tobytes()
    plain = encode_chunk(new.tobytes(), parameters.for_reference(DType.F32, True), [old.tobytes()], row=row)
    assert len(frame) <= len(plain)
    return parameters.predictors


def test_noise_has_no_better_prediction_than_what_was() -> None:
    old = weights(20_000)
    assert found(moved(old, 0.001), old) == (Previous(),)


def test_what_did_not_move_is_itself() -> None:
    old = weights(5_000)
    assert found(old.copy(), old) == (Previous(),)


def test_shrinking_is_a_factor() -> None:
    old = weights(20_000)
    (predictor,) = found(moved((old * 0.98).astype("<f4"), 0.0003), old)
    assert isinstance(predictor, Scaled)
    assert predictor.a == pytest.approx(0.98, abs=2e-3)


def test_a_factor_is_that_of_most_words_however_far_the_others_went() -> None:
    """As of momentum: where there were gradients it went anywhere, and they have the largest words."""
    old = weights(20_000)
    new = moved((old * 0.998).astype("<f4"), 1e-7)
    gradients = np.random.default_rng(2).random(old.size) < 0.48
    new[gradients] = 1000 * weights(old.size, 3)[gradients]
    (predictor,) = found(new, old)
    assert isinstance(predictor, Scaled)
    assert predictor.a == pytest.approx(0.998, abs=1e-4)


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16])
def test_of_16_bits_a_factor_moves_words_by_more_than_a_unit(dtype: DType) -> None:
    old = (np.arange(20_000) % 700 + 15_000).astype("<u2")
    assert fit(dtype, [((old - 1).tobytes(), old.tobytes())]).predictors == (Previous(),)
    level = 1 << (7 if dtype is DType.BF16 else 10)
    some = np.where(np.arange(old.size) < 8_000, old - level, old)  # half of what they were; the others did not move
    predictors = fit(dtype, [(some.tobytes(), old.tobytes())]).predictors
    assert predictors == (Previous(), Scaled(0.5))


@pytest.mark.parametrize(("decrement", "steps"), [(3, 20), (1, 7), (17, 100)])
def test_decay_of_rows_without_a_gradient_is_done_again(decrement: int, steps: int) -> None:
    old = weights(20_000)
    factor = 1 - decrement * 2.0**-24
    new = decayed(old, factor, steps)
    new[:4_000] = moved(new[:4_000], 0.001)  # forty rows had one
    decay = [predictor for predictor in found(new, old) if isinstance(predictor, Decayed)]
    assert decay == [Decayed(((factor, steps),))]


def test_decay_under_a_schedule_is_two_runs() -> None:
    old = weights(20_000)
    first, second = 1 - 3 * 2.0**-24, 1 - 2 * 2.0**-24
    new = decayed(decayed(old, first, 12), second, 8)
    (decay,) = found(new, old)
    assert isinstance(decay, Decayed)
    assert sorted(decay.runs) == sorted(((first, 12), (second, 8)))  # the order hardly matters to the last bit


@pytest.mark.parametrize("beta", [0.9, 0.999])
def test_moments_decay_by_what_optimizers_use(beta: float) -> None:
    old = np.abs(weights(20_000))
    (decay,) = found(decayed(old, float(np.float32(beta)), 15), old)
    assert decay == Decayed(((float(np.float32(beta)), 15),))


def test_blocks_of_one_tensor_may_differ() -> None:
    old = weights(40_000)
    new = moved((old * 0.98).astype("<f4"), 0.0003)
    new[20_000:] = old[20_000:]  # frozen
    predictors = found(new, old)
    assert [type(predictor) for predictor in predictors] == [Previous, Scaled]


@pytest.mark.parametrize("dtype", [DType.F64, DType.I32, DType.BYTES])
def test_what_is_not_computed_with_has_no_factor(dtype: DType) -> None:
    old = weights(8_000)
    pairs = [((old * np.float32(0.5)).tobytes(), old.tobytes())]
    assert fit(dtype, pairs).predictors == (Previous(),)


def test_hostile_words_are_fitted_like_any() -> None:
    old = np.full(5_000, np.nan, "<f4")
    old[::3], old[1::3] = np.inf, 0
    assert found(old[::-1].copy(), old) == (Previous(),)
