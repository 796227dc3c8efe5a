"""Do hashes of what is in a tensor survive a fine-tune, and tell tensors apart that have nothing in common?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from modelvault import wire
from modelvault.repository.sketches import Mark, after_sweep, enter, find_alike, sketch_enough, sketch_of
from modelvault.store.base import ReadTransaction
from modelvault.store.memory import MemoryStore
from modelvault.tensors import DType

ELEMENTS = 200_000

Weights = NDArray[np.float32]


def weights(seed: int, size: int = ELEMENTS) -> Weights:
    return np.random.default_rng(seed).normal(0, 0.05, size).astype("<f4")


def tuned(base: Weights, relative: float, seed: int = 99) -> Weights:
    """Return weights that moved by so much of their standard deviation."""
    moved = np.random.default_rng(seed).normal(0, 0.05 * relative, base.size)
    return (base + moved).astype("<f4")


def as_bytes(values: Weights, dtype: DType) -> bytes:
    if dtype is DType.F32:
        return values.tobytes()
    if dtype is DType.F64:
        return values.astype("<f8").tobytes()
    if dtype is DType.F16:
        return values.astype("<f2").tobytes()
    return ((values.view("<u4") + 0x8000) >> 16).astype("<u2").tobytes()


def sketch(raw: bytes, dtype: DType = DType.F32) -> tuple[bytes, ...]:
    return sketch_of(dtype, len(raw), lambda start, size: raw[start : start + size])


def enough(txn: ReadTransaction, raw: bytes) -> tuple[bytes, ...]:
    return sketch_enough(txn, DType.F32, len(raw), lambda start, size: raw[start : start + size])


FLOATS = [DType.F32, DType.F64, DType.F16, DType.BF16]


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("relative", [1e-4, 1e-3, 1e-2])
def test_most_hashes_survive_a_fine_tune(dtype: DType, relative: float) -> None:
    shared = []
    for seed in range(8):
        base = weights(seed)
        one, other = (set(sketch(as_bytes(values, dtype), dtype)) for values in (base, tuned(base, relative)))
        shared.append(len(one & other) / len(one))
    assert min(shared) >= 0.25
    assert sum(shared) / len(shared) > (0.5 if relative == 1e-2 else 0.85)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.name)
def test_tensors_that_are_not_related_share_no_hash(dtype: DType) -> None:
    sketches = [sketch(as_bytes(weights(seed), dtype), dtype) for seed in range(100)]
    # The exponents of float16 are few: now and then eight elements are too uniform to be hashed.
    assert len({key for one in sketches for key in one}) == sum(map(len, sketches)) > 1100


def test_weights_that_shrink_are_found() -> None:
    """Weight decay takes two parts in a hundred of every weight and moves none otherwise."""
    base = weights(1)
    assert len(set(sketch(base.tobytes())) & set(sketch((base * np.float32(0.98)).tobytes()))) >= 8


def test_a_low_rank_update_is_found() -> None:
    base = weights(1).reshape(-1, 400)
    generator = np.random.default_rng(2)
    update = generator.normal(0, 1, (base.shape[0], 4)) @ generator.normal(0, 1, (4, 400))
    update *= 1e-2 * np.linalg.norm(base) / np.linalg.norm(update)
    merged = (base + update).astype("<f4")
    assert len(set(sketch(base.tobytes())) & set(sketch(merged.tobytes()))) >= 6


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_constants_have_no_hash(value: float) -> None:
    assert sketch(np.full(ELEMENTS, value, "<f4").tobytes()) == ()


def test_short_tensors_and_bytes_have_none() -> None:
    assert sketch(weights(0, 1000).tobytes()) == ()
    assert sketch(weights(0).tobytes(), DType.BYTES) == ()


@given(st.sampled_from(list(DType)), st.integers(0, 1 << 21))
def test_places_depend_on_dtype_and_length_alone_and_lie_inside(dtype: DType, nbytes: int) -> None:
    places: list[list[tuple[int, int]]] = []
    for content in (b"\0", b"\x5a"):
        asked: list[tuple[int, int]] = []

        def read(start: int, size: int, asked: list[tuple[int, int]] = asked, content: bytes = content) -> bytes:
            assert start >= 0 and start + size <= nbytes
            asked.append((start, size))
            return content * size

        sketch_of(dtype, nbytes, read)
        places.append(asked)
    assert places[0] == places[1]
    assert len(places[0]) <= 16


def test_the_base_and_the_newest_relatives_are_found() -> None:
    store = MemoryStore()
    base = weights(0)
    with store.write() as txn:
        for number in range(1, 6):
            enter(txn, sketch(weights(100 + number).tobytes()), number)
        enter(txn, sketch(base.tobytes()), 10)
        for number in range(11, 20):
            enter(txn, sketch(tuned(base, 1e-3, number).tobytes()), number)
        found = find_alike(txn, sketch(tuned(base, 1e-3, 7).tobytes()))
        assert found[0] == 19
        assert found[-1] == 10
        assert find_alike(txn, sketch(weights(5).tobytes())) == ()
        assert find_alike(txn, ()) == ()


def test_a_line_that_stays_near_enters_once_and_one_that_drifts_away_again() -> None:
    def entries(relative: float) -> int:
        store, values = MemoryStore(), weights(0)
        with store.write() as txn:
            added = enter(txn, sketch(values.tobytes()), 1)
            for number in range(2, 40):
                values = tuned(values, relative, number)
                added += enter(txn, sketch(values.tobytes()), number)
            assert added == sum(len(key) + len(value) for key, value in txn.scan("sketches"))
            assert find_alike(txn, sketch(values.tobytes()))[0] == 39
            return txn.count("sketches")

    assert entries(1e-4) == len(sketch(weights(0).tobytes()))
    assert 24 <= entries(0.03) <= 16 * 20  # of 39 tensors


def test_of_a_tensor_whose_first_hashes_are_known_no_others_are_looked_at() -> None:
    store, base = MemoryStore(), weights(0)
    near, far = tuned(base, 1e-6, 1), base.copy()
    far[: far.size // 16] = weights(9)[: far.size // 16]  # the first hash is of these
    with store.write() as txn:
        enter(txn, sketch(base.tobytes()), 1)
        assert enough(txn, weights(5).tobytes()) == sketch(weights(5).tobytes())
        assert enough(txn, near.tobytes()) == sketch(base.tobytes())[:4]
        assert enough(txn, far.tobytes()) == sketch(far.tobytes())
        enter(txn, enough(txn, near.tobytes()), 2)
        assert find_alike(txn, enough(txn, near.tobytes())) == (2, 1)
        assert set(find_alike(txn, sketch(near.tobytes()))) == {1, 2}


@given(st.sets(st.integers(1, 12)))
def test_what_a_sweep_leaves_leads_to_live_tensors_only(live: set[int]) -> None:
    store, base = MemoryStore(), weights(0, 20_000)
    with store.write() as txn:
        for number in range(1, 13):
            enter(txn, sketch(tuned(base, 0.05, number).tobytes()), number)
        txn.put("sketches", b"broken", b"\x09")
        before = dict(txn.scan("sketches"))
        for key, value, left in list(after_sweep(txn, live.__contains__)):
            assert before[key] == value
            if left is None:
                txn.delete("sketches", key)
            else:
                txn.put("sketches", key, left)
        for key, value in txn.scan("sketches"):
            assert set(Mark.from_bytes(value)) <= live
            assert set(Mark.from_bytes(value)) <= set(Mark.from_bytes(before[key]))
        for key in before.keys() - {key for key, _ in txn.scan("sketches")}:
            assert key == b"broken" or not set(Mark.from_bytes(before[key])) & live
        assert list(after_sweep(txn, live.__contains__)) == []


@given(st.integers(1, 2**40), st.integers(1, 2**40))
def test_marks_come_back(first: int, last: int) -> None:
    assert Mark.from_bytes(Mark(first, last).to_bytes()) == Mark(first, last)


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x02\x00\x01", b"\x01\x05\x01", b"\x01\x05\x01\x06\x01"])
def test_what_is_no_mark_is_refused(data: bytes) -> None:
    with pytest.raises(wire.WireError):
        Mark.from_bytes(data)
