"""Do parameters come back from their bytes, and is everything that a decoder could not use refused?"""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.codec import (
    CodecError,
    Combined,
    Decayed,
    Parameters,
    Predictor,
    Previous,
    Scaled,
    Term,
    TermKind,
)
from modelvault.tensors import DType

constants = st.floats(allow_nan=False, allow_infinity=False)
runs = st.lists(st.tuples(constants, st.integers(1, 64)), min_size=1, max_size=8).map(tuple)
terms = st.one_of(
    st.builds(Term, st.sampled_from([TermKind.WORD, TermKind.SQUARE]), st.integers(1, 7), constants),
    st.builds(Term, st.just(TermKind.STEP), st.integers(1, 6), constants, constants),
)
predictor_lists = st.lists(
    st.one_of(
        st.just(Previous()),
        st.builds(Scaled, constants),
        st.builds(Decayed, runs),
        st.builds(Combined, constants, st.lists(terms, min_size=1, max_size=4).map(tuple)),
    ),
    max_size=4,
).map(tuple)
computed = st.sampled_from([DType.F32, DType.BF16, DType.F16, DType.C64, DType.C32])


@given(computed, predictor_lists)
def test_parameters_come_back(dtype: DType, predictors: tuple[Predictor, ...]) -> None:
    parameters = Parameters(dtype, predictors)
    data = parameters.to_bytes()
    assert Parameters.from_bytes(data).to_bytes() == data
    assert Parameters.from_bytes(data) == parameters
    for cut in range(len(data)):
        with pytest.raises(CodecError):
            Parameters.from_bytes(data[:cut])
    with pytest.raises(CodecError):
        Parameters.from_bytes(data + b"\0")


def test_the_bytes_are_those_of_the_page() -> None:
    half = struct.pack("<d", 0.5)
    decayed = Decayed(((0.5, 3), (0.5, 200)))
    assert Parameters(DType.F32).to_bytes() == b"\x0c\x00"
    assert Parameters(DType.I32, (Previous(),)).to_bytes() == b"\x07\x01\x00"
    two = Combined(0.5, (Term(TermKind.WORD, 7, 0.5),))
    assert Parameters(DType.F32, (Scaled(0.5), two)).to_bytes() == b"".join(
        (b"\x0c\x02\x01", half, b"\x03", half, b"\x01\x00\x07", half)
    )
    assert Parameters(DType.F32, (decayed,)).to_bytes() == b"\x0c\x01\x02\x02" + half + b"\x03" + half + b"\xc8\x01"
    both = Combined(0.5, (Term(TermKind.STEP, 6, 0.5, 0.5), Term(TermKind.SQUARE, 1, 0.5)))
    assert Parameters(DType.F32, (both,)).to_bytes() == b"".join(
        (b"\x0c\x01\x03", half, b"\x02\x02\x06", half, half, b"\x01\x01", half)
    )


def test_how_many_references() -> None:
    for count, predictors in (
        (0, ()),
        (1, (Previous(), Scaled(1.0), Decayed(((1.0, 1),)))),
        (2, (Previous(), Combined(1.0, (Term(TermKind.WORD, 1, 1.0),)))),
        (3, (Combined(1.0, (Term(TermKind.STEP, 1, 1.0, 1.0),)), Previous())),
        (8, (Combined(1.0, (Term(TermKind.STEP, 6, 1.0), Term(TermKind.SQUARE, 1, 1.0))),)),
    ):
        parameters = Parameters(DType.F32, predictors)
        assert parameters.references == count
        assert parameters.needs_reference == bool(count)
    assert Parameters.for_reference(DType.U8, True) == Parameters(DType.U8, (Previous(),))
    assert Parameters.for_reference(DType.U8, False) == Parameters(DType.U8)


REFUSED: dict[str, tuple[DType, tuple[Predictor, ...]]] = {
    "at most 4": (DType.F32, (Previous(),) * 5),
    "not finite": (DType.F32, (Scaled(math.inf),)),
    "not finite:": (DType.F32, (Decayed(((0.5, 1), (math.nan, 1))),)),
    "not computed with": (DType.F64, (Previous(), Scaled(1.0))),
    "expected 1 to 8": (DType.F32, (Decayed(()),)),
    "9 runs": (DType.F32, (Decayed(((0.5, 1),) * 9),)),
    r"\[0\] steps": (DType.F32, (Decayed(((0.5, 0),)),)),
    r"\[512, 1\] steps": (DType.F32, (Decayed(((0.5, 512), (0.5, 1))),)),
    "0 terms": (DType.F32, (Combined(1.0, ()),)),
    "5 terms": (DType.F32, (Combined(1.0, (Term(TermKind.WORD, 1, 1.0),) * 5),)),
    "cannot be": (DType.F32, (Combined(1.0, (Term(TermKind.WORD, 0, 1.0),)),)),
    r"cannot be: \(Term\(kind=<TermKind.STEP": (DType.F32, (Combined(1.0, (Term(TermKind.STEP, 7, 1.0),)),)),
    "epsilon": (DType.F32, (Combined(1.0, (Term(TermKind.WORD, 1, 1.0, 1.0),)),)),
    "not finite: Combined": (DType.F32, (Combined(1.0, (Term(TermKind.STEP, 1, 1.0, math.inf),)),)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_no_decoder_takes_is_no_parameters(message: str) -> None:
    dtype, predictors = REFUSED[message]
    with pytest.raises(ValueError, match=message):
        Parameters(dtype, predictors)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "ends early"),
        ("0c", "ends early"),
        ("1700", "unknown dtype code 23"),
        ("0c0500", "names? 5 predictors|name 5 predictors"),
        ("0c0104", "unknown predictor kind 4"),
        ("0c0103" + 8 * "00" + "010301" + 8 * "00", "unknown kind of term 3"),
        ("0c0103" + 8 * "00" + "010008" + 8 * "00", "cannot be"),
        ("0c0101", "ends early"),
        ("0c010000", "too many"),
        ("0c0101000000000000f07f", "not finite"),
        ("0c010200", "0 runs"),
        ("0c010209", "above its limit"),
        ("0d0101000000000000f03f", "F64 are not computed with"),
    ],
)
def test_damaged_parameters_are_refused(data: str, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        Parameters.from_bytes(bytes.fromhex(data))
