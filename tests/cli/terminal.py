"""Verbs run in this process, and small weights to run them on."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelvault.cli import main

DTYPES = {"f4": "F32", "f8": "F64", "f2": "F16", "i8": "I64", "i4": "I32", "u1": "U8", "b1": "BOOL", "u2": "BF16"}
"""What a numpy array is called in a safetensors file; uint16 stands for bfloat16."""


class Said(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        found: dict[str, Any] = json.loads(self.out)
        return found


def run(*words: str) -> Said:
    """Run one command line in the working directory."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(list(words))
    return Said(code, out.getvalue(), err.getvalue())


def done(*words: str) -> str:
    """Run one command line that must succeed, and return its stdout."""
    said = run(*words)
    assert said.code == 0, said.err
    return said.out


def safetensors(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a safetensors file of these arrays, in this order."""
    header, offset = dict[str, Any](), 0
    for name, array in tensors.items():
        dtype = DTYPES[array.dtype.str[1:]]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in tensors.values())


def write(path: Path | str, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write a safetensors file."""
    Path(path).write_bytes(safetensors(tensors))


def weights(seed: int = 0, *, large: int = 40_000, small: int = 100) -> dict[str, NDArray[Any]]:
    """Return a tensor that is stored alone, two that share a group, and an integer."""
    random = np.random.default_rng(seed)
    return {
        "layer.weight": random.normal(size=(large // 100, 100)).astype("f4"),
        "layer.bias": random.normal(size=small).astype("f4"),
        "norm.weight": random.normal(size=small).astype("f4"),
        "steps": np.array([7]),
    }
