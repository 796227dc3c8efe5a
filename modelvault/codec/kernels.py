"""Which implementation codes float words: the compiled one where it was built, else numpy's. The bytes are the same.

`MODELVAULT_KERNELS` names one of `KERNELS`, for tests and comparisons: `numpy`, or the compiled loops for any machine
(`plain`), for AVX2 or for AVX-512. Without it the widest that this machine has are taken.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, cast

from modelvault.codec import portable

try:
    from modelvault.codec import _native as native
except ImportError:  # installed where there was no compiler
    _native: ModuleType | None = None
else:
    _native = native

if TYPE_CHECKING:
    from typing_extensions import Buffer

NAMES = ("numpy", "plain", "avx2", "avx512")


class Kernels(Protocol):
    """What either implementation offers; `portable` says what each function does."""

    def glance(self, dtype_code: int, chunk: Buffer, reference: Buffer | None, alone: bool, /) -> int: ...  # noqa: D102

    def ends(self, dtype_code: int, words: Buffer, /) -> bytes: ...  # noqa: D102

    def encode_delta(  # noqa: D102
        self,
        dtype_code: int,
        chunk: Buffer,
        parameters: bytes,
        references: Sequence[Buffer],
        row: int,
        start: int,
        limit: int,
        /,
    ) -> bytes | bytearray | None: ...

    def encode_keyframe(  # noqa: D102
        self, dtype_code: int, chunk: Buffer, row: int, start: int, /
    ) -> bytes | bytearray | None: ...

    def encode_frame(  # noqa: D102
        self,
        dtype_code: int,
        chunk: Buffer,
        parameters: bytes,
        references: Sequence[Buffer],
        row: int,
        start: int,
        limit: int,
        alone: bool,
        /,
    ) -> bytes | int: ...

    def decode_frame(  # noqa: D102
        self, dtype_code: int, frame: Buffer, size: int, parameters: bytes, references: Sequence[Buffer], /
    ) -> bytes | None: ...

    def frame_decodes_to(  # noqa: D102
        self, dtype_code: int, frame: Buffer, chunk: Buffer, parameters: bytes, references: Sequence[Buffer], /
    ) -> bool | None: ...

    def round_elements(  # noqa: D102
        self, dtype_code: int, chunk: Buffer, exponent: int, limit: float, /
    ) -> tuple[bytes, float, float, int, int]: ...

    def survey_pieces(  # noqa: D102
        self, dtype_code: int, chunk: Buffer, reference: Buffer | None, pieces: bytes, /
    ) -> bytes: ...

    def tell_pieces(self, pieces: bytes, delta: bool, /) -> bytes: ...  # noqa: D102

    def read_pieces(self, body: Buffer, count: int, delta: bool, /) -> tuple[bytes, int]: ...  # noqa: D102

    def fit_pieces(self, dtype_code: int, chunk: Buffer, reference: Buffer, pieces: bytes, /) -> bytes: ...  # noqa: D102

    def encode_pieces(  # noqa: D102
        self, dtype_code: int, chunk: Buffer, reference: Buffer | None, pieces: bytes, /
    ) -> tuple[bytes, bytes]: ...

    def decode_pieces(  # noqa: D102
        self, dtype_code: int, core: Buffer, size: int, reference: Buffer | None, pieces: bytes, /
    ) -> bytes: ...

    def fit(self, dtype_code: int, new: Buffer, old: Buffer, length: int, share: float, /) -> bytes: ...  # noqa: D102


current: Kernels = portable
"""What computes in this process."""

_name = "numpy"


def use(name: str) -> None:
    """Take the kernels of this name from now on, in this process.

    Raises:
        ValueError: there are none of this name here.
    """
    global current, _name
    if name == "numpy":
        current = portable
    elif name in NAMES and _native is not None:
        _native.use(name)
        current = cast(Kernels, _native)
    else:
        raise ValueError(f"there are no kernels {name} here")
    _name = name


def in_use() -> str:
    """Return the name of the kernels that compute."""
    return _name


use(os.environ.get("MODELVAULT_KERNELS") or ("numpy" if _native is None else _native.level()))
