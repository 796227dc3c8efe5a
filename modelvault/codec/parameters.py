"""What the chunks of one tensor share, and the decoder must know: a few bytes in the tensor's record.

A tensor has no predictor, and each of its chunks is a keyframe, or it has up to four, among which its blocks choose.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, TypeAlias

from modelvault import wire
from modelvault.codec.errors import CodecError
from modelvault.tensors import BY_CODE, DType

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_PREDICTORS = 4
MAX_RUNS = 8
MAX_STEPS = 512
"""Multiplications that a `Decayed` asks for at most, all runs together."""

MAX_TERMS = 4
MAX_REFERENCES = 8

COMPUTED_DTYPES = frozenset({DType.F32, DType.BF16, DType.F16, DType.C64, DType.C32})
"""Those whose words may be predicted by arithmetic."""


@dataclass(frozen=True, slots=True)
class Previous:
    """The word at the same place of the first reference, B."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """a * B: what weight decay leaves, near enough."""

    a: float


@dataclass(frozen=True, slots=True)
class Decayed:
    """B multiplied by c, rounded, k times, for each run (c, k): exactly what decoupled weight decay leaves."""

    runs: tuple[tuple[float, int], ...]


class TermKind(IntEnum):
    """What a term of `Combined` multiplies, C, m and v being words of references.

    Attributes:
        WORD: C.
        SQUARE: C * C: what a gradient adds to the mean of squares.
        STEP: m / (sqrt(v) + e): where Adam's moments lead. v is the reference behind m.
    """

    WORD = 0
    SQUARE = 1
    STEP = 2


@dataclass(frozen=True, slots=True)
class Term:
    """One term of `Combined`.

    Attributes:
        kind: what is multiplied.
        reference: of which reference, from 1; 0 is the base.
        factor: by what.
        epsilon: e of a step, else 0.
    """

    kind: TermKind
    reference: int
    factor: float
    epsilon: float = 0.0

    @property
    def last_reference(self) -> int:
        """The last reference that it looks at."""
        return self.reference + (self.kind is TermKind.STEP)


@dataclass(frozen=True, slots=True)
class Combined:
    """a * B, and one to four terms of other references, added in order."""

    a: float
    terms: tuple[Term, ...]


Predictor: TypeAlias = Previous | Scaled | Decayed | Combined


@dataclass(frozen=True, slots=True)
class Parameters:
    """How a tensor is coded.

    Attributes:
        dtype: of its elements.
        predictors: among which its blocks choose; none: each chunk is a keyframe.
        references: how many reference tensors it takes to decode a delta, 0 to 8.

    Raises:
        ValueError: the predictors are not such as a decoder takes.

    >>> Parameters(DType.BF16, (Previous(), Scaled(1.0))).to_bytes().hex()
    '0b020001000000000000f03f'
    >>> Parameters.from_bytes(bytes.fromhex("0b0100"))
    Parameters(dtype=<DType.BF16: DTypeInfo(code=11, size=2, kind='float')>, predictors=(Previous(),))
    """

    dtype: DType
    predictors: tuple[Predictor, ...] = ()
    references: int = field(init=False, repr=False, compare=False)
    _data: bytes = field(init=False, repr=False, compare=False)  # asked for with each chunk

    def __post_init__(self) -> None:
        if len(self.predictors) > MAX_PREDICTORS:
            raise ValueError(f"{len(self.predictors)} predictors, at most {MAX_PREDICTORS} can be named")
        for predictor in self.predictors:
            _check(predictor)
            if not isinstance(predictor, Previous) and self.dtype not in COMPUTED_DTYPES:
                raise ValueError(f"words of {self.dtype.name} are not computed with, but {predictor} does")
        object.__setattr__(self, "references", max(map(_references, self.predictors), default=0))
        object.__setattr__(self, "_data", self._written())

    @classmethod
    def for_reference(cls, dtype: DType, has_reference: bool) -> Parameters:
        """Return what a tensor is plainly coded with, given whether there is a reference for it."""
        return cls(dtype, (Previous(),) if has_reference else ())

    @property
    def needs_reference(self) -> bool:
        """Whether chunks may be deltas. Ask `is_delta` of each frame: some may be keyframes all the same."""
        return bool(self.predictors)

    def to_bytes(self) -> bytes:
        """Return the dtype's code, how many predictors there are, and each one's kind and constants."""
        return self._data

    def _written(self) -> bytes:
        out = wire.Writer()
        out.fixed(bytes((self.dtype.code, len(self.predictors))))
        for predictor in self.predictors:
            match predictor:
                case Previous():
                    out.fixed(b"\x00")
                case Scaled(a):
                    out.fixed(b"\x01")
                    out.float64(a)
                case Decayed(runs):
                    out.fixed(b"\x02")
                    out.uint(len(runs))
                    for c, steps in runs:
                        out.float64(c)
                        out.uint(steps)
                case Combined(a, terms):
                    out.fixed(b"\x03")
                    out.float64(a)
                    out.uint(len(terms))
                    for term in terms:
                        out.fixed(bytes((term.kind, term.reference)))
                        out.float64(term.factor)
                        if term.kind is TermKind.STEP:
                            out.float64(term.epsilon)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: Buffer) -> Parameters:
        """Read what `to_bytes` wrote.

        Raises:
            CodecError: too short or too long, a code that is in no table, or a constant outside its range.
        """
        return _from_bytes(bytes(data))


@functools.lru_cache(maxsize=256)  # most tensors of a network have the same ones, and they never change
def _from_bytes(data: bytes) -> Parameters:
    reader = wire.Reader(data)
    try:
        code, count = reader.fixed(2)
        dtype = BY_CODE.get(code)
        if dtype is None:
            raise CodecError(f"codec parameters name unknown dtype code {code}")
        if count > MAX_PREDICTORS:
            raise CodecError(f"codec parameters name {count} predictors, expected at most {MAX_PREDICTORS}")
        predictors = tuple(_read(reader) for _ in range(count))
        reader.end()
        return Parameters(dtype, predictors)
    except wire.WireError as error:
        raise CodecError(f"codec parameters: {error.message}") from None
    except ValueError as error:
        raise CodecError(f"codec parameters: {error}") from None


def _references(predictor: Predictor) -> int:
    return 1 + max(term.last_reference for term in predictor.terms) if isinstance(predictor, Combined) else 1


def _check(predictor: Predictor) -> None:
    constants: tuple[float, ...]
    match predictor:
        case Previous():
            constants = ()
        case Scaled(a):
            constants = (a,)
        case Decayed(runs):
            constants = tuple(c for c, _ in runs)
            if not 1 <= len(runs) <= MAX_RUNS:
                raise ValueError(f"{len(runs)} runs of decay, expected 1 to {MAX_RUNS}")
            if min(steps for _, steps in runs) < 1 or sum(steps for _, steps in runs) > MAX_STEPS:
                raise ValueError(
                    f"runs of decay take {[steps for _, steps in runs]} steps, expected {MAX_STEPS} at most"
                )
        case Combined(a, terms):
            constants = (a, *(term.factor for term in terms), *(term.epsilon for term in terms))
            if not 1 <= len(terms) <= MAX_TERMS:
                raise ValueError(f"{len(terms)} terms, expected 1 to {MAX_TERMS}")
            if min(term.reference for term in terms) < 1 or _references(predictor) > MAX_REFERENCES:
                raise ValueError(f"terms of references that cannot be: {terms}")
            if any(term.epsilon and term.kind is not TermKind.STEP for term in terms):
                raise ValueError(f"only steps have an epsilon: {terms}")
    if not all(map(math.isfinite, constants)):
        raise ValueError(f"constants are not finite: {predictor}")


def _read(reader: wire.Reader) -> Predictor:
    (kind,) = reader.fixed(1)
    match kind:
        case 0:
            return Previous()
        case 1:
            return Scaled(reader.float64())
        case 2:
            runs = range(reader.uint(MAX_RUNS))
            return Decayed(tuple((reader.float64(), reader.uint(MAX_STEPS)) for _ in runs))
        case 3:
            a, count = reader.float64(), reader.uint(MAX_TERMS)
            return Combined(a, tuple(_read_term(reader) for _ in range(count)))
    raise CodecError(f"codec parameters name unknown predictor kind {kind}")


def _read_term(reader: wire.Reader) -> Term:
    kind, reference = reader.fixed(2)
    if kind not in TermKind.__members__.values():
        raise CodecError(f"codec parameters name unknown kind of term {kind}")
    return Term(TermKind(kind), reference, reader.float64(), reader.float64() if kind == TermKind.STEP else 0.0)
