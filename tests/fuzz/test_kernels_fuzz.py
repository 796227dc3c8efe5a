"""Do the kernels in C survive any body, however it was damaged, and refuse what numpy refuses?

Bodies of real encoders are damaged at random, for as many seconds as SECONDS_OF_FUZZ says. `scripts/sanitize` runs this
where every access outside a buffer is found.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from modelvault.codec import (
    CodecError,
    Parameters,
    Previous,
    Run,
    kernels,
    low_rank,
    order,
    pieces,
    portable,
    strides_delta,
)
from modelvault.codec.bounds import Bound
from modelvault.codec.factors import Factors
from modelvault.codec.floats import FORMATS
from modelvault.codec.frame import seal
from modelvault.codec.low_rank import View
from modelvault.codec.rounding import round_elements
from modelvault.codec.strides import Strides
from modelvault.codec.table import LEVELS_RANS, LOW_RANK, LOW_RANK_DELTA, RESIDUAL_RANS, STRIDES_DELTA
from modelvault.tensors import DType

from ..unit.codec.test_kernels import NATIVE
from ..unit.codec.test_low_rank import trained
from ..unit.codec.test_portable import PREDICTORS, weights
from ..unit.codec.test_strides import by_signs

SECONDS = float(os.environ.get("SECONDS_OF_FUZZ", "10"))


def damaged(body: bytes | bytearray, chance: random.Random) -> bytes:
    """Return a body with a few bytes or bits changed, left out, put in or cut off."""
    found = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(found) + 1) if chance.random() < 0.6 else min(len(found), chance.randrange(24))
        match chance.randrange(5):
            case 0 if at < len(found):
                found[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(found):
                found[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            case 2:
                found[at:at] = chance.randbytes(chance.randint(1, 3))
            case 3:
                del found[at : at + chance.randint(1, 3)]
            case _:
                del found[len(found) - chance.randint(0, min(8, len(found))) :]
    return bytes(found)


@pytest.fixture(params=NATIVE)
def chance(request: pytest.FixtureRequest) -> Iterator[random.Random]:
    """Randomness, while the kernels of a name are in use."""
    before = kernels.in_use()
    kernels.use(request.param)
    yield random.Random(request.param)
    kernels.use(before)


def cases(chance: random.Random) -> Iterator[tuple[DType, bytes, list[bytes]]]:
    """Yield dtypes, words and references, one at least, for as long as there is time."""
    deadline = time.monotonic() + SECONDS / len(NATIVE)
    is_first = True
    while is_first or time.monotonic() < deadline:
        dtype, is_first = chance.choice((DType.F32, DType.BF16, DType.F16)), False
        yield dtype, *weights(dtype, chance.choice((40, 300, 2_500, 34_000)))


def assert_decoded_alike(name: str, dtype: DType, body: bytes, size: int, *words: object) -> None:
    """Check that a body is refused or gives so many bytes, and where it gives few that numpy says the same.

    Args:
        name: of the kernels' function that decodes it.
        dtype: of the words.
        body: damaged or not.
        size: bytes.
        words: what else the function takes.
    """

    def outcome(kernel: kernels.Kernels) -> bytes | None:
        try:
            done: bytes | None = getattr(kernel, name)(dtype.code, body, size, *words)
        except CodecError:
            return None
        return done

    found = outcome(kernels.current)
    assert found is None or len(found) == size
    if size < 2_000:
        assert found == outcome(portable), body.hex()


def assert_told_alike(body: bytes, words: int, *, delta: bool) -> None:
    """Check that what is told of pieces is refused or read, as numpy does."""

    def outcome(kernel: kernels.Kernels) -> tuple[bytes, int] | None:
        try:
            return kernel.read_pieces(body, words, delta)
        except CodecError:
            return None

    assert outcome(kernels.current) == outcome(portable), body.hex()


@pytest.mark.slow
def test_damaged_bodies_are_refused_or_decoded(chance: random.Random) -> None:
    for dtype, raw, references in cases(chance):
        raw += chance.randbytes(chance.randrange(4))
        references = [reference + raw[len(reference) :] for reference in references]
        parameters = Parameters(dtype, chance.choice(PREDICTORS))
        words, size = parameters.to_bytes(), len(raw)
        bases, row = references[: parameters.references], chance.choice((0, 9, 70, 1500))
        delta = kernels.current.encode_delta(dtype.code, raw, words, bases, row, 5, 1 << 30)
        key = kernels.current.encode_keyframe(dtype.code, raw, row, 5)
        for _ in range(300):
            body = damaged(chance.choice([body for body in (delta, key) if body] or [b"\0\0"]), chance)
            for codec in (RESIDUAL_RANS, LEVELS_RANS):
                assert_decoded_alike("decode_frame", dtype, seal(codec, body), size, words, bases)
            assert_decoded_alike("decode_frame", dtype, damaged(seal(RESIDUAL_RANS, body), chance), size, words, bases)


@pytest.mark.slow
def test_damaged_strides_are_refused_or_decoded(chance: random.Random) -> None:
    dtype = DType.F32
    for _ in cases(chance):
        new, old = by_signs(chance.choice((40, 300, 2_500, 34_000)), chance.randint(1, 60), seed=chance.randrange(99))
        rest = chance.randbytes(chance.randrange(4))
        found = Strides(chance.uniform(0.9, 1), chance.choice((1e-4, 2e-4)), chance.random() < 0.5)
        row, width = chance.choice((0, 9, 70)), chance.choice((0, 0, 5, chance.randint(1, 8)))
        body = strides_delta.of(new.view("<u4"), rest, old.view("<u4"), found, row, 5, width)
        words, references = Parameters(dtype, (Previous(),)).to_bytes(), [old.tobytes() + rest]
        for _ in range(300):
            frame = seal(STRIDES_DELTA, damaged(body or b"\0\0", chance))
            assert_decoded_alike("decode_frame", dtype, frame, new.nbytes + len(rest), words, references)


@pytest.mark.slow
def test_damaged_factors_are_refused_or_decoded(chance: random.Random) -> None:
    for dtype, raw, (reference, *_) in cases(chance):
        format_ = FORMATS[dtype]
        words, base = (np.frombuffer(data, f"<u{format_.word_bytes}") for data in (raw, reference))
        columns, directions = chance.choice((1, 5, 12, 33, 200)), chance.randint(1, 5)
        view = View(columns, chance.randrange(columns), words.size)
        if columns > words.size or directions * (view.rows + columns) > words.size:
            continue
        numbers = np.random.default_rng(chance.randrange(99))
        left, right = (numbers.integers(-9, 10, shape) for shape in ((view.rows, directions), (directions, columns)))
        index = chance.choice((None, 0, 1))
        known = np.zeros_like(base) if index is None else base
        found = Factors(2.0 ** chance.randint(-30, 3), left, right)
        new = low_rank.moved(known, found, view, format_) ^ words % 8
        body = low_rank.of(new, b"", format_, index, known, found, view, columns, 5)
        parameters = Parameters(dtype, (Previous(),)).to_bytes()
        for _ in range(300):
            frame = seal(LOW_RANK if index is None else LOW_RANK_DELTA, damaged(body or b"\0\0", chance))
            assert_decoded_alike("decode_frame", dtype, frame, new.nbytes, parameters, [reference[: new.nbytes]])


@pytest.mark.slow
def test_factors_are_found_alike(chance: random.Random) -> None:
    for _ in cases(chance):
        dtype = chance.choice((DType.F32, DType.BF16, DType.F16))
        columns = chance.choice((16, 17, 64, 300, 511, 513, 2100))
        rows = 33_000 // columns + chance.randint(1, 9)
        new, old = trained(dtype, rows, columns, chance.randint(1, 6), seed=chance.randrange(999))
        start = chance.randrange(columns)
        new, old = new[start:].copy(), old[start:]
        for _ in range(chance.randrange(9)):
            new[chance.randrange(new.size)] = chance.getrandbits(8 * new.itemsize)
        data = Parameters(dtype, (Previous(),)).to_bytes(), [old.tobytes()], columns, start, new.nbytes, True
        made = [some.encode_frame(dtype.code, new.tobytes(), *data) for some in (kernels.current, portable)]
        assert made[0] == made[1]


@pytest.mark.slow
def test_damaged_integers_of_pieces_are_refused_or_decoded(chance: random.Random) -> None:
    for dtype, raw, (reference, *_) in cases(chance):
        raw = round_elements(raw, dtype, chance.choice((Bound.ABS, Bound.REL)), 2.0 ** chance.randint(-9, -4)).raw
        words, base = (np.frombuffer(data, f"<u{order.word_bytes(dtype)}") for data in (raw, reference))
        cuts = sorted({0, words.size, *(chance.randrange(words.size) for _ in range(chance.randrange(6)))})
        runs = [Run(end - start, chance.choice((0, 9, 70)), 5) for start, end in pairwise(cuts)]
        beside = chance.choice((base, None))
        found, old = pieces.find(words, beside, dtype, runs).tobytes(), None if beside is None else reference
        core, _ = kernels.current.encode_pieces(dtype.code, raw, old, found)
        assert kernels.current.survey_pieces(dtype.code, raw, old, found)
        told = kernels.current.tell_pieces(found, old is not None)
        for _ in range(300):
            assert_told_alike(damaged(told, chance), words.size, delta=old is not None)
            assert_decoded_alike("decode_pieces", dtype, damaged(core or b"\0", chance), len(raw), old, found)
