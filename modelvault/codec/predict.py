"""What the words of a chunk are expected to be, computed from its references.

A prediction is a word like any other, to the bit the same on every machine. Where the reference or the result is
special, so that rounding or flushing could differ or nothing sensible came out, the reference's word is expected.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelvault.codec import floats
from modelvault.codec.floats import Format, Mask, Numbers
from modelvault.codec.order import Words
from modelvault.codec.parameters import Combined, Decayed, Predictor, Previous, Scaled, Term, TermKind


def predicted(predictor: Predictor, references: Sequence[Words], format_: Format) -> Words:
    """Return a word for each of the first reference.

    Args:
        predictor: what to compute.
        references: as many as it needs, of one length.
        format_: of their words.

    >>> one = np.array([0x3F80, 0x0000], "<u2")
    >>> [hex(word) for word in predicted(Scaled(0.5), [one], floats.BFLOAT16)]
    ['0x3f00', '0x0']
    """
    base = references[0]
    if isinstance(predictor, Previous):
        return base
    unfit = floats.special(base, format_)
    with np.errstate(all="ignore"):
        if isinstance(predictor, Decayed):
            found = _decayed(predictor, base, format_, unfit)
        else:
            found = floats.rounded(_computed(predictor, references, format_), format_)
            unfit |= floats.special(found, format_)
    return np.where(unfit, base, found)


def _computed(predictor: Scaled | Combined, references: Sequence[Words], format_: Format) -> Numbers:
    found = predictor.a * floats.numbers(references[0], format_)
    if isinstance(predictor, Combined):
        for term in predictor.terms:
            found = found + term.factor * moved_by(term, references, format_)
    return found


def moved_by(term: Term, references: Sequence[Words], format_: Format) -> Numbers:
    """Return what a term multiplies by its factor."""
    first = _flushed(references[term.reference], format_)
    match term.kind:
        case TermKind.WORD:
            return first
        case TermKind.SQUARE:
            return first * first
        case TermKind.STEP:
            return first / (np.sqrt(_flushed(references[term.reference + 1], format_)) + term.epsilon)


def _flushed(words: Words, format_: Format) -> Numbers:
    """Return the values, with zeros for words of level 0."""
    values = floats.numbers(words, format_)
    values[floats.levels(words, format_) == 0] = 0.0
    return values


def _decayed(predictor: Decayed, base: Words, format_: Format, unfit: Mask) -> Words:
    """Return the words after every run, and mark in `unfit` where one was special on the way."""
    found = base
    for c, steps in predictor.runs:
        for _ in range(steps):
            found = floats.rounded(floats.numbers(found, format_) * c, format_)
            unfit |= floats.special(found, format_)
    return found
