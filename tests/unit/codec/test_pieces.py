"""Do small tensors that share a chunk each keep their own steps, and do rows and columns tell how wide they vary?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.codec import (
    CodecError,
    Parameters,
    Run,
    codec_name,
    decode_chunk,
    encode_chunk,
    ends,
    glance,
    integers,
    order,
    pieces,
    plan,
    runs_of,
    spreads,
)
from modelvault.codec.bounds import Bound
from modelvault.codec.chunk import frame_within
from modelvault.codec.floats import FORMATS
from modelvault.codec.frame import seal
from modelvault.codec.glance import Signs
from modelvault.codec.plan import Kind, Piece
from modelvault.codec.rounding import anchored, round_elements, round_within_both
from modelvault.codec.steps import Grid
from modelvault.codec.table import PIECES_DELTA
from modelvault.tensors import DType

from . import plain_decoder
from .test_rounding import bits

EVERY_FORMAT = pytest.mark.parametrize("dtype", list(FORMATS), ids=lambda dtype: dtype.name)
DELTA = Parameters.for_reference(DType.F32, True)


def small_tensors(dtype: DType, exact: bool = False) -> tuple[bytes, bytes, list[Run]]:
    """Kernels, norms and running variances of ten layers as a lossy commit leaves them, and exact ones before."""
    random = np.random.default_rng(3)
    raw, reference, runs = b"", b"", list[Run]()
    for layer in range(10):
        width = 24 + 8 * (layer % 4)
        for kind in range(4):
            row = 9 if kind == 0 else 0
            old = random.normal(0, 0.2, width * (row or 1)) if kind < 2 else np.exp(random.normal(0, 1, width))
            new = old + random.normal(0, 0.002 * (1 + kind), old.size)
            after = bits(new, dtype)
            if row:
                after = round_elements(after, dtype, Bound.ABS, 0.004).raw
            elif not exact:
                after = round_within_both(after, dtype, 0.004, 0.03).raw
            raw, reference = raw + after, reference + bits(old, dtype)
            runs.append(Run(old.size, row))
    return raw, reference, runs


def pieces_of(words: order.Words, reference: order.Words, runs: list[Run]) -> list[Piece]:
    """Return what the pieces of binary32 words are found to be."""
    return plan.unpack(pieces.find(words, reference, DType.F32, runs))


def there_and_back(raw: bytes, dtype: DType, reference: bytes, runs: list[Run]) -> bytes:
    """Encode and decode, here and with the decoder written from the page; return the frame."""
    parameters = Parameters.for_reference(dtype, True)
    frame = encode_chunk(raw, parameters, [reference], runs=runs)
    assert decode_chunk(frame, len(raw), parameters, [reference]) == raw
    assert plain_decoder.decode(frame, len(raw), parameters.to_bytes(), [reference]) == raw
    return frame


@pytest.mark.parametrize("moved", [1e-5, 1e-4, 1e-2, 0.1])
@EVERY_FORMAT
def test_steps_from_the_reference_are_not_looked_for_where_training_moved_numbers(dtype: DType, moved: float) -> None:
    random = np.random.default_rng(4)
    before = random.normal(0, 0.05, 50_000)
    new, old = (
        np.frombuffer(bits(some, dtype), np.uint8)
        for some in (before + moved * random.normal(0, 0.05, before.size), before)
    )
    assert not glance.may_be_anchored(order.words(new, dtype), order.words(old, dtype))


def test_what_training_moved_in_bf16_is_nearer_than_any_step() -> None:
    """Half of what moved did so by more than one of its own units, as if by steps; but small words by small units."""
    random = np.random.default_rng(4)
    before = random.normal(0, 0.05, 50_000)
    moved = before + random.normal(0, 3e-4, before.size)
    new, old = (order.words(np.frombuffer(bits(some, DType.BF16), np.uint8), DType.BF16) for some in (moved, before))
    assert glance.may_be_anchored(new, old)
    assert glance.signs(new, old, DType.BF16, alone=False) == Signs.ANCHORED
    assert glance.signs(new, old, DType.BF16, alone=True) == Signs(0)


def test_what_training_moved_far_in_bf16_stands_on_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """As RMSprop moves weights: a few stay, and hardly one moved by less than any step."""
    random = np.random.default_rng(4)
    before = random.normal(0, 0.05, 50_000)
    moved = before + random.normal(0, 0.02, before.size) * (random.random(before.size) > 0.03)
    new, old = (order.words(np.frombuffer(bits(some, DType.BF16), np.uint8), DType.BF16) for some in (moved, before))
    assert glance.signs(new, old, DType.BF16, alone=False) == Signs.ANCHORED
    assert glance.signs(new, old, DType.BF16, alone=True) == Signs(0)
    for name, nobody in (("_ON_STEPS_SHARE", 0), ("_LEAST_WELL_BELOW", 1 << 30)):
        with monkeypatch.context() as patch:
            patch.setattr(glance, name, nobody)
            assert glance.signs(new, old, DType.BF16, alone=True) == Signs.ANCHORED


@pytest.mark.parametrize("share", [0.5, 1, 5])
@EVERY_FORMAT
def test_steps_from_the_reference_are_looked_for_where_there_are_such(dtype: DType, share: float) -> None:
    random = np.random.default_rng(4)
    before = random.normal(0, 0.05, 50_000)
    eps = 0.05 * (2.0**-4 if dtype is DType.BF16 else 2.0**-6)  # steps of 16 units in the last place
    old, after = bits(before, dtype), bits(before + share * eps * random.normal(0, 1, before.size), dtype)
    new = np.frombuffer(anchored(after, old, dtype, eps).raw, np.uint8)
    words, reference = order.words(new, dtype), order.words(np.frombuffer(old, np.uint8), dtype)
    assert all(glance.signs(words, reference, dtype, alone=alone) & Signs.ANCHORED for alone in (True, False))


@EVERY_FORMAT
def test_small_tensors_together_keep_their_own_steps(dtype: DType) -> None:
    raw, reference, runs = small_tensors(dtype)
    frame = there_and_back(raw, dtype, reference, runs)
    assert codec_name(frame) == "pieces-delta"
    words = len(raw) // order.word_bytes(dtype)
    assert len(frame) < 0.3 * words, "two bits a word"
    if dtype is not DType.BF16:  # in which a norm that was cut misses no more than two bits
        assert len(frame) < 0.9 * len(there_and_back(raw, dtype, reference, [])), "of which not much is known without"


def test_a_few_numbers_on_no_step_shorten_it_for_no_other() -> None:
    """Subnormal numbers stay as they are in a lossy commit: fewer bits of mantissa are no bound for them."""
    raw, reference, runs = small_tensors(DType.F32)
    words = np.frombuffer(raw, "<u4").copy()
    starts = np.cumsum([0, *(run.words for run in runs)])
    for piece in (3, 11, 27):  # running variances
        words[starts[piece] + 5] = 0x0005_1234 + piece
    without = len(there_and_back(raw, DType.F32, reference, runs))
    assert len(there_and_back(words.tobytes(), DType.F32, reference, runs)) < without + 60


def test_what_was_kept_exactly_stands_apart() -> None:
    raw, reference, runs = small_tensors(DType.F32, exact=True)
    words = np.frombuffer(raw, "<u4")
    found = pieces_of(words, np.frombuffer(reference, "<u4"), runs)
    assert [piece.kind for piece in found] == [Kind.EQUAL, Kind.APART, Kind.APART, Kind.APART] * 10
    there_and_back(raw, DType.F32, reference, runs)


def test_what_did_not_change_is_told_in_a_bit_or_two() -> None:
    raw, reference, runs = small_tensors(DType.F32)
    first = sum(run.words for run in runs[:20]) * 4
    frozen = reference[:first] + raw[first:]
    found = pieces_of(np.frombuffer(frozen, "<u4"), np.frombuffer(reference, "<u4"), runs)
    assert all(piece.kind is Kind.SAME for piece in found[:20])
    frame, all_of_it = (there_and_back(some, DType.F32, reference, runs) for some in (frozen, raw))
    assert len(frame) < 0.6 * len(all_of_it)


def test_a_frame_tells_its_pieces_to_whoever_codes_it_anew() -> None:
    raw, reference, runs = small_tensors(DType.F32)
    frame = there_and_back(raw, DType.F32, reference, runs)
    told = runs_of(frame, len(raw), DType.F32)
    assert [run.words for run in told] == [run.words for run in runs]
    again = encode_chunk(raw, DELTA, [reference], runs=told)
    assert len(again) < 1.02 * len(frame)
    assert runs_of(seal(PIECES_DELTA, b"\xff"), len(raw), DType.F32) == []
    assert runs_of(encode_chunk(reference, Parameters(DType.F32)), len(raw), DType.F32) == []


def matrix(rows: int = 96, row: int = 72) -> tuple[bytes, bytes]:
    """A matrix whose rows and columns move by different amounts, on a lattice, and an exact one before."""
    random = np.random.default_rng(4)
    spread = np.exp(random.normal(0, 1, (rows, 1)) + random.normal(0, 1, (1, row)))
    old = random.normal(0, 0.1, (rows, row))
    new = old + 0.001 * spread * random.normal(0, 1, old.shape)
    return round_elements(bits(new.ravel(), DType.F32), DType.F32, Bound.ABS, 0.001).raw, bits(old.ravel(), DType.F32)


def test_rows_and_columns_have_widths_of_their_own() -> None:
    raw, reference = matrix()
    words, base = (np.frombuffer(data, "<u4") for data in (raw, reference))
    lengths = [
        len(pieces.encode(words, b"", base, DType.F32, [Run(words.size, row)], frame_within) or b"") for row in (0, 72)
    ]
    assert lengths[1] < 0.92 * lengths[0]
    (told,) = runs_of(encode_chunk(raw, DELTA, [reference], row=72), len(raw), DType.F32)
    assert told == Run(words.size, 72)
    for start in (0, 5, 71, 72, 700):  # a later chunk of a tensor begins within a row
        part = slice(4 * start, None)
        frame = encode_chunk(raw[part], DELTA, [reference[part]], row=72, start=start)
        assert decode_chunk(frame, len(raw[part]), DELTA, [reference[part]]) == raw[part]
        assert len(frame) < lengths[1] + 60


def test_a_tensor_of_one_factor_less_is_counted_from_what_it_decayed_to() -> None:
    old = np.random.default_rng(5).normal(0, 1, 6000)
    raw = round_elements(bits(0.98 * old, DType.F32), DType.F32, Bound.ABS, 0.002).raw
    words, base = np.frombuffer(raw, "<u4"), np.frombuffer(bits(old, DType.F32), "<u4")
    (piece,) = pieces_of(words, base, [Run(6000)])
    assert abs(piece.value - 0.98) < 2**-12
    assert len(there_and_back(raw, DType.F32, base.tobytes(), [])) < 600


@EVERY_FORMAT
def test_multiples_of_any_step_from_the_reference(dtype: DType) -> None:
    random = np.random.default_rng(6)
    old = bits(random.normal(0, 0.05, 500), dtype)
    new = bits(random.normal(0, 0.05, 500), dtype)
    raw = anchored(new, old, dtype, 0.001).raw
    words, base = (order.words(np.frombuffer(data, np.uint8), dtype) for data in (raw, old))
    piece = Piece(Run(500), Kind.ANCHORED, value=2 * float(np.log1p(0.001)))
    _, _, off = plan.counted(words, base, dtype, piece)
    assert np.count_nonzero(off) < (500 if dtype is DType.BF16 else 50)
    frame = seal(PIECES_DELTA, pieces.of(words, b"", base, dtype, plan.records([piece]), frame_within))
    parameters = Parameters.for_reference(dtype, True)
    assert decode_chunk(frame, len(raw), parameters, [old]) == raw
    assert plain_decoder.decode(frame, len(raw), parameters.to_bytes(), [old]) == raw


@pytest.mark.parametrize("eps", [0.001, 0.00137, 0.0004])
def test_the_step_of_the_paper_is_found_in_the_words(eps: float) -> None:
    random = np.random.default_rng(8)
    old = bits(random.normal(0, 0.05, 6000), DType.F32)
    new = np.frombuffer(old, "<f4") + random.normal(0, 0.001, 6000)
    raw = anchored(bits(new, DType.F32), old, DType.F32, eps).raw
    words, base = (np.frombuffer(data, "<u4") for data in (raw, old))
    (piece,) = pieces_of(words, base, [Run(6000)])
    assert piece.kind is Kind.ANCHORED
    assert piece.value == 2 * float(np.log1p(eps))
    _, counts = np.unique(np.floor((new - np.frombuffer(old, "<f4")) / piece.value + 0.5), return_counts=True)
    ideal = -(counts * np.log2(counts / 6000)).sum() / 8
    assert len(there_and_back(raw, DType.F32, old, [])) < 1.1 * ideal + 200
    assert pieces_of(words, bits_of_noise(random), [Run(6000)])[0].kind is Kind.APART


def bits_of_noise(random: np.random.Generator) -> npt.NDArray[np.uint32]:
    """Return weights that have nothing to do with any others."""
    return np.frombuffer(bits(random.normal(0, 0.05, 6000), DType.F32), "<u4")


def grid_of(words: order.Words, dtype: DType) -> Grid | None:
    return ends.grid_of(ends.of_numbers(words, dtype), dtype)


ends_ = st.lists(st.tuples(st.integers(-12, 6), st.integers(0, 9), st.integers(1, 500)), min_size=1, max_size=12)


@given(ends_)
def test_doubling_steps_are_those_that_take_least(found: list[tuple[int, int, int]]) -> None:
    pairs = {(high, high - length): times for high, length, times in found}
    columns = zip(*((*pair, times) for pair, times in pairs.items()), strict=True)
    grid = ends.grid_of(ends.Ends(*(np.array(column) for column in columns)), DType.F32)

    def taken(exponent: int, mantissa: int) -> int:
        return sum(
            times * (max(mantissa, high - exponent) if low >= exponent or high - low <= mantissa else 64)
            for (high, low), times in pairs.items()
        )

    assert grid is not None
    assert taken(*grid) == min(taken(exponent, mantissa) for exponent in range(-22, 8) for mantissa in range(1, 10))


def test_steps_that_a_dtype_cannot_hold_are_none() -> None:
    """Numbers so small, or so large, that no word could stand where such steps begin."""
    for words in ([0x0008, 0x0018], [0x0008, 0x0010, 0x7B00], [0x7B00]):
        found = grid_of(np.array(words, "<u2"), DType.F16)
        if found is not None:
            raw = np.array(words, "<u2").tobytes()
            there_and_back(raw, DType.F16, bytes(len(raw)), [])
    assert grid_of(np.array([0x00000008], "<u4"), DType.F32) is None
    assert grid_of(np.array([0x3F800000], "<u4"), DType.F32) == Grid(0, 1)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "run out"),
        ("19", "steps of"),
        ("12" + 20 * "00", "multiples of"),
        ("01aa00", "steps of"),
        ("00 01", "pieces of 4"),
        ("08", "piece of"),
    ],
)
def test_bodies_that_are_none(body: str, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        decode_chunk(seal(PIECES_DELTA, bytes.fromhex(body)), 16, DELTA, [bytes(16)])


residuals_ = st.lists(
    st.tuples(
        st.one_of(st.integers(-3, 3), st.integers(-100, 100), st.integers(1 - integers.LIMIT, integers.LIMIT - 1)),
        st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 9]),
    ),
    min_size=1,
    max_size=300,
)


@given(residuals_, st.lists(st.tuples(st.integers(1, 90), st.integers(0, 40), st.integers(0, 10**6)), max_size=6))
def test_integers_in_pieces_come_back(found: list[tuple[int, int]], cut: list[tuple[int, int, int]]) -> None:
    residuals, classes = (np.array(column, np.int64) for column in zip(*found, strict=True))
    runs, left = list[Run](), residuals.size
    for words, row, start in cut:
        if words < left:
            runs.append(Run(words, row, start))
            left -= words
    runs.append(Run(left, 7))
    data = spreads.write(residuals, classes, runs)
    lengths = [run.words for run in runs]
    assert spreads.read(data, classes, lengths).tolist() == residuals.tolist()
    assert plain_decoder.from_spreads(data, classes.tolist(), lengths) == residuals.tolist()
    for damaged in (data[:-1], data + b"\0"):
        with pytest.raises(CodecError):
            spreads.read(damaged, classes, lengths)


@pytest.mark.parametrize("deviation", [0.02, 0.3, 3, 300])
def test_integers_take_little_more_than_their_entropy(deviation: float) -> None:
    random = np.random.default_rng(7)
    rows, columns = np.exp(random.normal(0, 0.7, (200, 1))), np.exp(random.normal(0, 0.7, (1, 100)))
    values: npt.NDArray[np.float64] = np.rint(random.logistic(0, deviation / 1.8, (200, 100)) * rows * columns)
    data = spreads.write(values.ravel().astype(np.int64), np.full(20_000, spreads.EXACT), [Run(20_000, 100)])
    scale = deviation / 1.8 * rows * columns
    upper, lower = (1 / (1 + np.exp(-np.clip((values + side) / scale, -700, 700))) for side in (0.5, -0.5))
    ideal = -np.log2(np.maximum(upper - lower, 2.0**-40)).sum() / 8
    assert len(data) < 1.05 * ideal + 260


def test_multiples_up_to_four_are_no_doubling_steps_either() -> None:
    random = np.random.default_rng(6)
    before = np.clip(np.rint(random.normal(0, 1.2, 40_000)), -4, 4)
    after = np.clip(before + (random.random(40_000) < 0.02), -4, 4)
    words, reference = ((each / 64).astype("<f4").view("<u4") for each in (after, before))
    assert grid_of(words, DType.F32) == Grid(-5, 1), "which they stand on as well"
    (found,) = pieces_of(words, reference, [Run(words.size)])
    assert (found.kind, found.exponent) == (Kind.EQUAL, -6)


def test_few_points_of_a_lattice_are_no_doubling_steps() -> None:
    # The sample sees up to 4 steps, which mantissas of one bit give too; the rare 5 is not in it.
    before = np.rint(np.random.default_rng(5).normal(0, 1.2, 40_000))
    after = before.copy()
    after[::50] += 1
    some = glance.sample(after)  # a view
    np.clip(some, -4, 4, out=some)
    words, reference = ((each / 64).astype("<f4").view("<u4") for each in (after, before))
    assert grid_of(glance.sample(words), DType.F32) == Grid(-5, 1)
    (found,) = pieces_of(words, reference, [Run(words.size)])
    assert (found.kind, found.exponent) == (Kind.EQUAL, -6)
