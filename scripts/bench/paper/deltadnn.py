"""The Delta-DNN paper's own method, from its text alone: quantiser, four back ends, and its baselines.

    M = floor((A - B) / (2 log(1 + eps)) + 0.5)         A' = 2 M log(1 + eps) + B

over all layers, then one lossless back end over all of M. Nothing of modelvault is used here: it is what we are
measured against. The smallest integer type that holds a layer's M is used, and run lengths are (value, length) pairs,
lengths in LEB128, as planes of their own; the paper does not say.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import zstandard

Layers = Mapping[str, npt.NDArray[np.float32]]

BACK_ENDS = ("zstd", "lzma", "rle+zstd", "rle+lzma")


def quantise(target: Layers, reference: Layers, eps: float) -> tuple[dict[str, npt.NDArray[np.int64]], Layers]:
    """Return M of every layer, and the layers as they are restored."""
    step = 2 * math.log(1 + eps)
    multiples, restored = {}, {}
    for name, layer in target.items():
        base = reference[name].astype(np.float64)
        found = np.floor((layer.astype(np.float64) - base) / step + 0.5)
        multiples[name] = found.astype(np.int64)
        restored[name] = (found * step + base).astype(np.float32)
    return multiples, restored


def packed_bytes(multiples: Mapping[str, npt.NDArray[np.int64]], back_end: str) -> int:
    """Return what a back end makes of all M."""
    layers = [_narrow(found.ravel()) for found in multiples.values()]
    raw = b"".join(_runs(layer) if back_end.startswith("rle") else layer.tobytes() for layer in layers)
    if back_end.endswith("zstd"):
        return len(zstandard.ZstdCompressor(level=19).compress(raw))
    return len(lzma.compress(raw, preset=6))


def best_back_end(multiples: Mapping[str, npt.NDArray[np.int64]]) -> tuple[int, str]:
    """Return the bytes of the back end that packs best, and its name."""
    return min((packed_bytes(multiples, back_end), back_end) for back_end in BACK_ENDS)


def _narrow(values: npt.NDArray[np.int64]) -> npt.NDArray[np.signedinteger[npt.NBitBase]]:
    largest = int(np.abs(values).max(initial=0))
    return values.astype(np.int8 if largest < 1 << 7 else np.int16 if largest < 1 << 15 else np.int32)


def _runs(values: npt.NDArray[np.signedinteger[npt.NBitBase]]) -> bytes:
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts = np.concatenate(([0], changes)) if values.size else changes
    lengths = np.diff(np.concatenate((starts, [values.size])))
    groups = lengths[:, None] >> np.arange(0, 35, 7)  # 7 bits each, lowest first
    codes = (groups & 0x7F | 0x80 * (groups > 0x7F)).astype(np.uint8)
    needed = groups > 0
    needed[:, 0] = True
    return values[starts].tobytes() + codes[needed].tobytes()


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
