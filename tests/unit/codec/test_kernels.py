"""Do all kernels there are here make the same bytes, take the same bodies, and refuse the same ones?"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelvault.codec import (
    CodecError,
    Decayed,
    Parameters,
    Predictor,
    Previous,
    Scaled,
    floats,
    kernels,
    order,
    plan,
    portable,
    predict,
    tokens,
    told,
)
from modelvault.codec.frame import seal
from modelvault.codec.glance import Signs
from modelvault.codec.lattice import values_of, words_of
from modelvault.codec.plan import Kind, Piece
from modelvault.codec.rounding import anchored
from modelvault.codec.spreads import Run
from modelvault.codec.table import LEVELS_RANS, OF_FLOATS, RESIDUAL_RANS, TABLE
from modelvault.tensors import DType

from .test_portable import DTYPES, EVERY_DTYPE, PREDICTORS, chunks_and_references, weights


def there(name: str) -> bool:
    before = kernels.in_use()
    try:
        kernels.use(name)
    except ValueError:
        return False
    finally:
        kernels.use(before)
    return True


NATIVE = [name for name in kernels.NAMES if name != "numpy" and there(name)]


@pytest.fixture(params=NATIVE)
def native(request: pytest.FixtureRequest) -> Iterator[kernels.Kernels]:
    before = kernels.in_use()
    kernels.use(request.param)
    yield kernels.current
    kernels.use(before)


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a call returns, or what kind of refusal it is."""
    try:
        return call(*arguments)
    except CodecError:
        return CodecError


def damages(body: bytes) -> Iterator[bytes]:
    """Yield a body cut short everywhere, with a byte more, and with each bit flipped."""
    yield from (body[:length] for length in range(len(body)))
    yield body + b"\0"
    for bit in range(8 * len(body)):
        flipped = bytearray(body)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)


def assert_agree(
    native: kernels.Kernels,
    dtype: DType,
    predictors: tuple[Predictor, ...],
    raw: bytes,
    references: list[bytes],
    row: int,
    start: int,
) -> None:
    parameters = Parameters(dtype, predictors)
    data, some = parameters.to_bytes(), references[: parameters.references]
    body = portable.encode_delta(dtype.code, raw, data, some, row, start, 1 << 30)
    assert native.encode_delta(dtype.code, raw, data, some, row, start, 1 << 30) == body
    if body is not None:
        frame = seal(RESIDUAL_RANS, body)
        assert native.decode_frame(dtype.code, frame, len(raw), data, some) == raw
        assert native.frame_decodes_to(dtype.code, frame, raw, data, some)
        assert not native.frame_decodes_to(dtype.code, frame, raw[:-1] + bytes((raw[-1] ^ 1,)), data, some)
    for most in (0, 1, len(raw) // 9, len(raw) // 2):
        body = portable.encode_delta(dtype.code, raw, data, some, row, start, most)
        assert native.encode_delta(dtype.code, raw, data, some, row, start, most) == body
    for most, alone in ((len(raw) // 3, True), (1 << 30, False)):
        frame_or_signs = portable.encode_frame(dtype.code, raw, data, some, row, start, most, alone)
        assert native.encode_frame(dtype.code, raw, data, some, row, start, most, alone) == frame_or_signs
    body = portable.encode_keyframe(dtype.code, raw, row, start)
    assert native.encode_keyframe(dtype.code, raw, row, start) == body
    if body is not None:
        frame = seal(LEVELS_RANS, body)
        assert native.decode_frame(dtype.code, frame, len(raw), data, ()) == raw
        assert native.frame_decodes_to(dtype.code, frame, raw, data, ())
        assert not native.frame_decodes_to(dtype.code, frame, bytes((raw[0] ^ 1,)) + raw[1:], data, ())
    assert native.fit(dtype.code, raw, references[0], 50, 0.5) == portable.fit(dtype.code, raw, references[0], 50, 0.5)
    for exponent, limit in ((-11, 2.0**-12), (-149, 1e-44), (-3, 0.01), (0, 1.0), (200, 2.0**199)):
        rounded = portable.round_elements(dtype.code, raw, exponent, limit)
        assert native.round_elements(dtype.code, raw, exponent, limit) == rounded
    for reference in (*references, raw, None):
        for alone in (True, False):
            seen = portable.glance(dtype.code, raw, reference, alone)
            assert native.glance(dtype.code, raw, reference, alone) == seen


@given(
    st.sampled_from(DTYPES),
    st.sampled_from(PREDICTORS),
    chunks_and_references(),
    st.integers(0, 50),
    st.integers(0, 10**6),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_words_become_the_same_bytes(
    native: kernels.Kernels,
    dtype: DType,
    predictors: tuple[Predictor, ...],
    pair: tuple[bytes, list[bytes]],
    row: int,
    start: int,
) -> None:
    assert_agree(native, dtype, predictors, *pair, row, start)


@EVERY_DTYPE
@pytest.mark.parametrize("predictors", PREDICTORS, ids=lambda found: "+".join(type(item).__name__ for item in found))
def test_weights_become_the_same_bytes(
    native: kernels.Kernels, dtype: DType, predictors: tuple[Predictor, ...]
) -> None:
    for words, row, start in ((300, 0, 0), (5003, 70, 33), (9021, 9, 4), (33_001, 1500, 7)):
        raw, references = weights(dtype, words)
        assert_agree(native, dtype, predictors, raw + b"!", [reference + b"?" for reference in references], row, start)


@pytest.mark.parametrize("words", [300, 5003])
@pytest.mark.parametrize(("dtype", "bits"), [(DType.F32, 24), (DType.BF16, 8), (DType.F16, 8)])
def test_tails_that_are_all_whole_bytes(native: kernels.Kernels, dtype: DType, bits: int, words: int) -> None:
    random_ = np.random.default_rng(5)
    size = order.word_bytes(dtype)
    old = (0x3F00 << 8 * (size - 2)) + random_.integers(0, 1 << bits - 3, words)
    new = old + (1 << bits) + random_.integers(0, 1 << bits - 1, words)  # positive ones, so many floats apart
    raw, reference = (some.astype(f"<u{size}") for some in (new, old))
    token = tokens.tokens(order.zigzag(order.places(raw) - order.places(reference)))
    assert set(tokens.tail_widths(token).tolist()) == {bits}
    assert_agree(native, dtype, (Previous(),), raw.tobytes(), [reference.tobytes()], 0, 0)


@EVERY_DTYPE
@pytest.mark.parametrize("row", [40, 700])
def test_scales_of_small_and_of_large_residuals(native: kernels.Kernels, dtype: DType, row: int) -> None:
    """Blocks whose tokens are 0.1 to 40 on average, of levels that are near each other or not, zeros among them."""
    random_ = np.random.default_rng(7)
    size, mantissa = order.word_bytes(dtype), floats.FORMATS[dtype].mantissa
    blocks = 24 if row < 100 else 6
    old = np.full((blocks, row), 12 << mantissa) + random_.integers(0, 5 << mantissa, (blocks, row))
    old[1::3] -= random_.integers(0, 11 << mantissa, old[1::3].shape)
    old[2::3, ::7] = 0
    largest = 2.0 ** np.linspace(-2, 12 if size == 2 else 20, blocks)[:, None]
    moved = old + np.round(random_.laplace(size=old.shape) * largest).astype(np.int64)
    raw, reference = (np.maximum(words, 0).astype(f"<u{size}").tobytes() for words in (moved, old))
    assert_agree(native, dtype, (Previous(),), raw, [reference], row, 0)


def test_no_delta_is_made_whose_tails_alone_are_too_long(native: kernels.Kernels) -> None:
    """At exactly the limit that its tokens give, and not a byte beyond."""
    raw, (old, *_) = weights(DType.F32, 4003)  # fewer than are told by a sample
    new, reference = (np.frombuffer(data, "<u4") for data in (raw, old))
    token = tokens.tokens(order.zigzag(order.places(new) - order.places(reference)))
    limit = (int(token.sum(dtype=np.int64)) + token.size) // 16
    tails = int(tokens.tail_widths(token).sum())
    assert tails + token.size < 8 * limit < tails + 2 * token.size
    arguments = DType.F32.code, raw, Parameters(DType.F32, (Previous(),)).to_bytes(), [old], 0, 0
    for kernel in (native, portable):
        assert kernel.encode_delta(*arguments, limit) is None
        assert kernel.encode_delta(*arguments, limit + 1) is not None


@EVERY_DTYPE
def test_no_delta_is_made_that_a_few_words_say_is_too_long(native: kernels.Kernels, dtype: DType) -> None:
    """Where only the words looked at moved, though twice as many bytes would do; where all others did, it is."""
    words, size = 50_000, order.word_bytes(dtype)
    mantissa = floats.FORMATS[dtype].mantissa
    random_ = np.random.default_rng(9)
    old = random_.integers(2 << mantissa, 3 << mantissa, words).astype(f"<u{size}")
    places = (np.arange(16)[:, None] * (words // 16) + np.arange(64)).ravel()
    few = np.zeros(words, np.bool_)
    few[places] = True
    for moved, sampled_only in ((few, True), (~few, False)):
        new = np.where(moved, old + random_.integers(0, 1 << mantissa - 2, words), old).astype(old.dtype)
        arguments = dtype.code, new.tobytes(), Parameters(dtype, (Previous(),)).to_bytes(), [old.tobytes()], 0, 0
        body = portable.encode_delta(*arguments, 1 << 30)
        assert body is not None
        for kernel in (native, portable):
            found = kernel.encode_delta(*arguments, 2 * len(body) + words // 8)
            assert found == (None if sampled_only and size == 4 else body), "of 16 bits none are looked at"


def test_frames_of_chunks_without_signs(native: kernels.Kernels) -> None:
    """Keyframes where deltas are longer, the other way round, and what is told where byte planes may do better."""
    random_ = np.random.default_rng(2)
    words, parameters = 20_000, Parameters(DType.F32, (Previous(),)).to_bytes()
    means = [random_.normal(0, 1e-3, words).astype("<f4") for _ in range(2)]
    likely = (means[1] * (1 + 1.2 * random_.normal(size=words))).astype("<f4")
    chance, other = (random_.integers(0, 1 << 32, words, np.uint32) for _ in range(2))
    apart, positive = random_.integers(0, 14 << 22, words, np.uint32), chance & 0x3FFFFFFF
    expected: list[tuple[Any, Any, object]] = [
        (means[0], means[1], LEVELS_RANS),
        (likely, means[1], LEVELS_RANS),
        (chance + apart, chance, RESIDUAL_RANS),
        (other, chance, 0),
        (means[0] ** 4, means[1] ** 4, 0),
        (positive + apart, positive, Signs.LONG),
    ]
    limit = 27 * 4 * words // 32
    for new, old, what in expected:
        for rest in (b"", b"xyz"):
            raw, reference = new.tobytes() + rest, old.tobytes() + rest[::-1]
            found = portable.encode_frame(DType.F32.code, raw, parameters, [reference], 9, 4, limit, True)
            assert native.encode_frame(DType.F32.code, raw, parameters, [reference], 9, 4, limit, True) == found
            if isinstance(found, bytes):
                assert found[0] == getattr(what, "id", None)
                assert portable.decode_frame(DType.F32.code, found, len(raw), parameters, [reference]) == raw
            else:
                assert found == what


@EVERY_DTYPE
def test_the_same_signs_are_seen(native: kernels.Kernels, dtype: DType) -> None:
    seen = set[int]()
    for words in (60, 900, 5003, 70_001):
        raw, (old, *_) = weights(dtype, words)
        size = order.word_bytes(dtype)
        for share in (0, 0.1, 0.2, 0.3, 0.5, 0.9, 1):  # of all words these are cut, or stay as they were
            cut, kept = bytearray(raw), bytearray(raw)
            which = np.random.default_rng(words).random(words) < share
            words_cut, words_kept, words_old = (
                order.words(np.frombuffer(data, np.uint8), dtype) for data in (cut, kept, old)
            )
            words_cut[which] &= words_cut.dtype.type(-1 << 3 * size & (1 << 8 * size) - 1)
            words_kept[which] = words_old[which]
            for data, reference in ((cut, None), (cut, old), (kept, old), (kept, cut)):
                for alone in (True, False):
                    signs = portable.glance(dtype.code, data, reference, alone)
                    assert native.glance(dtype.code, data, reference, alone) == signs
                    seen.add(signs)
    assert Signs.EQUAL in seen
    assert seen >= {Signs(0), Signs.SHORT | Signs.COARSE}
    assert any(signs & Signs.ANCHORED for signs in seen)


@EVERY_DTYPE
def test_the_same_words_stand_on_steps(native: kernels.Kernels, dtype: DType) -> None:
    """Words of which more and more were rounded within steps from the reference, and others moved freely."""
    random = np.random.default_rng(8)
    seen = list[int]()
    for count, size in ((150, 1.0), (1_000, 1.0), (1_000, 0.03), (9_000, 1.0)):  # of the smaller, some are subnormal
        before = size * random.normal(0, 0.05, count)
        before[::50] = 0, *random.choice([1e-39, np.inf, np.nan], before[::50].size - 1)
        after = before + size * random.normal(0, 0.02, count) * (random.random(count) > 0.05)
        old, new = (words_of(values, dtype).tobytes() for values in (before, after))
        for eps in (2e-3, 1e-2):
            on = order.words(np.frombuffer(anchored(new, old, dtype, size * eps).raw, np.uint8), dtype)
            free = order.words(np.frombuffer(new, np.uint8), dtype)
            for share in np.linspace(0, 1, 21):
                data = np.where(random.random(count) < share, on, free).tobytes()
                for is_one in (True, False):
                    seen.append(portable.glance(dtype.code, data, old, is_one))
                    assert native.glance(dtype.code, data, old, is_one) == seen[-1]
    for first in (1, 2, 3, 4):  # steps that the nearest word moved by; those that are not small moved freely
        small = random.integers(0, 32, 200) / 1024
        before, after = (np.concatenate([some, random.uniform(0.5, 2, 800)]) for some in (
            small, small + random.integers(first, 8, 200) / 64))  # fmt: skip
        after[::20] = before[::20]
        old, new = (words_of(values, dtype).tobytes() for values in (before, after))
        assert native.glance(dtype.code, new, old, True) == portable.glance(dtype.code, new, old, True)
        assert (native.glance(dtype.code, new, old, True) & Signs.ANCHORED != 0) == (first < 4)
    alone, together = (sum(signs & Signs.ANCHORED != 0 for signs in seen[first::2]) for first in (0, 1))
    assert 5 < alone < together - 5


PIECES = [
    Piece(Run(37, 5, 3), Kind.EQUAL, -9, value=1 + 77 / 65536),
    Piece(Run(30), Kind.DOUBLING, -4, 4),
    Piece(Run(6), Kind.APART),
    Piece(Run(40, 9, 11), Kind.ANCHORED, value=0.0021),
    Piece(Run(500, 18, 7), Kind.EQUAL, -7),
    Piece(Run(3), Kind.SAME),
    Piece(Run(64, 2), Kind.DOUBLING, 3, 2),
    Piece(Run(9000, 50, 20), Kind.EQUAL, -11),
]


def in_pieces(words: int, delta: bool) -> list[Piece]:
    """Return pieces of every kind that have so many words together."""
    found = list[Piece]()
    for piece in (*PIECES, Piece(Run(words, 30, 4), Kind.EQUAL, -8)):
        some = min(words, piece.run.words)
        kind = Kind.APART if piece.kind is Kind.SAME and not delta else piece.kind
        if some:
            found.append(piece._replace(run=piece.run._replace(words=some), kind=kind))
        words -= some
    return found


def in_steps(raw: bytes, dtype: DType, reference: bytes, pieces: list[Piece]) -> bytes:
    """Return words of which most stand on the steps of their pieces; the others are as they were."""
    words, base = (order.words(np.frombuffer(data, np.uint8), dtype) for data in (bytearray(raw), reference))
    start = 0
    for piece in pieces:
        some = slice(start, start + piece.run.words)
        start = some.stop
        if piece.kind is Kind.DOUBLING:
            words[some] &= words.dtype.type(-1 << 3 & (1 << 8 * words.itemsize) - 1)
        elif piece.is_counted:
            with np.errstate(all="ignore"):
                step = piece.value if piece.kind is Kind.ANCHORED else 2.0**piece.exponent
                anchor = values_of(base[some], dtype) * (piece.kind is Kind.ANCHORED)
                multiples = np.rint((values_of(words[some], dtype) - anchor) / step)
                found = words_of(anchor + multiples * step, dtype)
                words[some] = np.where(np.abs(multiples) < 1 << 20, found, words[some])
    return words.tobytes() + raw[words.nbytes :]


def assert_agree_on_pieces(native: kernels.Kernels, dtype: DType, raw: bytes, reference: bytes) -> None:
    for beside in (reference, None):
        pieces = in_pieces(order.words(np.frombuffer(raw, np.uint8), dtype).size, beside is not None)
        packed = plan.pack(pieces)
        for data in (raw, in_steps(raw, dtype, reference, pieces)):
            if beside is not None:
                factors = portable.fit_pieces(dtype.code, data, beside, packed)
                assert native.fit_pieces(dtype.code, data, beside, packed) == factors
            assert native.ends(dtype.code, data) == portable.ends(dtype.code, data)
            if pieces:
                survey = portable.survey_pieces(dtype.code, data, beside, packed)
                assert native.survey_pieces(dtype.code, data, beside, packed) == survey
            core, marks = portable.encode_pieces(dtype.code, data, beside, packed)
            assert native.encode_pieces(dtype.code, data, beside, packed) == (core, marks)
            expected = portable.decode_pieces(dtype.code, core, len(data), beside, packed)
            assert native.decode_pieces(dtype.code, core, len(data), beside, packed) == expected


steps_of_pieces = st.sampled_from(
    [(Kind.EQUAL, -9, 0), (Kind.EQUAL, 200, 0), (Kind.DOUBLING, -3, 4), (Kind.ANCHORED, 0, 0), (Kind.APART, 0, 0)]
)
factors = st.one_of(st.just(0), st.integers(-300, 300), st.integers(-(2**29), 2**29))
pieces_told = st.lists(
    st.tuples(st.sampled_from([1, 2, 64, 65, 4000, 1 << 20]), steps_of_pieces, factors), min_size=1, max_size=12
)


@given(pieces_told, st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_are_told_and_read_alike(
    native: kernels.Kernels, found: list[tuple[int, tuple[Kind, int, int], int]], delta: bool
) -> None:
    pieces = list[Piece]()
    for words, (kind, exponent, mantissa), factor in found:
        counts = kind is Kind.EQUAL and delta
        value = 0.375 if kind is Kind.ANCHORED else 1 + factor / plan.FACTOR if counts else float(kind is Kind.EQUAL)
        pieces.append(Piece(Run(words), kind, exponent, mantissa, value))
    body, count = portable.tell_pieces(plan.pack(pieces), delta), sum(piece.run.words for piece in pieces)
    assert native.tell_pieces(plan.pack(pieces), delta) == body
    for read in (native.read_pieces, portable.read_pieces):
        back, used = read(body + b"rest", count, delta)
        assert (plan.unpack(back), used) == (pieces, len(body))


def test_pieces_on_more_steps_than_can_be_told(native: kernels.Kernels) -> None:
    few, many = (
        plan.pack([Piece(Run(5), Kind.EQUAL, -place) for place in range(count)]) for count in (told.MOST_GRIDS, 8)
    )
    for tell in (native.tell_pieces, portable.tell_pieces):
        assert tell(few, False)
        with pytest.raises(ValueError, match="kinds"):
            tell(many, False)


@pytest.mark.parametrize("delta", [True, False])
def test_damaged_pieces_have_the_same_outcome(native: kernels.Kernels, delta: bool) -> None:
    pieces = [
        Piece(Run(70), Kind.EQUAL, -9, 0, 1 - 700 / plan.FACTOR),
        Piece(Run(9), Kind.DOUBLING, 3, 4),
        Piece(Run(9), Kind.ANCHORED, value=0.3),
        Piece(Run(12), Kind.APART),
    ]
    whole = portable.tell_pieces(plan.pack(pieces), delta)
    for one in damages(whole):
        expected = outcome(portable.read_pieces, one, 100, delta)
        assert outcome(native.read_pieces, one, 100, delta) == expected, one.hex()


@given(st.binary(max_size=40), st.integers(0, 300), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_pieces_have_the_same_outcome(native: kernels.Kernels, body: bytes, count: int, delta: bool) -> None:
    expected = outcome(portable.read_pieces, body, count, delta)
    assert outcome(native.read_pieces, body, count, delta) == expected


@given(st.sampled_from(DTYPES), chunks_and_references())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_words_become_the_same_integers(
    native: kernels.Kernels, dtype: DType, pair: tuple[bytes, list[bytes]]
) -> None:
    assert_agree_on_pieces(native, dtype, pair[0], pair[1][0])


@EVERY_DTYPE
def test_weights_become_the_same_integers(native: kernels.Kernels, dtype: DType) -> None:
    for words in (1, 300, 5003, 33_001):
        raw, references = weights(dtype, words)
        assert_agree_on_pieces(native, dtype, raw + b"!", references[0] + b"?")


@pytest.mark.parametrize("share", [0.001, 0.003, 0.006, 0.01, 0.013, 0.017, 0.02, 0.03, 0.1])
def test_columns_are_looked_for_in_the_same_pieces(native: kernels.Kernels, share: float) -> None:
    random = np.random.default_rng(7)
    rows, row = 200, 100
    chances = np.where(np.arange(row) < 10, 9 * share, share / 9)  # most moved in a tenth of them
    moved = (random.random((rows, row)) < chances) * random.choice((-1, 1), (rows, row))
    old = random.integers(-99, 99, rows * row)
    new, reference = ((some * 2.0**-8).astype("<f4").tobytes() for some in (old + moved.ravel(), old))
    pieces = plan.pack([Piece(Run(rows * row, row), Kind.EQUAL, -8)])
    found = portable.encode_pieces(DType.F32.code, new, reference, pieces)
    assert native.encode_pieces(DType.F32.code, new, reference, pieces) == found
    for kernel in (portable, native):
        assert kernel.decode_pieces(DType.F32.code, found[0], len(new), reference, pieces) == new


@EVERY_DTYPE
def test_damaged_integers_have_the_same_outcome(native: kernels.Kernels, dtype: DType) -> None:
    raw, references = weights(dtype, 190)
    pieces = in_pieces(190, delta=True)
    packed, reference = plan.pack(pieces), references[0]
    raw = in_steps(raw, dtype, reference, pieces)
    core, _ = portable.encode_pieces(dtype.code, raw, reference, packed)
    for one in damages(core):
        expected = outcome(portable.decode_pieces, dtype.code, one, len(raw), reference, packed)
        assert outcome(native.decode_pieces, dtype.code, one, len(raw), reference, packed) == expected, one.hex()


@given(st.binary(max_size=80), st.sampled_from(DTYPES), st.integers(0, 300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_integers_have_the_same_outcome(native: kernels.Kernels, core: bytes, dtype: DType, size: int) -> None:
    packed = plan.pack(in_pieces(size // order.word_bytes(dtype), delta=True))
    reference = (bytes(range(256)) * 2)[:size]
    expected = outcome(portable.decode_pieces, dtype.code, core, size, reference, packed)
    assert outcome(native.decode_pieces, dtype.code, core, size, reference, packed) == expected


@EVERY_DTYPE
def test_tails_of_nearly_all_bits_among_short_ones(native: kernels.Kernels, dtype: DType) -> None:
    raw, references = weights(dtype, 6000)
    noise = np.random.default_rng(8).integers(0, 256, len(raw) // 8, np.uint8).tobytes()
    raw = raw[: len(raw) // 4] + noise + raw[len(raw) // 4 + len(noise) :]
    assert portable.encode_delta(
        dtype.code, raw, Parameters(dtype, (Previous(),)).to_bytes(), references[:1], 50, 0, 1 << 30
    )
    assert_agree(native, dtype, (Previous(),), raw, references[:1], 50, 0)


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16])
@pytest.mark.parametrize("tailed", [0, 1, 9, 63, 64, 65, 255, 256])
def test_few_tails_among_words_without(native: kernels.Kernels, dtype: DType, tailed: int) -> None:
    """Of each 256 words so many have tails, in five such runs and some words more, each time at other places."""
    random = np.random.default_rng(tailed)
    old = order.words(np.frombuffer(weights(dtype, 5 * 256 + 90)[1][0], np.uint8), dtype)
    steps = random.integers(-1, 2, old.size)
    for start in range(0, old.size, 256):
        places = random.permutation(min(256, old.size - start))[:tailed]
        steps[start + places] = random.integers(2, 40, places.size)
    if tailed:
        steps[[0, 255, 256 + 63, 512 + 64]] = 9  # at the ends of what is looked at together
    assert_agree(native, dtype, (Previous(),), (old + steps).astype("<u2").tobytes(), [old.tobytes()], 0, 0)


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16])
def test_keyframes_of_pruned_weights(native: kernels.Kernels, dtype: DType) -> None:
    """Nearly all words are 0, without tails: of both signs, after a chunk whose words have all of theirs."""
    full = order.words(np.frombuffer(weights(dtype, 5 * 256 + 90)[0], np.uint8), dtype)
    left = np.random.default_rng(9).random(full.size) < 0.05
    for words in (full, np.where(left, full, 0), np.where(left, full, full & 0x8000)):
        raw = words.astype("<u2").tobytes()
        body = portable.encode_keyframe(dtype.code, raw, 0, 0)
        assert body is not None
        assert native.encode_keyframe(dtype.code, raw, 0, 0) == body
        assert native.decode_frame(dtype.code, seal(LEVELS_RANS, body), len(raw), b"", ()) == raw


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16])
@pytest.mark.parametrize("steps", [2, 3, 4])
@pytest.mark.parametrize("length", [13, 32])
def test_decay_that_is_just_too_little_among_special_words(
    native: kernels.Kernels, dtype: DType, steps: int, length: int
) -> None:
    """Of the words that are numbers, about half are further from what they were than the least that counts."""
    beta = 0.99 if dtype is DType.BF16 else 0.999
    old = order.words(np.frombuffer(weights(dtype, 4_000)[1][0], np.uint8), dtype).copy()
    new = predict.predicted(Decayed(((beta, steps),)), [old], floats.FORMATS[dtype])
    special = np.arange(old.size) % length * 2 > length
    new[special] = old[special] = 0
    arguments = dtype.code, new.tobytes(), old.tobytes(), length, 0.1
    assert native.fit(*arguments) == portable.fit(*arguments)


@EVERY_DTYPE
@pytest.mark.parametrize(
    "runs",
    [
        ((0.5, 30),),
        ((2.0, 30),),
        ((-1.5, 9), (0.3, 9)),
        ((0.5, 20), (4.0, 20)),
        ((4.0, 20), (0.5, 20)),
        ((0.0, 2),),
        ((1.0, 3), (1e-3, 4), (1e300, 2)),
    ],
    ids=str,
)
def test_decays_leave_and_keep_the_same_words(
    native: kernels.Kernels, dtype: DType, runs: tuple[tuple[float, int], ...]
) -> None:
    """Numbers that become too large or too small on the way, and come back, and those that never were numbers."""
    if floats.FORMATS[dtype].word_bytes == 2:
        old = np.arange(1 << 16, dtype="<u2").tobytes()
    else:
        old = np.random.default_rng(7).integers(0, 1 << 32, 1 << 16, "<u4").tobytes()
    gone = predict.predicted(
        Decayed(runs), [order.words(np.frombuffer(old, np.uint8), dtype)], floats.FORMATS[dtype]
    ).tobytes()
    assert_agree(native, dtype, (Decayed(runs),), gone, [old], 100, 0)
    assert_agree(native, dtype, (Previous(), Decayed(runs)), old[::-1], [old], 37, 5)


@EVERY_DTYPE
@pytest.mark.parametrize("length", [1, 7, 40, 512])
@pytest.mark.parametrize(
    "runs",
    [
        ((0.98, 1),),
        ((float(np.float32(0.9)), 15),),
        ((1 - 3 * 2.0**-24, 20),),
        ((1 - 3 * 2.0**-24, 12), (1 - 2 * 2.0**-24, 8)),
        ((1 - 40 * 2.0**-24, 90),),
    ],
    ids=str,
)
def test_the_same_predictors_are_found(
    native: kernels.Kernels, dtype: DType, length: int, runs: tuple[tuple[float, int], ...]
) -> None:
    raw, (old, *_) = weights(dtype, 4_000)
    words = order.words(np.frombuffer(old, np.uint8), dtype)
    gone = predict.predicted(Decayed(runs), [words], floats.FORMATS[dtype]).tobytes()
    third = len(raw) // 12 * 4
    for new in (gone, raw[:third] + gone[third:], raw[:third] + gone[third : 2 * third] + old[2 * third :], raw[:60]):
        arguments = dtype.code, new, old[: len(new)], length, 0.1
        assert native.fit(*arguments) == portable.fit(*arguments)


def test_the_same_mixtures_are_found(native: kernels.Kernels) -> None:
    """Some blocks shrank by a unit or two, all are noisy: whether blocks shall choose hangs on what choosing costs."""
    old = order.words(np.frombuffer(weights(DType.F32, 30_000)[1][0], np.uint8), DType.F32)
    gone, length, found = predict.predicted(Scaled(1 - 2.0**-22), [old], floats.BINARY32), 512, set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        blocks = rng.random(old.size // length + 1) < 0.15 + 0.35 * rng.random()
        shrank = np.repeat(blocks, length)[: old.size] & (rng.random(old.size) < 0.4 + 0.6 * rng.random())
        noisy = rng.random(old.size) < 0.6 * rng.random()
        noise = np.where(noisy, rng.integers(-1, 2, old.size), 0).astype(old.dtype)
        arguments = DType.F32.code, (np.where(shrank, gone, old) + noise).tobytes(), old.tobytes(), length, 0.5
        predictors = native.fit(*arguments)
        assert predictors == portable.fit(*arguments)
        found.add(len(predictors))
    assert len(found) > 1  # some choose, others do not


@pytest.mark.parametrize(("share", "is_short"), [(2 / 16, False), (3.5 / 16, True)])
def test_words_that_end_in_zeros_are_looked_at_again_where_a_few_leave_it_in_doubt(
    native: kernels.Kernels, share: float, is_short: bool
) -> None:
    words = np.random.default_rng(0).integers(0, 1 << 32, 1 << 16, "<u4") | np.uint32(1)
    words[::2] &= ~np.uint32(7)
    few = np.arange(words.size) % (words.size // 64) < 16  # of each of 64 places so many words
    words[few] |= np.uint32(1)
    cut = np.flatnonzero(few)[: int(share * np.count_nonzero(few))]
    words[cut] &= ~np.uint32(7)
    seen = portable.glance(DType.F32.code, words.tobytes(), None, True)
    assert native.glance(DType.F32.code, words.tobytes(), None, True) == seen
    assert bool(seen & Signs.SHORT) == is_short


def test_buffers_are_given_back(native: kernels.Kernels) -> None:
    """A buffer that somebody still looks at cannot grow; odd places are copied, and the copies freed."""
    raw, (old, *_) = weights(DType.F32, 3_000)
    parameters = Parameters(DType.F32, (Previous(),)).to_bytes()
    chunk, reference, short, nothing = bytearray(b"?" + raw), bytearray(b"?" + old), bytearray(old[:-4]), bytearray()
    for _ in range(3):
        with memoryview(chunk) as one, memoryview(reference) as other:
            body = native.encode_delta(DType.F32.code, one[1:], parameters, [other[1:]], 0, 0, 1 << 30)
            assert body is not None
            frame = bytearray(b"?" + seal(RESIDUAL_RANS, body))
            with memoryview(frame) as sealed:
                assert native.decode_frame(DType.F32.code, sealed[1:], len(raw), parameters, [other[1:]]) == raw
                made = native.encode_frame(DType.F32.code, one[1:], parameters, [other[1:]], 0, 0, 1 << 30, True)
                assert made == bytes(frame[1:])
            frame.append(0)
            with pytest.raises(CodecError, match="reference of"):
                native.encode_delta(DType.F32.code, one[1:], parameters, [short], 0, 0, 1 << 30)
            with pytest.raises(CodecError, match="references given"):
                native.encode_delta(DType.F32.code, one[1:], parameters, [], 0, 0, 1 << 30)
            with pytest.raises(CodecError, match="reference of"):
                native.encode_frame(DType.F32.code, one[1:], parameters, [short], 0, 0, 1 << 30, True)
        assert native.encode_keyframe(DType.F32.code, nothing, 0, 0) is None
        for buffer in (chunk, reference, short, nothing):
            buffer.append(0)
            del buffer[-1]


def test_bodies_of_nothing_decode_to_nothing(native: kernels.Kernels) -> None:
    body = bytes((0, 0, 1, 1))
    parameters = Parameters(DType.F32, (Previous(),)).to_bytes()
    key, delta, ending = seal(LEVELS_RANS, body), seal(RESIDUAL_RANS, body), seal(LEVELS_RANS, body + b"?!")
    for kernel in (native, portable):
        assert kernel.frame_decodes_to(DType.F32.code, key, b"", parameters, ())
        assert kernel.frame_decodes_to(DType.F32.code, delta, b"", parameters, [b""])
        assert kernel.frame_decodes_to(DType.F32.code, ending, b"?!", parameters, ())
        assert not kernel.frame_decodes_to(DType.F32.code, ending, b"??", parameters, ())
        assert kernel.encode_frame(DType.F32.code, b"", parameters, [b""], 0, 0, 1 << 30, True) == 0


def test_frames_of_others_are_left_to_them(native: kernels.Kernels) -> None:
    raw, (old, *_) = weights(DType.F32, 3_000)
    parameters, none = Parameters(DType.F32, (Previous(),)).to_bytes(), Parameters(DType.F32).to_bytes()
    body = portable.encode_delta(DType.F32.code, raw, parameters, [old], 0, 0, 1 << 30)
    assert body is not None
    delta, key = seal(RESIDUAL_RANS, body), seal(LEVELS_RANS, b"")
    for kernel in (native, portable):
        for codec in set(TABLE) - set(OF_FLOATS):
            assert kernel.decode_frame(DType.F32.code, seal(codec, body), len(raw), parameters, [old]) is None
            assert kernel.frame_decodes_to(DType.F32.code, seal(codec, body), raw, parameters, [old]) is None
        for frame in (b"", delta[:4], key[:1], b"\xff" + delta[1:]):
            assert kernel.decode_frame(DType.F32.code, frame, len(raw), parameters, [old]) is None
        assert kernel.decode_frame(DType.F32.code, delta, len(raw), none, [old]) is None
        assert kernel.decode_frame(DType.F32.code, delta, len(raw), parameters, [old]) == raw


def test_checksums_of_frames_are_those_of_zlib(native: kernels.Kernels) -> None:
    """Of bodies of every length that one of the ways to compute them begins or ends at."""
    chance = random.Random(11)
    for length in (*range(330), 511, 512, 513, 4_095, 4_096, 70_001):
        body = chance.randbytes(length)
        head = struct.pack("<BI", LEVELS_RANS.id, zlib.crc32(body, zlib.crc32(bytes((LEVELS_RANS.id,)))))
        with pytest.raises(CodecError, match=f"body of {length} bytes"):  # which is nonsense, but the sum is right
            native.decode_frame(DType.F32.code, head + body, 1 << 20, b"", ())
        place = chance.randrange(8 * (length + 4))
        damaged = bytearray(head + body)
        damaged[1 + place // 8] ^= 1 << place % 8
        with pytest.raises(CodecError, match="frame checksum is"):
            native.decode_frame(DType.F32.code, damaged, 1 << 20, b"", ())
        assert outcome(native.decode_frame, DType.F32.code, damaged, 1 << 20, b"", ()) == outcome(
            portable.decode_frame, DType.F32.code, damaged, 1 << 20, b"", ()
        )


@EVERY_DTYPE
def test_decays_are_found_beside_words_that_are_no_numbers(native: kernels.Kernels, dtype: DType) -> None:
    """What is zero, subnormal or infinite, or was, has no ratio, wherever it moved; a word that grew did not decay."""
    old = np.random.default_rng(3).normal(0, 0.05, (40, 64)) + 0.5
    new = words_of(old.ravel(), dtype)
    for _ in range(9):
        new = predict.predicted(Scaled(float(np.float32(0.9))), [new], floats.FORMATS[dtype])
    moved = values_of(new, dtype).reshape(old.shape).copy()
    for place, (was, now) in enumerate(((0, 0.7), (1e-39, 0.5), (0.3, np.inf), (0.2, np.nan), (0, np.inf), (0, 1e-39))):
        old[:, 5 * place], moved[:, 5 * place] = was, now
    grown = moved.copy()
    grown[:, 31] = old[:, 31] * 1.02
    turned = np.where(np.arange(64) % 9 == 4, -moved, moved)
    before = words_of(old.ravel(), dtype).tobytes()
    for values, kinds in ((moved, {2}), (grown, {0, 1}), (turned, {0, 1})):
        after = words_of(values.ravel(), dtype).tobytes()
        found = portable.fit(dtype.code, after, before, 64, 1.0)
        assert native.fit(dtype.code, after, before, 64, 1.0) == found
        assert set(found[2:3]) <= kinds


def test_what_is_no_sample_is_refused(native: kernels.Kernels) -> None:
    for kernel in (native, portable):
        with pytest.raises(ValueError, match="reference of"):
            kernel.fit(DType.F32.code, bytes(400), bytes(396), 10, 1.0)
        with pytest.raises(ValueError, match=r"dtype|no floats"):
            kernel.fit(DType.I32.code, bytes(400), bytes(400), 10, 1.0)


def test_damaged_parameters_have_the_same_outcome(native: kernels.Kernels) -> None:
    raw, references = weights(DType.F32, 64)
    references = [*references, *references, *references]
    accepted = refused = 0
    for predictors in PREDICTORS:
        data = Parameters(DType.F32, predictors).to_bytes()
        damaged = [data[:length] for length in range(len(data))] + [data + b"\0"]
        damaged += [data[:place] + bytes((value,)) + data[place + 1 :] for place in range(1, len(data)) for value in
                    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x7F, 0x80, 0xF0, 0xFF)]  # fmt: skip
        for parameters in damaged:
            expected = outcome(portable.encode_delta, DType.F32.code, raw, parameters, references, 0, 0, 1 << 30)
            assert outcome(native.encode_delta, DType.F32.code, raw, parameters, references, 0, 0, 1 << 30) == expected
            refused += expected is CodecError
            accepted += expected is not CodecError
    assert refused > 500
    assert accepted > 500


@EVERY_DTYPE
def test_damaged_bodies_have_the_same_outcome(native: kernels.Kernels, dtype: DType) -> None:
    raw, references = weights(dtype, 150)
    parameters = Parameters(dtype, (Previous(), Scaled(0.9995))).to_bytes()
    delta = portable.encode_delta(dtype.code, raw, parameters, references[:1], 40, 0, 1 << 30)
    key = portable.encode_keyframe(dtype.code, raw, 40, 0)
    assert delta is not None
    assert key is not None
    for codec, body in ((RESIDUAL_RANS, delta), (LEVELS_RANS, key)):
        for one in damages(body):
            for method, of in (("decode_frame", len(raw)), ("frame_decodes_to", raw)):
                arguments = dtype.code, seal(codec, one), of, parameters, references[:1]
                assert outcome(getattr(native, method), *arguments) == outcome(getattr(portable, method), *arguments), (
                    one.hex()
                )


@given(st.binary(max_size=80), st.sampled_from(DTYPES), st.integers(0, 300), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bodies_have_the_same_outcome(
    native: kernels.Kernels, body: bytes, dtype: DType, size: int, plausible: bool
) -> None:
    if plausible:
        body = b"\x00\x00\x01\x01" + body
    parameters = Parameters(dtype, (Previous(), Scaled(2.0))).to_bytes()
    reference = (bytes(range(256)) * 2)[:size]
    for codec in (RESIDUAL_RANS, LEVELS_RANS):
        arguments = dtype.code, seal(codec, body), size, parameters, [reference]
        assert outcome(native.decode_frame, *arguments) == outcome(portable.decode_frame, *arguments)
