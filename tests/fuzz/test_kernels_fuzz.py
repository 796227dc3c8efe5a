"""Do the kernels in C survive any body, however it was damaged, and refuse what numpy refuses?

Bodies of real encoders are damaged at random, for as many seconds as SECONDS_OF_FUZZ says. `scripts/sanitize` runs this
where every access outside a buffer is found.
"""

from __future__ import annotations

import os
import random
import time
from itertools import pairwise

import numpy as np
import pytest

from modelvault.codec import CodecError, Parameters, Run, kernels, order, pieces, plan, portable
from modelvault.codec.rounding import Bound, round_elements
from modelvault.tensors import DType

from ..unit.codec.test_kernels import NATIVE
from ..unit.codec.test_portable import PREDICTORS, weights

SECONDS = float(os.environ.get("SECONDS_OF_FUZZ", "10"))


def damaged(body: bytes, chance: random.Random) -> bytes:
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


@pytest.mark.slow
@pytest.mark.parametrize("name", NATIVE)
def test_damaged_bodies_are_refused_or_decoded(name: str) -> None:
    before = kernels.in_use()
    kernels.use(name)
    try:
        chance, tried = random.Random(name), 0
        deadline = time.monotonic() + SECONDS / len(NATIVE)
        while time.monotonic() < deadline:
            dtype = chance.choice((DType.F32, DType.BF16, DType.F16))
            raw, references = weights(dtype, chance.choice((40, 300, 2_500, 34_000)))
            raw += chance.randbytes(chance.randrange(4))
            references = [reference + raw[len(reference) :] for reference in references]
            parameters = Parameters(dtype, chance.choice(PREDICTORS))
            bases, row = references[: parameters.references], chance.choice((0, 9, 70, 1500))
            delta = kernels.current.encode_delta(dtype.code, raw, parameters.to_bytes(), bases, row, 5)
            key = kernels.current.encode_keyframe(dtype.code, raw, row, 5)
            for _ in range(300):
                outcomes = list[bytes | None]()
                body = damaged(chance.choice([body for body in (delta, key) if body] or [b"\0\0"]), chance)
                for kernel in (kernels.current, portable) if len(raw) < 2_000 else (kernels.current,):
                    try:
                        one = kernel.decode_delta(dtype.code, body, len(raw), parameters.to_bytes(), bases)
                        outcomes.append(one)
                    except CodecError:
                        outcomes.append(None)
                    try:
                        outcomes.append(kernel.decode_keyframe(dtype.code, body, len(raw)))
                    except CodecError:
                        outcomes.append(None)
                assert outcomes[:2] == outcomes[-2:], body.hex()
                assert all(one is None or len(one) == len(raw) for one in outcomes)
                tried += 1
        assert tried
    finally:
        kernels.use(before)


@pytest.mark.slow
@pytest.mark.parametrize("name", NATIVE)
def test_damaged_integers_of_pieces_are_refused_or_decoded(name: str) -> None:
    before = kernels.in_use()
    kernels.use(name)
    try:
        chance, tried = random.Random(name), 0
        deadline = time.monotonic() + SECONDS / len(NATIVE)
        while time.monotonic() < deadline:
            dtype = chance.choice((DType.F32, DType.BF16, DType.F16))
            raw, (reference, *_) = weights(dtype, chance.choice((40, 300, 2_500, 34_000)))
            bound = chance.choice((Bound.ABS, Bound.REL))
            raw = round_elements(raw, dtype, bound, 2.0 ** chance.randint(-9, -4)).raw
            words, base = (np.frombuffer(data, f"<u{order.word_bytes(dtype)}") for data in (raw, reference))
            cuts = sorted({0, words.size, *(chance.randrange(words.size) for _ in range(chance.randrange(6)))})
            runs = [Run(end - start, chance.choice((0, 9, 70)), 5) for start, end in pairwise(cuts)]
            beside = chance.choice((base, None))
            found = plan.pack(pieces.find(words, beside, dtype, runs))
            old = None if beside is None else reference
            core, _ = kernels.current.encode_pieces(dtype.code, raw, old, found)
            for _ in range(300):
                body, outcomes = damaged(core or b"\0", chance), list[bytes | None]()
                for kernel in (kernels.current, portable) if len(raw) < 2_000 else (kernels.current,):
                    try:
                        outcomes.append(kernel.decode_pieces(dtype.code, body, len(raw), old, found))
                    except CodecError:
                        outcomes.append(None)
                assert outcomes[0] == outcomes[-1], body.hex()
                assert outcomes[0] is None or len(outcomes[0]) == len(raw)
                tried += 1
        assert tried
    finally:
        kernels.use(before)
