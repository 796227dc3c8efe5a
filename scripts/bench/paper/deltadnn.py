#!/usr/bin/env python3
"""The Delta-DNN paper's own method, from its text alone: quantiser, four back ends, and its baselines.

    deltadnn.py TARGET.pt REFERENCE.pt [--eps 0.01] [--back-end zstd lzma rle+zstd rle+lzma]

    M = floor((A - B) / (2 log(1 + eps)) + 0.5)         A' = 2 M log(1 + eps) + B

over all layers, then one lossless back end over all of M. Nothing of modelvault is used here: it is what we are
measured against. The smallest integer type that holds a layer's M is used, and run lengths are (value, length) pairs,
lengths in LEB128, as planes of their own; the paper does not say. What a reader needs to know of each layer beside
(`Form`) counts nothing, like names and container.

As a command it packs a snapshot by each back end that is named, unpacks it again, and prints bytes and ratio.
"""

from __future__ import annotations

import argparse
import lzma
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import zstandard

Layers = Mapping[str, npt.NDArray[np.float32]]

BACK_ENDS = ("zstd", "lzma", "rle+zstd", "rle+lzma")


def quantise(target: Layers, reference: Layers, eps: float) -> tuple[dict[str, npt.NDArray[np.int64]], Layers]:
    """Return M of every layer, and the layers as they are restored."""
    step = 2 * math.log(1 + eps)
    multiples = {
        name: np.floor((layer.astype(np.float64) - reference[name]) / step + 0.5).astype(np.int64)
        for name, layer in target.items()
    }
    return multiples, restore(multiples, reference, eps)


def restore(multiples: Mapping[str, npt.NDArray[np.int64]], reference: Layers, eps: float) -> Layers:
    """Return the layers that M of every layer stands for."""
    step = 2 * math.log(1 + eps)
    return {name: (found * step + reference[name]).astype(np.float32) for name, found in multiples.items()}


class Form(NamedTuple):
    """What is known of a layer's M beside the packed bytes: shape, integer type, and how many runs it has, if any."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.signedinteger[Any]]
    runs: int


def pack(multiples: Mapping[str, npt.NDArray[np.int64]], back_end: str) -> tuple[bytes, list[Form]]:
    """Return what a back end makes of all M, and the layers' forms."""
    parts, forms = list[bytes](), list[Form]()
    for found in multiples.values():
        layer = _narrow(found.ravel())
        raw, runs = _runs(layer) if back_end.startswith("rle") else (layer.tobytes(), 0)
        parts.append(raw)
        forms.append(Form(found.shape, layer.dtype, runs))
    if back_end.endswith("zstd"):
        return zstandard.ZstdCompressor(level=19).compress(b"".join(parts)), forms
    return lzma.compress(b"".join(parts), preset=6), forms


def unpack(data: bytes, forms: Sequence[Form], back_end: str) -> list[npt.NDArray[np.int64]]:
    """Return M of every layer again."""
    raw = zstandard.ZstdDecompressor().decompress(data) if back_end.endswith("zstd") else lzma.decompress(data)
    found, at = list[npt.NDArray[np.int64]](), 0
    for shape, dtype, runs in forms:
        is_coded = back_end.startswith("rle")
        values = np.frombuffer(raw, dtype, runs if is_coded else math.prod(shape), at)
        at += values.nbytes
        if is_coded:
            lengths, at = _lengths(raw, at, runs)
            values = np.repeat(values, lengths)
        found.append(values.astype(np.int64).reshape(shape))
    return found


def packed_bytes(multiples: Mapping[str, npt.NDArray[np.int64]], back_end: str) -> int:
    """Return how many bytes a back end makes of all M."""
    return len(pack(multiples, back_end)[0])


def best_back_end(multiples: Mapping[str, npt.NDArray[np.int64]]) -> tuple[int, str]:
    """Return the bytes of the back end that packs best, and its name."""
    return min((packed_bytes(multiples, back_end), back_end) for back_end in BACK_ENDS)


def _narrow(values: npt.NDArray[np.int64]) -> npt.NDArray[np.signedinteger[Any]]:
    largest = int(np.abs(values).max(initial=0))
    for integer in (np.int8, np.int16, np.int32):
        if largest <= np.iinfo(integer).max:
            return values.astype(integer)
    return values


def _runs(values: npt.NDArray[np.signedinteger[Any]]) -> tuple[bytes, int]:
    """Return runs of equal values, values first and then lengths, and how many they are."""
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts = np.concatenate(([0], changes)) if values.size else changes
    lengths = np.diff(np.concatenate((starts, [values.size])))
    groups = lengths[:, None] >> np.arange(0, 35, 7)  # 7 bits each, lowest first
    codes = (groups & 0x7F | 0x80 * (groups > 0x7F)).astype(np.uint8)
    needed = groups > 0
    needed[:, 0] = True
    return values[starts].tobytes() + codes[needed].tobytes(), starts.size


def _lengths(raw: bytes, at: int, count: int) -> tuple[list[int], int]:
    """Return so many lengths of runs, and where they end."""
    lengths = []
    for _ in range(count):
        length = shift = 0
        while True:
            length |= (raw[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if raw[at - 1] < 0x80:
                break
        lengths.append(length)
    return lengths, at


def sz_bytes(target: Layers, bound: float, *, relative: bool) -> tuple[int, Layers] | None:
    """Return what SZ3 (`pysz`) makes of a snapshot within a bound, and the layers restored; None without pysz.

    Args:
        target: the snapshot.
        bound: absolute, or relative to each number's magnitude.
        relative: by the logarithm of the magnitudes, signs and zeros packed beside.
    """
    try:
        from pysz import sz, szConfig, szErrorBoundMode
    except ImportError:
        return None
    total, restored = 0, {}
    for name, layer in target.items():
        flat = np.ascontiguousarray(layer.ravel(), np.float32)
        values, signs = flat, b""
        if relative:
            magnitudes = np.abs(flat.astype(np.float64))
            zero = magnitudes == 0
            values = np.log(np.where(zero, 1.0, magnitudes)).astype(np.float32)
            codes = np.sign(flat).astype(np.int8).tobytes()
            signs = zstandard.ZstdCompressor(level=19).compress(codes)
        config = szConfig()
        config.errorBoundMode = szErrorBoundMode.ABS
        config.absErrorBound = math.log1p(bound) if relative else bound
        packed, _ = sz.compress(values, config)
        total += packed.nbytes + len(signs)
        back, _ = sz.decompress(packed, np.float32, values.shape)
        restored[name] = (np.exp(back.astype(np.float64)) * np.sign(flat) if relative else back).astype(np.float32)
        restored[name] = restored[name].reshape(layer.shape)
    return total, restored


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--eps", type=float, default=0.01)
    parser.add_argument("--back-end", nargs="+", choices=BACK_ENDS, default=list(BACK_ENDS))
    given = parser.parse_args()
    states = [torch.load(path, weights_only=True) for path in (given.target, given.reference)]
    target, reference = (
        {name: tensor.numpy() for name, tensor in state.items() if tensor.is_floating_point()} for state in states
    )
    multiples, _ = quantise(target, reference, given.eps)
    raw = sum(layer.nbytes for layer in target.values())
    for back_end in given.back_end:
        packed, forms = pack(multiples, back_end)
        back = unpack(packed, forms, back_end)
        assert all(np.array_equal(one, other) for one, other in zip(back, multiples.values(), strict=True))
        print(f"{back_end:<8} {len(packed):>12,} bytes, {raw / len(packed):.2f}x of {raw:,} (lossy, eps {given.eps:g})")


if __name__ == "__main__":
    main()
