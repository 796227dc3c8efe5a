#!/usr/bin/env python3
"""Commit a thousand million hostile numbers with every kind of bound, and look at each one that a checkout gives back.

    guarantee.py [--numbers N]

Each file holds tensors of every dtype, of two dimensions and of one: words of any bits; weights with NaNs of any
payload, infinities, zeros of both signs and the least and greatest numbers strewn in; the same weights a step of
training later; subnormals; numbers a hair from the middle between two multiples of the step; one number all over. They
are committed on top of each other, so that some are deltas. A number must be what it was, to the bit, or finite and
within the bound. Nothing of modelvault takes part in looking, and the files are written and read here, as safetensors.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import numpy as np
import numpy.typing as npt

import modelvault
from modelvault.repository.config import BoundName

Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.unsignedinteger[npt.NBitBase]]

WORDS = {"F64": "<u8", "F32": "<u4", "F16": "<u2", "BF16": "<u2"}
MANTISSAS = {"F64": 52, "F32": 23, "F16": 10, "BF16": 7}
BOUNDS: tuple[BoundName, ...] = ("abs", "rel", "paper")

HOSTILE = [
    0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, -1e-310, 1.4e-45, -6e-8, 1.17549435e-38, 0.5, -1.0, 1 / 3,
    65504.0, 65520.0, -3.4028234e38, 1e300, 1.7976931348623157e308,
]  # fmt: skip

Tensors = dict[str, tuple[str, Words]]
"""By name: dtype and words, (rows, columns) or (numbers,)."""


class Promise(NamedTuple):
    """What a commit promises.

    Attributes:
        bound: of tensors of two dimensions.
        eps: how wide it is.
        vectors: the relative bound of tensors of one dimension, which keep `eps` as well.
    """

    bound: BoundName
    eps: float
    vectors: float

    def limits(self, old: Floats, dimensions: int) -> Floats:
        """Return how far each number may be off."""
        every = self.eps * np.abs(old) if self.bound == "rel" else np.full(old.shape, math.log1p(self.eps))
        return every if dimensions > 1 else np.minimum(every, self.vectors * np.abs(old))


@np.errstate(invalid="ignore")
def floats(dtype: str, words: Words) -> Floats:
    """Return the numbers that words stand for."""
    if dtype == "BF16":
        return (words.astype("<u4") << 16).view("<f4").astype(np.float64)
    return words.view(f"<f{words.itemsize}").astype(np.float64)


@np.errstate(over="ignore", invalid="ignore")
def words_of(dtype: str, values: Floats) -> Words:
    """Return numbers in a dtype; bfloat16 is cut off."""
    if dtype == "BF16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2")
    return values.astype(f"<f{np.dtype(WORDS[dtype]).itemsize}").view(WORDS[dtype])


@np.errstate(over="ignore", invalid="ignore")
def violations(dtype: str, old: Words, new: Words, promise: Promise) -> tuple[int, int]:
    """Return how many numbers break a promise, and how many are not what they were."""
    changed = np.flatnonzero(old.ravel() != new.ravel())
    before, after = (floats(dtype, words.ravel()[changed]) for words in (old, new))
    is_kept = ~np.isfinite(before) | (before == 0)  # these were to stay
    good = ~is_kept & np.isfinite(after) & (np.abs(after - before) <= promise.limits(before, old.ndim))
    return int((~good).sum()), changed.size


def numbers(promise: Promise, size: int, random: np.random.Generator) -> Iterator[Tensors]:
    """Yield the tensors of one commit after another without end."""
    weights = random.standard_t(3, size) * 10 ** random.uniform(-4, 2)
    while True:
        found: dict[str, tuple[str, Words]] = {}
        weights = weights * 0.9999 + 1e-3 * random.normal(0, 1, size) * np.abs(weights).mean()
        strewn = weights.copy()
        places = random.integers(0, size, size // 200)
        strewn[places] = np.array(HOSTILE)[random.integers(0, len(HOSTILE), places.size)]
        steps = 2.0 ** math.floor(math.log2(2 * math.log1p(promise.eps))), 2 * math.log1p(promise.eps)
        middles = (random.integers(-5000, 5000, size) + 0.5) * np.array(steps)[random.integers(0, 2, size)]
        middles = np.nextafter(middles, middles * random.choice([0, 1, 2], size))
        for dtype, kind in WORDS.items():
            mantissa = np.dtype(kind).type((1 << MANTISSAS[dtype]) - 1)
            bits = np.frombuffer(random.bytes(size * np.dtype(kind).itemsize), kind)
            sign = np.dtype(kind).type(1 << (8 * np.dtype(kind).itemsize - 1))
            constant = bits[:1] if random.random() < 0.5 else words_of(dtype, random.choice(HOSTILE, 1))
            mine = {
                "bits": bits,
                "strewn": words_of(dtype, strewn),
                "weights": words_of(dtype, weights),
                "subnormal": bits & (mantissa | sign),
                "middle": words_of(dtype, middles),
                "constant": np.repeat(constant, size),
            }
            for name, words in mine.items():
                found[f"{dtype}.{name}.weight"] = dtype, words.reshape(-1, 64)
                found[f"{dtype}.{name}.bias"] = dtype, words[: size // 4]
        yield found


def write(path: Path, tensors: Tensors) -> None:
    """Write a file of safetensors."""
    header: dict[str, object] = {}
    end = 0
    for name, (dtype, words) in tensors.items():
        header[name] = {"dtype": dtype, "shape": words.shape, "data_offsets": [end, end := end + words.nbytes]}
    with path.open("wb") as file:
        text = json.dumps(header).encode()
        file.write(len(text).to_bytes(8, "little") + text)
        for _, words in tensors.values():
            file.write(words.tobytes())


def read(path: Path, like: Tensors) -> Iterator[tuple[str, Words, Words]]:
    """Yield dtype, words that were written and words that are in the file."""
    data = path.read_bytes()
    at = 8 + int.from_bytes(data[:8], "little")
    assert len(data) == at + sum(words.nbytes for _, words in like.values())
    for dtype, words in like.values():
        yield dtype, words, np.frombuffer(data, words.dtype, words.size, at).reshape(words.shape)
        at += words.nbytes


def run(bound: BoundName, count: int, size: int) -> tuple[int, int]:
    """Commit at least so many numbers with a bound; return how many there were, and how many violations."""
    random = np.random.default_rng(BOUNDS.index(bound))
    begun, seen, off, moved = time.process_time(), 0, 0, 0
    with tempfile.TemporaryDirectory() as directory:
        vault = modelvault.open(directory, create=True)
        file, back = Path(directory, "model.safetensors"), Path(directory, "back.safetensors")
        while seen < count:
            promise = Promise(bound, *(float(10 ** random.uniform(-5, 0)) for _ in range(2)))
            hostile = numbers(promise, size, random)
            for _ in range(4):
                if seen >= count:
                    break
                tensors = next(hostile)
                write(file, tensors)
                vault.commit(file, message="hostile", lossy=promise.eps, bound=bound, vectors=promise.vectors)
                vault.checkout(output=back, force=True)
                for dtype, old, new in read(back, tensors):
                    wrong, changed = violations(dtype, old, new, promise)
                    seen, off, moved = seen + old.size, off + wrong, moved + changed
    took = time.process_time() - begun
    print(f"{bound:<6} {seen:>13,} numbers, {moved:>13,} changed, {off:,} violations, {took:.0f} s CPU", flush=True)
    return seen, off


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numbers", type=int, default=10**9, help="how many, over all bounds")
    parser.add_argument("--size", type=int, default=1 << 20, help="of a tensor, a multiple of 256")
    given = parser.parse_args()
    os.environ.setdefault("MODELVAULT_AUTHOR", "bench")
    found = [run(bound, -(-given.numbers // len(BOUNDS)), given.size) for bound in BOUNDS]
    seen, off = (sum(column) for column in zip(*found, strict=True))
    print(f"{'all':<6} {seen:>13,} numbers, {off:,} violations")
    sys.exit(1 if off else 0)


if __name__ == "__main__":
    main()
