"""What the chunks of one tensor share, and the decoder must know: a few bytes in the tensor's record.

A tensor has no predictor, and each of its chunks is a keyframe, or it has up to four, among which its blocks choose.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Two:
    """a * B + b * C, C the word of the second reference."""

    a: float
    b: float


@dataclass(frozen=True, slots=True)
class Moments:
    """a * B + b * m / (sqrt(v) + e), with Adam's moments m and v of the step as second and third reference."""

    a: float
    b: float
    e: float


Predictor: TypeAlias = Previous | Scaled | Decayed | Two | Moments

_KINDS: dict[type[Predictor], int] = {Previous: 0, Scaled: 1, Decayed: 2, Two: 3, Moments: 4}
_REFERENCES: dict[type[Predictor], int] = {Previous: 1, Scaled: 1, Decayed: 1, Two: 2, Moments: 3}


@dataclass(frozen=True, slots=True)
class Parameters:
    """How a tensor is coded.

    Raises:
        ValueError: the predictors are not such as a decoder takes.

    >>> Parameters(DType.BF16, (Previous(), Scaled(1.0))).to_bytes().hex()
    '0b020001000000000000f03f'
    >>> Parameters.from_bytes(bytes.fromhex("0b0100"))
    Parameters(dtype=<DType.BF16: DTypeInfo(code=11, size=2, kind='float')>, predictors=(Previous(),))
    """

    dtype: DType
    predictors: tuple[Predictor, ...] = ()

    def __post_init__(self) -> None:
        if len(self.predictors) > MAX_PREDICTORS:
            raise ValueError(f"{len(self.predictors)} predictors, at most {MAX_PREDICTORS} can be named")
        for predictor in self.predictors:
            _check(predictor)
            if not isinstance(predictor, Previous) and self.dtype not in COMPUTED_DTYPES:
                raise ValueError(f"words of {self.dtype.name} are not computed with, but {predictor} does")
        if len({_REFERENCES[type(predictor)] for predictor in self.predictors} & {2, 3}) > 1:
            raise ValueError("predictors disagree over what the second reference is")

    @classmethod
    def for_reference(cls, dtype: DType, has_reference: bool) -> Parameters:
        """Return what a tensor is plainly coded with, given whether there is a reference for it."""
        return cls(dtype, (Previous(),) if has_reference else ())

    @property
    def needs_reference(self) -> bool:
        """Whether chunks may be deltas. Ask `is_delta` of each frame: some may be keyframes all the same."""
        return bool(self.predictors)

    @property
    def references(self) -> int:
        """How many reference tensors it takes to decode a delta, 0 to 3."""
        return max((_REFERENCES[type(predictor)] for predictor in self.predictors), default=0)

    def to_bytes(self) -> bytes:
        """Return the dtype's code, how many predictors there are, and each one's kind and constants."""
        out = wire.Writer()
        out.fixed(bytes((self.dtype.code, len(self.predictors))))
        for predictor in self.predictors:
            out.fixed(bytes((_KINDS[type(predictor)],)))
            match predictor:
                case Previous():
                    pass
                case Scaled(a):
                    out.float64(a)
                case Decayed(runs):
                    out.uint(len(runs))
                    for c, steps in runs:
                        out.float64(c)
                        out.uint(steps)
                case Two(a, b):
                    out.float64(a)
                    out.float64(b)
                case Moments(a, b, e):
                    out.fixed(struct.pack("<3d", a, b, e))
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: Buffer) -> Parameters:
        """Read what `to_bytes` wrote.

        Raises:
            CodecError: too short or too long, a code that is in no table, or a constant outside its range.
        """
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
            return cls(dtype, predictors)
        except wire.WireError as error:
            raise CodecError(f"codec parameters: {error.message}") from None
        except ValueError as error:
            raise CodecError(f"codec parameters: {error}") from None


def _check(predictor: Predictor) -> None:
    constants: tuple[float, ...]
    match predictor:
        case Previous():
            constants = ()
        case Scaled(a):
            constants = (a,)
        case Two(a, b):
            constants = (a, b)
        case Moments(a, b, e):
            constants = (a, b, e)
        case Decayed(runs):
            constants = tuple(c for c, _ in runs)
            if not 1 <= len(runs) <= MAX_RUNS:
                raise ValueError(f"{len(runs)} runs of decay, expected 1 to {MAX_RUNS}")
            if min(steps for _, steps in runs) < 1 or sum(steps for _, steps in runs) > MAX_STEPS:
                raise ValueError(
                    f"runs of decay take {[steps for _, steps in runs]} steps, expected {MAX_STEPS} at most"
                )
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
            return Two(reader.float64(), reader.float64())
        case 4:
            return Moments(reader.float64(), reader.float64(), reader.float64())
    raise CodecError(f"codec parameters name unknown predictor kind {kind}")
