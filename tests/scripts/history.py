"""A tiny history: a few snapshots of two matrices, a vector and a counter, as safetensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Four snapshots of 200 KB, each a little further on; the first has no second matrix."""
    place = tmp_path / "histories" / "walk"
    place.mkdir(parents=True)
    random = np.random.default_rng(0)
    weights = {
        "first": random.standard_normal((128, 256)).astype("<f4"),
        "second": random.standard_normal((64, 300)).astype("<f4"),
        "bias": np.zeros(300, "<f4"),
    }
    for step in range(4):
        chosen: dict[str, npt.NDArray[Any]] = {
            name: value for name, value in weights.items() if step or name != "second"
        }
        chosen["steps"] = np.array([step], "<i8")
        write(place / f"step-{step:03}.safetensors", chosen)
        for value in weights.values():
            value += (random.standard_normal(value.shape) * 1e-3).astype("<f4")
    return place


def write(file: Path, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    header, end = dict[str, Any](), 0
    for name, value in tensors.items():
        start, end = end, end + value.nbytes
        kind = {"f": "F", "i": "I"}[value.dtype.kind] + str(8 * value.itemsize)
        header[name] = {"dtype": kind, "shape": value.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(value.tobytes() for value in tensors.values()))
