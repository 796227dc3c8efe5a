"""Are factors found where an optimizer left them and nowhere else, and do all kernels give back every word?"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelvault.codec import (
    CodecError,
    Combined,
    Parameters,
    Previous,
    Scaled,
    Term,
    TermKind,
    decode_chunk,
    encode_chunk,
    factors,
    floats,
    kernels,
    low_rank,
    order,
    portable,
    predict,
)
from modelvault.codec.factors import Factors
from modelvault.codec.floats import BINARY32, FORMATS
from modelvault.codec.frame import codec_name, references_of, row_of, seal, unseal
from modelvault.codec.low_rank import View
from modelvault.codec.parameters import Predictor
from modelvault.codec.table import LOW_RANK, LOW_RANK_DELTA, OF_FLOATS, Codec
from modelvault.tensors import DType

from . import plain_decoder
from .test_kernels import NATIVE, damages, outcome

BESIDE = Parameters(DType.F32, (Previous(),))
OF_A_FORMAT = pytest.mark.parametrize("dtype", FORMATS, ids=lambda dtype: dtype.name)

Words = npt.NDArray[Any]


def of_gradients(rows: int, columns: int, directions: int, noise: float = 0.1, seed: int = 0) -> Any:
    """Return numbers of so many directions, each half as much as the one before it, with noise; one on average."""
    random_ = np.random.default_rng(seed)
    left = random_.normal(size=(rows, directions)) * 0.5 ** np.arange(directions)
    numbers = left @ random_.normal(size=(directions, columns))
    return numbers / np.sqrt((numbers**2).mean()) + noise * random_.normal(size=(rows, columns))


def words_of(numbers: Any, dtype: DType) -> Words:
    return floats.rounded(np.asarray(numbers, np.float64).ravel(), FORMATS[dtype])


def trained(
    dtype: DType, rows: int = 256, columns: int = 160, directions: int = 5, seed: int = 0
) -> tuple[Words, Words]:
    """Return weights as words, and what they were before an optimizer moved them."""
    old = words_of(np.random.default_rng(seed + 1).normal(0, 0.05, rows * columns), dtype)
    changes = 0.004 * of_gradients(rows, columns, directions, seed=seed).ravel()
    return words_of(floats.numbers(old, FORMATS[dtype]) + changes, dtype), old


def frame_of(new: Words, old: Words, dtype: DType, row: int, start: int = 0, *predictors: Predictor) -> bytes:
    parameters = Parameters(dtype, predictors or (Previous(),))
    frame = encode_chunk(new.tobytes(), parameters, [old.tobytes()], row=row, start=start)
    assert decode_chunk(frame, new.nbytes, parameters, [old.tobytes()]) == new.tobytes()
    return frame


def plain(new: Words, old: Words, dtype: DType, row: int) -> int:
    """Return how long the shortest body without factors is."""
    data = Parameters(dtype, (Previous(),)).to_bytes()
    delta = kernels.current.encode_delta(dtype.code, new.tobytes(), data, [old.tobytes()], row, 0, 1 << 30)
    keyframe = kernels.current.encode_keyframe(dtype.code, new.tobytes(), row, 0)
    return min(len(body) for body in (delta, keyframe) if body is not None)


@OF_A_FORMAT
def test_changes_of_few_directions_are_found(dtype: DType) -> None:
    new, old = trained(dtype)
    frame = frame_of(new, old, dtype, 160)
    assert codec_name(frame) == LOW_RANK_DELTA.name
    bits = 8 * (plain(new, old, dtype, 160) - len(frame)) / new.size
    assert bits > 1.5, "noise is a tenth of what moved, 3.3 bits, and five directions take one"


def test_means_of_gradients_have_few_directions(kernel: kernels.Kernels) -> None:
    """They forgot what they were: the reference tells nothing."""
    new, old = (words_of(1e-3 * of_gradients(300, 128, 4, seed=seed), DType.F32) for seed in (1, 2))
    frame = frame_of(new, old, DType.F32, 128)
    assert codec_name(frame) == LOW_RANK.name
    assert len(frame) < 0.92 * plain(new, old, DType.F32, 128)
    assert decode_chunk(frame, new.nbytes, Parameters(DType.F32)) == new.tobytes()
    assert references_of(frame, 3) == 0


def test_what_decayed_besides_is_told_by_the_predictor(kernel: kernels.Kernels) -> None:
    new, old = trained(DType.F32, seed=3)
    numbers = 0.9 * old.view("<f4").astype(np.float64) + (new.view("<f4") - old.view("<f4"))
    frame = frame_of(words_of(numbers, DType.F32), old, DType.F32, 160, 0, Scaled(0.9))
    assert codec_name(frame) == LOW_RANK_DELTA.name
    assert unseal(frame)[1][0] == 1, "the first predictor"
    assert references_of(frame, 3) == 3
    frame = frame_of(new, old, DType.F32, 160, 0, Scaled(0.9))
    assert unseal(frame)[1][0] == 0, "the reference, whatever the tensor's predictors are"
    assert references_of(frame, 3) == 1
    assert decode_chunk(frame, new.nbytes, Parameters(DType.F32, (Scaled(0.9),)), [old.tobytes()]) == new.tobytes()


@OF_A_FORMAT
def test_the_same_bytes_by_all_kernels_and_in_the_second_decoder(kernel: kernels.Kernels, dtype: DType) -> None:
    shapes = [(140, 240, 7)]
    if dtype in (DType.F32, DType.BF16):
        shapes = [(260, 128, 0), (64, 520, 100), (1100, 31, 5), (20, 1700, 0)]
    for rows, columns, first in shapes:
        all_new, all_old = trained(dtype, rows, columns, 2, seed=rows)
        new, old = all_new[first:-3].copy(), all_old[first:-3].copy()
        top = FORMATS[dtype].top_level << FORMATS[dtype].mantissa
        new[5:9], old[8:12] = (top, top + 1, 0, 1), (0, 1, top, top + 1)
        raw, reference = (words.tobytes() + bytes(range(words.itemsize - 1)) for words in (new, old))
        data = Parameters(dtype, (Previous(),)).to_bytes()
        frame = portable.encode_frame(dtype.code, raw, data, [reference], columns, first, len(raw), True)
        assert isinstance(frame, bytes)
        assert codec_name(frame) == LOW_RANK_DELTA.name
        assert kernel.encode_frame(dtype.code, raw, data, [reference], columns, first, len(raw), True) == frame
        assert kernel.decode_frame(dtype.code, frame, len(raw), data, [reference]) == raw
        assert kernel.frame_decodes_to(dtype.code, frame, raw, data, [reference])
        for at in (0, len(raw) - 1):
            other = raw[:at] + bytes((raw[at] ^ 1,)) + raw[at + 1 :]
            assert not kernel.frame_decodes_to(dtype.code, frame, other, data, [reference])
        if dtype is DType.BF16 and rows == 64:
            assert plain_decoder.decode(frame, len(raw), data, [reference]) == raw


def test_what_has_no_directions_is_left_as_it_was(kernel: kernels.Kernels) -> None:
    random_ = np.random.default_rng(1)
    new, old = trained(DType.F32)
    noise = words_of(old.view("<f4") + random_.normal(0, 4e-3, old.size), DType.F32)
    row_of_word = np.arange(old.size) // 160
    few = np.where(row_of_word % 16 == 3, new, old)
    unseen = np.where((row_of_word % 16 == 0) & (row_of_word < 9 * 16), old, new)
    faint = words_of(old.view("<f4") + 4e-3 * of_gradients(256, 160, 1, noise=3, seed=3).ravel(), DType.F32)
    cases = {
        "noise": (noise, old, 160),
        "no rows": (new, old, 0),
        "rows of few words": (new, old, 15),
        "few rows": (new, old, 4096),
        "few words": (new[:32_000], old[:32_000], 160),
        "rows that are not those": (new, old, 163),
        "a few rows that changed": (few, old, 160),
        "nine of the rows that are looked at did not change": (unseen, old, 160),
        "one direction, and three times as much noise": (faint, old, 160),
        "nothing but infinities": (np.full_like(new, 0x7F800000), old, 160),
    }
    for what, (some, beside, row) in cases.items():
        data = BESIDE.to_bytes(), [beside.tobytes()], row, 0, some.nbytes, True
        frame = kernel.encode_frame(DType.F32.code, some.tobytes(), *data)
        assert portable.encode_frame(DType.F32.code, some.tobytes(), *data) == frame, what
        assert isinstance(frame, int) or not codec_name(frame).startswith("low-rank"), what
    assert codec_name(frame_of(new, old, DType.F32, 160)) == LOW_RANK_DELTA.name
    assert codec_name(frame_of(new[:32_800], old[:32_800], DType.F32, 160)) == LOW_RANK_DELTA.name


def test_factors_of_which_little_is_left_are_worth_it() -> None:
    """As many directions as there are, and squares as an exact decomposition has them."""
    for directions in (1, 3, 9):
        numbers = 100 * of_gradients(400, 96, directions, noise=0.02, seed=directions)
        whole = np.rint(np.clip(numbers / 8, -127, 127)).astype(np.int64)
        found = factors.found(whole, 1.0, whole.size)
        assert found is not None
        assert directions - 4 <= found.left.shape[1] <= directions + 1
        left = whole - found.numbers().reshape(whole.shape)
        singular = np.linalg.svd(whole.astype(np.float64), compute_uv=False) ** 2
        assert (left**2).sum() < 1.4 * singular[found.left.shape[1] :].sum()


@pytest.mark.parametrize(("rows", "columns", "share"), [(400, 96, 0.0129), (60, 100, 0.0267), (18, 400, 0.12)])
def test_what_rounding_adds_goes_by_how_many_numbers_there_are(rows: int, columns: int, share: float) -> None:
    directions = 1 if share < 0.1 else 3
    numbers = 100 * of_gradients(rows, columns, directions, noise=0.1, seed=directions)
    whole = np.rint(np.clip(numbers / 8, -127, 127)).astype(np.int64)
    found = factors.found(whole, 1.0, whole.size)
    assert found is not None
    assert found.left.shape[1] == directions
    least = (np.linalg.svd(whole.astype(np.float64), compute_uv=False)[directions:] ** 2).sum()
    left = ((whole - found.numbers().reshape(whole.shape)) ** 2).sum()
    assert left / least - 1 == pytest.approx(share, rel=0.25)


def test_rotations_leave_what_is_on_the_diagonal() -> None:
    random_ = np.random.default_rng(7)
    some = random_.normal(size=(16, 40)) * 0.7 ** np.arange(16)[:, None]
    values, vectors = factors._eigen(some @ some.T)
    assert np.sort(values) == pytest.approx(np.linalg.eigvalsh(some @ some.T), abs=1e-3 * values.max())
    assert vectors.T @ vectors == pytest.approx(np.eye(16), abs=1e-12)
    assert vectors @ np.diag(values) @ vectors.T == pytest.approx(some @ some.T, abs=1e-2 * values.max())


@pytest.mark.parametrize("directions", [1, 2, 5])
def test_numbers_that_have_fewer_directions_than_are_looked_for(directions: int) -> None:
    random_ = np.random.default_rng(directions)
    exact = random_.integers(-3, 4, (80, directions)) @ random_.integers(-5, 6, (directions, 70))
    found = factors.found(exact, 1.0, exact.size)
    assert found is not None
    assert found.left.shape[1] == directions
    assert np.abs(found.numbers().reshape(exact.shape) - exact).max() < 1


@st.composite
def products(draw: st.DrawFn) -> tuple[View, Factors, int]:
    columns, directions = draw(st.integers(1, 40)), draw(st.integers(1, 6))
    view = View(columns, draw(st.integers(0, columns - 1)), draw(st.integers(0, 600)))
    random_, most = np.random.default_rng(draw(st.integers(0, 99))), draw(st.sampled_from([1, 9, 300, 32767]))
    left = random_.integers(-most, most + 1, (view.rows, directions))
    right = random_.integers(-most, most + 1, (directions, columns))
    s = draw(st.floats(width=32, allow_nan=False, allow_infinity=False) | st.floats(2.0**-30, 2.0**-4, width=32))
    return view, Factors(s, left, right), draw(st.integers(0, 1 << 30))


@given(products(), st.sampled_from([DType.F32, DType.BF16, DType.F16]), st.sampled_from([None, 0, 1, 2]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_factors(
    kernel: kernels.Kernels, some: tuple[View, Factors, int], dtype: DType, index: int | None
) -> None:
    view, found, seed = some
    format_, random_ = FORMATS[dtype], np.random.default_rng(seed)
    if found.left.shape[1] * (view.rows + view.columns) > view.words or view.columns > view.words:
        return
    predictors = Combined(0.5, (Term(TermKind.WORD, 1, 0.25),)), Scaled(0.75)
    parameters = Parameters(dtype, () if index is None else predictors)
    references = [random_.bytes(view.words * format_.word_bytes) for _ in range(parameters.references)]
    bases = [order.words(np.frombuffer(reference, np.uint8), dtype) for reference in references]
    base = np.zeros(view.words, f"<u{format_.word_bytes}")
    if index is not None:
        base = predict.predicted(predictors[index - 1], bases, format_) if index else bases[0]
    words = low_rank.moved(base, found, view, format_)
    words[::3] ^= 1
    body = low_rank.of(words, b"", format_, index, base, found, view, 0, 0)
    if body is None:
        return
    frame, data = seal(LOW_RANK if index is None else LOW_RANK_DELTA, body), parameters.to_bytes()
    assert portable.decode_frame(dtype.code, frame, words.nbytes, data, references) == words.tobytes()
    assert kernel.decode_frame(dtype.code, frame, words.nbytes, data, references) == words.tobytes()
    assert plain_decoder.decode(frame, words.nbytes, data, references) == words.tobytes()


def small_frame(codec: Codec = LOW_RANK_DELTA, index: int = 0) -> tuple[bytes, Words, Words]:
    """Return a frame of 60 words of binary32, the words, and the reference."""
    old, view = trained(DType.F32, 5, 12, 1)[1], View(12, 0, 60)
    found = Factors(2.0**-9, np.arange(-2, 3)[:, None], np.arange(12)[None, :] - 6)
    base = old if codec is LOW_RANK_DELTA else np.zeros_like(old)
    new = low_rank.moved(base, found, view, BINARY32) ^ np.arange(60, dtype="<u4")
    body = low_rank.of(new, b"", BINARY32, index if codec is LOW_RANK_DELTA else None, base, found, view, 12, 0)
    assert body is not None
    return seal(codec, body), new, old


@pytest.mark.parametrize("codec", [LOW_RANK, LOW_RANK_DELTA], ids=lambda codec: codec.name)
@pytest.mark.parametrize("name", NATIVE)
def test_damaged_bodies_are_refused_alike(name: str, codec: Codec) -> None:
    frame, new, old = small_frame(codec)
    arguments = new.nbytes, BESIDE.to_bytes(), [old.tobytes()]
    before = kernels.in_use()
    kernels.use(name)
    try:
        refused = 0
        for damaged in damages(bytes(unseal(frame)[1])):
            broken = seal(codec, damaged)
            expected = outcome(portable.decode_frame, DType.F32.code, broken, *arguments)
            assert outcome(kernels.current.decode_frame, DType.F32.code, broken, *arguments) == expected
            refused += expected is CodecError
    finally:
        kernels.use(before)
    assert refused > 200, "heads, tables and states"


def test_heads_that_do_not_fit_are_refused(kernel: kernels.Kernels) -> None:
    """Nothing but a head is wrong: the rest is what it would be without it."""
    frame, new, old = small_frame()
    body = bytes(unseal(frame)[1])
    index, s, sides, rest = body[:1], body[1:5], body[5:8], body[8:]
    assert sides == bytes((12, 0, 1))
    infinite, large = b"\0\0\x80\x7f", bytes((0x81, 0x80, 4))  # 65537
    heads = {
        "no predictor": b"\2" + s + sides,
        "no number": index + infinite + sides,
        "no words of a row": index + s + bytes((0, 0, 1)),
        "longer rows than the chunk": index + s + bytes((61, 0, 1)),
        "begins behind the row": index + s + bytes((12, 12, 1)),
        "no directions": index + s + bytes((12, 0, 0)),
        "directions that take more than the words": index + s + bytes((12, 0, 4)),
        "more directions than a format has": index + s + bytes((12, 0, 0x80, 2)),
        "rows that are too long": index + s + large + sides[1:],
    }
    for what, head in heads.items():
        broken = seal(LOW_RANK_DELTA, head + rest)
        for chosen in (kernel, portable):
            with pytest.raises(CodecError):
                chosen.decode_frame(DType.F32.code, broken, new.nbytes, BESIDE.to_bytes(), [old.tobytes()])
            assert what
    huge, broken = bytes(4 * 70_000), seal(LOW_RANK_DELTA, heads["rows that are too long"] + rest)
    with pytest.raises(CodecError, match=r"65537|rows"):
        kernel.decode_frame(DType.F32.code, broken, len(huge), BESIDE.to_bytes(), [huge])


@pytest.mark.parametrize(
    ("view", "directions"), [(View(12, 12, 60), 1), (View(12, 0, 60), 4), (View(512, 0, 512 * 512), 256)], ids=str
)
def test_what_is_whole_but_for_its_head_is_refused(kernel: kernels.Kernels, view: View, directions: int) -> None:
    """The first word of a row that is none of it, more numbers than words, and one direction more than there may be."""
    old = trained(DType.F32, view.words, 1, 1)[1]
    right = np.ones((directions, view.columns), np.int64)
    found = Factors(2.0**-9, np.ones((view.rows, directions), np.int64), right)
    body = low_rank.of(old ^ np.uint32(1), b"", BINARY32, 0, old, found, view, 0, 0)
    assert body is not None
    data = BESIDE.to_bytes(), [old.tobytes()]
    with pytest.raises(CodecError, match=r"rows|directions"):
        kernel.decode_frame(DType.F32.code, seal(LOW_RANK_DELTA, body), old.nbytes, *data)


def test_a_factor_of_more_than_fifteen_bits_is_refused(kernel: kernels.Kernels) -> None:
    new, old = trained(DType.F32, 5, 12, 1)
    for most, is_known in ((32767, True), (32768, False), (-32768, False)):
        left = np.array([[0], [0], [most], [0], [0]])
        found = Factors(0.0, left, np.ones((1, 12), np.int64))
        body = low_rank.of(new, b"", BINARY32, 0, old, found, View(12, 0, 60), 0, 0)
        assert body is not None
        frame, arguments = seal(LOW_RANK_DELTA, body), (new.nbytes, BESIDE.to_bytes(), [old.tobytes()])
        if is_known:
            assert kernel.decode_frame(DType.F32.code, frame, *arguments) == new.tobytes()
            continue
        with pytest.raises(CodecError, match="factor"):
            kernel.decode_frame(DType.F32.code, frame, *arguments)


@pytest.mark.parametrize("codec", [LOW_RANK, LOW_RANK_DELTA], ids=lambda codec: codec.name)
def test_frames_that_a_tensor_cannot_have(kernel: kernels.Kernels, codec: Codec) -> None:
    frame, new, old = small_frame(codec)
    raw, reference = new.tobytes(), old.tobytes()
    for dtype in (DType.I32, DType.F64):
        with pytest.raises(CodecError, match=codec.name):
            decode_chunk(frame, len(raw), Parameters(dtype, (Previous(),)), [reference])
    for size in (0, 3, len(raw) - 4, len(raw) + 1, len(raw) + 4):
        with pytest.raises(CodecError):
            decode_chunk(frame, size, BESIDE, [reference[:size] + bytes(max(0, size - len(reference)))])
    if codec is LOW_RANK:
        return
    with pytest.raises(CodecError, match="no predictor"):
        decode_chunk(frame, len(raw), Parameters(DType.F32), [reference])
    for first in (frame, small_frame(codec, 1)[0]):
        for unfit in ([], [reference[:-1]], [reference + b"\0"], [b""]):
            with pytest.raises(CodecError, match="reference"):
                decode_chunk(first, len(raw), BESIDE, unfit)


def test_what_a_frame_tells_without_being_decoded() -> None:
    for codec in (LOW_RANK, LOW_RANK_DELTA):
        frame = small_frame(codec)[0]
        assert row_of(frame) == 12
        for length in (1, 5, 8):
            assert row_of(frame[:length]) == 0
    assert {LOW_RANK, LOW_RANK_DELTA} < set(OF_FLOATS)
