"""What the chunks of one tensor share, and the decoder must know: two bytes in the tensor's record."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelvault.codec.errors import CodecError
from modelvault.tensors import BY_CODE, DType

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Predictor(enum.IntEnum):
    """What an element is expected to be; the value is its code on the wire."""

    NONE = 0  # nothing is expected: every chunk is a keyframe
    PREVIOUS = 1  # the element at the same place of the reference


@dataclass(frozen=True, slots=True)
class Parameters:
    """How a tensor is coded.

    >>> Parameters(DType.BF16, Predictor.PREVIOUS).to_bytes().hex()
    '0b01'
    >>> Parameters.from_bytes(bytes.fromhex("0b01"))
    Parameters(dtype=<DType.BF16: DTypeInfo(code=11, size=2, kind='float')>, predictor=<Predictor.PREVIOUS: 1>)
    """

    dtype: DType
    predictor: Predictor

    @classmethod
    def for_reference(cls, dtype: DType, has_reference: bool) -> Parameters:
        """Return what a tensor is best coded with, given whether there is a reference for it."""
        return cls(dtype, Predictor.PREVIOUS if has_reference else Predictor.NONE)

    @property
    def needs_reference(self) -> bool:
        """Whether chunks may be deltas. Ask `is_delta` of each frame: some may be keyframes all the same."""
        return self.predictor is not Predictor.NONE

    def to_bytes(self) -> bytes:
        """Return the dtype's code and the predictor's code, one byte each."""
        return bytes((self.dtype.code, self.predictor))

    @classmethod
    def from_bytes(cls, data: Buffer) -> Parameters:
        """Read what `to_bytes` wrote.

        Raises:
            CodecError: not two bytes, or a code that is in no table.
        """
        data = bytes(data)
        if len(data) != 2:
            raise CodecError(f"codec parameters have {len(data)} bytes, expected 2")
        dtype = BY_CODE.get(data[0])
        if dtype is None:
            raise CodecError(f"codec parameters name unknown dtype code {data[0]}")
        try:
            predictor = Predictor(data[1])
        except ValueError:
            raise CodecError(f"codec parameters name unknown predictor code {data[1]}") from None
        return cls(dtype, predictor)
