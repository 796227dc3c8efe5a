"""Tensors foretold by more than their base: by the base's own base, and by what the optimizer kept beside them.

The last step of `repack --effort max`. The optimizer's part is coded first and weights given it: how far a weight has
moved since its base goes with its moments at both ends. A mean of squares goes with the square of the mean. What a
sample says would save too little stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from modelvault import codec
from modelvault.errors import CorruptError
from modelvault.objects.tensor import MAX_REFERENCES, TensorRecord
from modelvault.repository.chains import StaleError, TooDeepError
from modelvault.repository.chunks import TensorDamagedError
from modelvault.repository.moments import Beside, Moments
from modelvault.repository.recode import Recoder, parameters_against, sampled

_LEAST_BYTES = 1 << 14
"""Below this the names of references and factors take what they save."""

_WORTHWHILE = 0.005
"""Share of a tensor's bytes that must be saved: every reference makes restoring it dearer."""

_EPSILON = 1e-8
"""What Adam adds to the root, unless told otherwise; too small to matter where it is another."""

_AGREEMENT = 0.02
_STATES = 64
"""Share by which signs must go together rather than apart, or apart rather than together, for a state to be a weight's
own, and how many states are tried. Of 16384 words that move at random, one in a hundred pairs reaches it."""


class Improvement(NamedTuple):
    """A tensor that more references make smaller.

    Attributes:
        number: the tensor.
        parameters: how it is coded against them.
        others: the references behind its base.
        saved: what share of its bytes goes, by a sample.
    """

    number: int
    parameters: codec.Parameters
    others: tuple[int, ...]
    saved: float


def improvements(recoder: Recoder, records: dict[int, TensorRecord], beside: Beside) -> Iterator[Improvement]:
    """Yield what is worth coding anew, optimizer state before weights, bases first."""
    order = sorted(records, key=lambda number: (number in beside.weights, records[number].depth, number))
    for number in order:
        record = records[number]
        if record.base not in records or record.nbytes < _LEAST_BYTES:
            continue
        try:
            found = _improvement(recoder, records, beside, number)
        except TensorDamagedError:
            continue  # fsck's to report; it stays as it is
        if found is not None:
            yield found


def improve(recoder: Recoder, found: Improvement, records: dict[int, TensorRecord]) -> int:
    """Code a tensor by more references, or leave it as it is where it would grow; return how many bytes it grew by.

    Raises:
        CorruptError: it did not survive. Nothing was changed.
    """
    record = records[found.number]
    try:
        grown = recoder.recode(found.number, record.base, found.parameters, found.others)
        if grown > 0:  # the sample was wrong
            before = codec.Parameters.from_bytes(record.parameters)
            grown += recoder.recode(found.number, record.base, before, record.others)
    except (StaleError, TooDeepError, TensorDamagedError):
        return 0
    return grown


def _improvement(recoder: Recoder, records: dict[int, TensorRecord], beside: Beside, number: int) -> Improvement | None:
    record = records[number]
    leaning = {number, *recoder.chains.below(number)}
    others: list[int] = []
    terms: list[codec.Term] = []

    def usable(*numbers: int) -> bool:
        fits = all(one in records and records[one].nbytes == record.nbytes and one not in leaning for one in numbers)
        return fits and len(others) + len(numbers) < MAX_REFERENCES

    def add(kind: codec.TermKind, *numbers: int) -> None:
        if usable(*numbers) and not set(numbers) & {*others, record.base}:
            others.extend(numbers)
            epsilon = _EPSILON if kind is codec.TermKind.STEP else 0.0
            terms.append(codec.Term(kind, len(others) - len(numbers) + 1, 1.0, epsilon))

    def follow(moments: Moments | None) -> None:
        if moments is not None and moments.square is not None:
            add(codec.TermKind.STEP, moments.mean, moments.square)
        elif moments is not None:
            add(codec.TermKind.WORD, moments.mean)

    for one in (record.others[:1], records[record.base].references[:1]):
        if one and one[0] in records and one[0] not in beside.squares.values():
            add(codec.TermKind.WORD, one[0])
    if number in beside.squares:
        add(codec.TermKind.SQUARE, beside.squares[number])
    own = _own_state(recoder, beside, number, record.base)
    follow(own)
    if own is not None:
        follow(_own_state(recoder, beside, record.base, number))
    if not terms:
        return None
    fitted = parameters_against(recoder.reader, number, record.base, others, terms)
    parameters, used = _without_unused(fitted, others)
    before = codec.Parameters.from_bytes(record.parameters)
    if not used or (used == record.others and parameters == before):
        return None
    now, then = (
        sampled(recoder.reader, number, (record.base, *behind), some)
        for some, behind in ((before, record.others), (parameters, used))
    )
    saved = 1 - then / max(1, now)
    return Improvement(number, parameters, used, saved) if saved >= _WORTHWHILE else None


def _own_state(recoder: Recoder, beside: Beside, number: int, other: int) -> Moments | None:
    """Return the state of a weight whose signs go with how it differs from another of its versions."""
    states = beside.weights.get(number, ())[:_STATES]
    best, most = None, _AGREEMENT
    for state in states:
        try:
            raws = [recoder.reader.chunk(one, 0) for one in (number, other, state.mean)]
            dtype = codec.Parameters.from_bytes(recoder.reader.record(number).parameters).dtype
        except CorruptError:
            continue
        found = abs(codec.agreement(dtype, *raws))
        if found > most:
            best, most = state, found
        if state is states[0] and best is state:
            break
    return best


def _without_unused(parameters: codec.Parameters, others: list[int]) -> tuple[codec.Parameters, tuple[int, ...]]:
    """Return the parameters with references numbered anew, and those that are looked at."""
    wanted: list[int] = []
    for predictor in parameters.predictors:
        if isinstance(predictor, codec.Combined):
            for term in predictor.terms:
                wanted += [place for place in range(term.reference, term.last_reference + 1) if place not in wanted]
    wanted.sort()
    numbered = {place: at for at, place in enumerate(wanted, start=1)}
    predictors = tuple(
        codec.Combined(
            predictor.a,
            tuple(
                codec.Term(term.kind, numbered[term.reference], term.factor, term.epsilon) for term in predictor.terms
            ),
        )
        if isinstance(predictor, codec.Combined)
        else predictor
        for predictor in parameters.predictors
    )
    return codec.Parameters(parameters.dtype, predictors), tuple(others[place - 1] for place in wanted)
