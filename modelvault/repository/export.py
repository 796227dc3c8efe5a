"""One tensor as other programs read it: an npy file, plain bytes or JSON; streamed, and checked before byte one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Literal, TypeAlias

from modelvault.codec import NPY_DTYPES, npy_bytes, plain_numbers
from modelvault.errors import InputError
from modelvault.repository.inventory import FileTensor, TensorReader
from modelvault.repository.repository import Repository
from modelvault.tensors import DType

Format: TypeAlias = Literal["npy", "raw", "json"]

SCHEMA = "modelvault.cat/1"


def export(repository: Repository, tensor: FileTensor, form: Format) -> Iterator[bytes]:
    """Yield a tensor in some format.

    Raises:
        InputError: its bytes were given up.
        CorruptError: it is damaged. Nothing was yielded.
    """
    if tensor.is_forgotten:
        raise InputError(f"the bytes of {tensor.name!a} were given up with the part {tensor.part}")
    reader = TensorReader(repository.store)
    for _ in reader.pieces(tensor):
        pass  # bytes that went out cannot be taken back
    if form == "raw":
        yield from reader.pieces(tensor)
        return
    shape, dtype = tensor.shape, tensor.dtype
    if math.prod(shape) * dtype.size != tensor.nbytes:  # the hints do not fit the bytes
        shape, dtype = (tensor.nbytes,), DType.BYTES
    if form == "npy":
        yield _npy_head(dtype, shape)
        for raw in reader.pieces(tensor):
            yield npy_bytes(raw, dtype)
        return
    head = {"schema": SCHEMA, "name": tensor.name, "dtype": dtype.name, "shape": shape, "part": tensor.part}
    yield (json.dumps(head)[:-1] + ', "values": [').encode("ascii")
    separator = ""
    for raw in reader.pieces(tensor):
        yield (separator + ", ".join(_json_values(raw, dtype))).encode("ascii")
        separator = ", "
    yield b"]}\n"


def _npy_head(dtype: DType, shape: tuple[int, ...]) -> bytes:
    """Return the head of an npy file, version 1.0: magic, version, length and a dictionary, padded to 64 bytes."""
    text = repr({"descr": NPY_DTYPES[dtype], "fortran_order": False, "shape": shape})
    length = -(-(10 + len(text) + 1) // 64) * 64 - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1).encode("latin-1") + b"\n"


def _json_values(raw: bytes, dtype: DType) -> Iterator[str]:
    """Yield elements in row-major order: null for what JSON cannot hold, [real, imaginary] for a complex one."""
    texts = (json.dumps(value) if math.isfinite(value) else "null" for value in plain_numbers(raw, dtype))
    if dtype.kind != "complex":
        yield from texts
        return
    for real, imaginary in zip(texts, texts, strict=True):
        yield f"[{real}, {imaginary}]"
