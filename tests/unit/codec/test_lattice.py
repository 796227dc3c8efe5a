"""Are elements on a lattice found, coded as their integers, and given back to the bit beside whatever is on none?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from modelvault import wire
from modelvault.codec import CodecError, Parameters, codec_name, decode_chunk, encode_chunk, lattice, order
from modelvault.codec.bounds import Bound
from modelvault.codec.chunk import frame_within
from modelvault.codec.ends import step_of
from modelvault.codec.frame import seal
from modelvault.codec.rounding import round_elements
from modelvault.codec.table import LATTICE, LATTICE_DELTA
from modelvault.tensors import DType

from . import plain_decoder
from .test_rounding import WORD, bits

ON_LATTICES = [DType.F16, DType.BF16, DType.F32, DType.F64, DType.C32, DType.C64, DType.C128]
EVERY_DTYPE = pytest.mark.parametrize("dtype", ON_LATTICES, ids=lambda dtype: dtype.name)


def snapshots(count: int = 3000, seed: int = 1) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Weights, and the same an epoch later: decayed, and moved a little."""
    random = np.random.default_rng(seed)
    old = random.normal(0, 0.05, count)
    return old, 0.98 * old + random.normal(0, 0.003, count)


def rounded(values: npt.NDArray[np.float64], dtype: DType, eps: float = 0.001) -> bytes:
    return round_elements(bits(values, dtype), dtype, Bound.ABS, eps).raw


def there_and_back(raw: bytes, dtype: DType, reference: bytes | None = None) -> bytes:
    """Encode and decode, here and with the decoder written from the page; return the frame."""
    parameters = Parameters.for_reference(dtype, reference is not None)
    references = [] if reference is None else [reference]
    frame = encode_chunk(raw, parameters, references)
    assert decode_chunk(frame, len(raw), parameters, references) == raw
    assert plain_decoder.decode(frame, len(raw), parameters.to_bytes(), references) == raw
    return frame


@EVERY_DTYPE
def test_rounded_weights_are_coded_as_integers(dtype: DType) -> None:
    old, new = snapshots()
    raw = rounded(new, dtype)
    if WORD[dtype] > 2:  # in 16 bits little more is kept than the integers take
        assert codec_name(there_and_back(raw, dtype)) in ("lattice", "pieces")
    for reference in (rounded(old, dtype), rounded(old, dtype, 0.004), rounded(old, dtype, 0.0002), bits(old, dtype)):
        frame = there_and_back(raw, dtype, reference)
        assert codec_name(frame) in ("lattice-delta", "steps-delta", "pieces-delta")
        assert len(frame) < len(raw) / (3 if WORD[dtype] > 2 else 1.5)


@EVERY_DTYPE
def test_whatever_is_on_no_lattice_stands_beside(dtype: DType) -> None:
    old, new = snapshots()
    raw, reference = bytearray(rounded(new, dtype)), bytearray(rounded(old, dtype))
    width = WORD[dtype]
    # A tensor that was kept exactly in the middle, odd values here and there, and some in the reference too.
    raw[1000 * width : 1300 * width] = bits(new[1000:1300], dtype)
    for place, value in enumerate((np.nan, -np.inf, -0.0, 1e-7, 6e4, 0.123456789)):
        for buffer, at in (
            (raw, 37 * place),
            (reference, 37 * place + 5),
            (raw, 400 * place),
            (reference, 400 * place),
        ):
            buffer[at * width : (at + 1) * width] = bits([value], dtype)
    for tail in (b"", b"x")[: 2 if width > 1 else 1]:
        keyframe = there_and_back(bytes(raw) + tail, dtype)
        delta = there_and_back(bytes(raw) + tail, dtype, bytes(reference) + tail)
        assert len(delta) < len(keyframe) < len(raw)


def test_a_late_reference_that_is_exact_predicts_to_the_side_it_leans_to() -> None:
    """What lies between two lattice points says which way an element may have gone."""
    random = np.random.default_rng(5)
    old = random.normal(0, 0.05, 60000)
    new = old + random.normal(0, 0.0001, old.size)
    raw = rounded(new, DType.F32)
    against = {name: len(there_and_back(raw, DType.F32, ref)) for name, ref in (
        ("exact", bits(old, DType.F32)), ("rounded", rounded(old, DType.F32)))}  # fmt: skip
    assert against["exact"] < against["rounded"]


def test_numbers_whose_squares_are_too_large_are_predicted_as_they_are() -> None:
    old, new = (np.rint(each * 1e5) * 2.0**900 for each in snapshots())
    assert codec_name(there_and_back(bits(new, DType.F64), DType.F64, bits(old, DType.F64))).endswith("-delta")


def test_weights_as_training_leaves_them_are_on_no_lattice() -> None:
    old, new = snapshots()
    for dtype in ON_LATTICES:
        words = order.words(np.frombuffer(bits(new, dtype), np.uint8), dtype)
        assert step_of(words, dtype) is None
    assert step_of(order.words(np.frombuffer(bytes(4000), np.uint8), DType.F32), DType.F32) is None
    assert not codec_name(there_and_back(bits(new, DType.F32), DType.F32, bits(old, DType.F32))).startswith("lattice")


def test_hostile_bodies() -> None:
    raw = rounded(snapshots(80)[1], DType.F32)
    words = order.words(np.frombuffer(raw, np.uint8), DType.F32)
    body = lattice.encode(words, b"", None, DType.F32, -9, frame_within)
    parameters = Parameters.for_reference(DType.F32, True)
    # A lattice within a lattice, a step out of range, a scale that is no number, elements of no float.
    inner = seal(LATTICE, body)
    within = wire.Writer()
    within.blob(inner)
    nested = body[:1] + b"\x01\x50" + within.getvalue()
    with pytest.raises(CodecError, match="within"):
        decode_chunk(seal(LATTICE, nested), len(raw), parameters, [raw])
    with pytest.raises(CodecError, match="step"):
        decode_chunk(seal(LATTICE, b"\x80\x20" + body[1:]), len(raw), parameters, [raw])
    for scale in (np.nan, np.inf):
        with pytest.raises(CodecError, match="scale"):
            delta = body[:1] + np.float64(scale).tobytes() + body[1:]
            decode_chunk(seal(LATTICE_DELTA, delta), len(raw), parameters, [raw])
    with pytest.raises(CodecError, match="I32 on a lattice"):
        decode_chunk(seal(LATTICE, body), len(raw), Parameters.for_reference(DType.I32, True), [raw])


@pytest.mark.parametrize("count", [1, 2, 126, 127, 128, 129, 20_000])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_runs_are_written_as_the_reader_takes_them(count: int, share: float) -> None:
    on = np.random.default_rng(count).random(count) < share
    for case in (on, np.arange(count) % 2 == 1, np.arange(count) < count // 2):
        reader = wire.Reader(lattice.write_runs(case))
        lengths = [reader.uint(count) for _ in range(reader.count())]
        assert not reader.rest()
        assert np.array_equal(lattice.from_runs(lengths, count), case)
