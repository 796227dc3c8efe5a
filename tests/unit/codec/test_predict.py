"""Are predictions what the page says, word by word, whatever the references hold?"""

from __future__ import annotations

import struct

import numpy as np
import pytest

from modelvault.codec import Combined, Decayed, Predictor, Previous, Scaled, Term, TermKind
from modelvault.codec.floats import BFLOAT16, BINARY16, BINARY32, Format
from modelvault.codec.predict import predicted

PREDICTORS: list[Predictor] = [
    Previous(),
    Scaled(0.9993),
    Scaled(-1e200),
    Scaled(1e-39),
    Decayed(((0.99999, 3), (1.5, 2))),
    Decayed(((2.0**-70, 2), (2.0**70, 2))),
    Combined(1.7, (Term(TermKind.WORD, 1, -0.7),)),
    Combined(0.9, (Term(TermKind.SQUARE, 2, 0.1), Term(TermKind.WORD, 1, 0.1))),
    Combined(0.9999, (Term(TermKind.STEP, 1, -1e-3, 1e-8),)),
    Combined(1.0, (Term(TermKind.STEP, 1, 1.0),)),
    Combined(
        1.5,
        (
            Term(TermKind.STEP, 3, -1e-3, 1e-8),
            Term(TermKind.STEP, 1, 0.3, 1.0),
            Term(TermKind.WORD, 3, -0.5),
            Term(TermKind.SQUARE, 1, 1e-9),
        ),
    ),
]
BITS = {32: (23, "<f", "<I"), 16: (10, "<e", "<H")}


def interesting(format_: Format, seed: int) -> np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]:
    """Return words of every level, then ordinary ones, in an order of their own."""
    random = np.random.default_rng(seed)
    every = np.arange(2 * format_.top_level + 2, dtype=np.uint64) << np.uint64(format_.mantissa)
    noise = random.integers(0, 1 << format_.mantissa, every.size, dtype=np.uint64)
    ordinary = (random.normal(0, 0.1, 200).astype("<f4").view("<u4") >> (32 - format_.bits)).astype(np.uint64)
    words = np.concatenate((every, every | noise, every | np.uint64(1), ordinary))
    return random.permutation(words).astype(f"<u{format_.word_bytes}")


@pytest.mark.parametrize("predictor", PREDICTORS, ids=str)
@pytest.mark.parametrize("format_", [BINARY32, BFLOAT16, BINARY16], ids=["f32", "bf16", "f16"])
def test_predictions_are_those_of_one_word_at_a_time(predictor: Predictor, format_: Format) -> None:
    references = [interesting(format_, seed) for seed in range(5)]
    if isinstance(predictor, Combined):  # near one another, and specials beside ordinary ones
        references[1] = np.where(np.arange(references[0].size) % 3 == 0, references[1], references[0])
    before = [reference.copy() for reference in references]
    found = predicted(predictor, references, format_)
    for words in zip(found.tolist(), *(reference.tolist() for reference in references), strict=True):
        assert words[0] == plain_prediction(predictor, words[1:], format_)
    assert all(map(np.array_equal, references, before)), "references are left alone"


def plain_prediction(predictor: Predictor, words: tuple[int, ...], format_: Format) -> int:
    from . import plain_decoder

    name = {BINARY32: "f32", BFLOAT16: "bf16", BINARY16: "f16"}[format_]
    kind: tuple[object, ...]
    match predictor:
        case Previous():
            kind = (0,)
        case Scaled(a):
            kind = (1, a)
        case Decayed(runs):
            kind = (2, runs)
        case Combined(a, terms):
            kind = (3, a, tuple((term.kind, term.reference, term.factor, term.epsilon) for term in terms))
    return plain_decoder.prediction(kind, list(words), name)


def test_one_of_each() -> None:
    def word(value: float) -> int:
        found: int = struct.unpack("<I", struct.pack("<f", value))[0]
        return found

    references = [np.array([word(value)], "<u4") for value in (2.0, 1.0, 4.0)]
    assert predicted(Previous(), references, BINARY32) == word(2.0)
    assert predicted(Scaled(0.75), references, BINARY32) == word(1.5)
    assert predicted(Decayed(((0.5, 2),)), references, BINARY32) == word(0.5)
    for term, expected in (
        (Term(TermKind.WORD, 1, -1.0), 3.0),
        (Term(TermKind.SQUARE, 2, 0.5), 12.0),
        (Term(TermKind.STEP, 1, 0.5, 2.0), 4.125),
    ):
        assert predicted(Combined(2.0, (term,)), references, BINARY32) == word(expected)
