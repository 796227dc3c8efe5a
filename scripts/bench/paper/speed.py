#!/usr/bin/env python3
"""How fast lossy commits are rounded, encoded and decoded, beside the paper's method and SZ, one thread each.

    speed.py DIR [--eps 0.0005 0.004] [--rounds 5] [--out FILE.csv]

DIR is what `train.py` made. Of each network the snapshot in the middle is taken against the one before it, exact, as
`measure.py` does. Everything is CPU seconds of this thread, the best of the rounds, in which all take turns; MB of the
snapshot's floats by them. Ours is what a commit does to them: tensors of 16 KiB and more in chunks of 1 MiB, smaller
ones together, matrices within `abs`, vectors within `--vectors 0.016` too; whatever is decoded is compared. The paper's
method is numpy's quantiser and one back end over all of M, as its authors have it. Every method gets all layers
of floats, running statistics too: all have the same bytes to go through.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import deltadnn
import numpy as np
import torch
from networks import NETWORKS

from modelvault import codec
from modelvault.codec import Bound, Parameters, Run
from modelvault.tensors import CHUNK_BYTES, DType

SMALL = 16 << 10
VECTORS = 0.016
FIELDS = ("network", "snapshot", "method", "eps", "raw", "stored", "ratio", "round_MBps", "encode_MBps", "decode_MBps")

Made = TypeVar("Made")


class Piece(NamedTuple):
    """Words that are encoded together, those of the snapshot before, and the tensors among them if they are several."""

    new: bytes
    old: bytes
    row: int
    start: int
    runs: tuple[Run, ...]


class Times(NamedTuple):
    """Seconds to round, to encode and to decode, and the bytes that are stored."""

    rounding: float
    encoding: float
    decoding: float
    stored: int


def clocked(work: Callable[[], Made]) -> tuple[float, Made]:
    """Return the CPU seconds of this thread that something took, and what it returned."""
    start = time.thread_time()
    found = work()
    return time.thread_time() - start, found


def rounded(layers: deltadnn.Layers, eps: float) -> dict[str, bytes]:
    """Return each layer as a lossy commit has it."""
    found = {}
    for name, layer in layers.items():
        raw, parts = layer.tobytes(), list[bytes]()
        for start in range(0, len(raw), CHUNK_BYTES):
            some = raw[start : start + CHUNK_BYTES]
            if layer.ndim > 1:
                parts.append(codec.round_elements(some, DType.F32, Bound.ABS, eps).raw)
            else:
                parts.append(codec.round_within_both(some, DType.F32, eps, VECTORS).raw)
        found[name] = b"".join(parts)
    return found


def pieces(new: dict[str, bytes], old: deltadnn.Layers) -> Iterator[Piece]:
    """Yield what is encoded together: chunks of large tensors, and small tensors together."""
    small = [name for name, raw in new.items() if len(raw) < SMALL]
    for name in new:
        if name in small:
            continue
        layer = old[name]
        row, before = layer.size // layer.shape[0] if layer.ndim > 1 else 0, layer.tobytes()
        for start in range(0, len(before), CHUNK_BYTES):
            some = slice(start, start + CHUNK_BYTES)
            yield Piece(new[name][some], before[some], row, start // 4, ())
    runs = tuple(Run(len(new[name]) // 4) for name in small if new[name])
    if runs:
        yield Piece(b"".join(new[n] for n in small), b"".join(old[n].tobytes() for n in small), 0, 0, runs)


def ours(layers: deltadnn.Layers, before: deltadnn.Layers, eps: float) -> Times:
    """Round, encode, decode and compare."""
    rounding, made = clocked(partial(rounded, layers, eps))
    parameters = Parameters.for_reference(DType.F32, True)
    encoding = decoding = 0.0
    stored = 0
    for new, old, row, start, runs in list(pieces(made, before)):
        encode = partial(codec.encode_chunk, new, parameters, [old], row=row, start=start, runs=runs)
        took, frame = clocked(encode)
        encoding, stored = encoding + took, stored + len(frame)
        took, back = clocked(partial(codec.decode_chunk, frame, len(new), parameters, [old]))
        decoding += took
        assert back == new
    return Times(rounding, encoding, decoding, stored)


def papers(layers: deltadnn.Layers, before: deltadnn.Layers, eps: float, back_end: str) -> Times:
    """Quantise, pack, unpack and restore."""
    rounding, (multiples, restored) = clocked(partial(deltadnn.quantise, layers, before, eps))
    encoding, (packed, forms) = clocked(partial(deltadnn.pack, multiples, back_end))

    def restore() -> deltadnn.Layers:
        found = deltadnn.unpack(packed, forms, back_end)
        return deltadnn.restore(dict(zip(multiples, found, strict=True)), before, eps)

    decoding, back = clocked(restore)
    assert all(np.array_equal(back[name], layer, equal_nan=True) for name, layer in restored.items())
    return Times(rounding, encoding, decoding, len(packed))


def sz(layers: deltadnn.Layers, eps: float) -> Times | None:
    """Compress and decompress each layer within an absolute bound; None without `pysz`."""
    try:
        from pysz import sz as library
        from pysz import szConfig, szErrorBoundMode
    except ImportError:
        return None
    encoding = decoding = 0.0
    stored = 0
    for layer in layers.values():
        flat = np.ascontiguousarray(layer.ravel(), np.float32)
        config = szConfig()
        config.errorBoundMode, config.absErrorBound = szErrorBoundMode.ABS, eps
        took, (packed, _) = clocked(partial(library.compress, flat, config))
        encoding, stored = encoding + took, stored + packed.nbytes
        decoding += clocked(partial(library.decompress, packed, np.float32, flat.shape))[0]
    return Times(0.0, encoding, decoding, stored)


def measured(layers: deltadnn.Layers, before: deltadnn.Layers, eps: float, rounds: int) -> dict[str, Times]:
    """Return the best times of every method."""
    methods: dict[str, Callable[[], Times | None]] = {
        f"modelvault, {codec.kernels_in_use()}": lambda: ours(layers, before, eps),
        "delta-dnn, zstd": lambda: papers(layers, before, eps, "zstd"),
        "delta-dnn, lzma": lambda: papers(layers, before, eps, "lzma"),
        "sz": lambda: sz(layers, eps),
    }
    best: dict[str, Times] = {}
    for turn in range(rounds):
        for name, method in methods.items():
            if turn and name.startswith("delta-dnn"):
                continue  # tens of times as slow: once is enough
            found = method()
            if found is not None:
                least = best.get(name, found)
                seconds = [min(pair) for pair in zip(least[:3], found[:3], strict=True)]
                best[name] = Times(seconds[0], seconds[1], seconds[2], found.stored)
    return best


def load(path: Path) -> deltadnn.Layers:
    """Return the layers of a snapshot that are floats."""
    state = torch.load(path, weights_only=True)
    return {name: tensor.numpy() for name, tensor in state.items() if tensor.is_floating_point()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="DIR")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--eps", nargs="+", type=float, default=[0.0005, 0.004])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    writer = csv.writer(given.out.open("w", newline="") if given.out else sys.stdout, lineterminator="\n")
    writer.writerow(FIELDS)
    for network in given.networks:
        paths = sorted((given.root / network).glob("epoch-*.pt"))[1:]  # the first is noise
        if len(paths) < 2:
            continue
        place = max(1, len(paths) // 2)
        layers, before = load(paths[place]), load(paths[place - 1])
        raw = sum(layer.nbytes for layer in layers.values())
        for eps in given.eps:
            for name, times in measured(layers, before, eps, given.rounds).items():
                speeds = [f"{raw / seconds / 1e6:.1f}" if seconds else "" for seconds in times[:3]]
                row = (network, paths[place].stem, name, eps, raw, times.stored, f"{raw / times.stored:.2f}", *speeds)
                writer.writerow(row)
                print(*row, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
