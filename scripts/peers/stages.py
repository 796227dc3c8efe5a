"""Where coding a snapshot against the one before it spends its time, beside all of ZipNN's delta.

Tensor by tensor, as `commit` codes them, in one thread: CPU seconds of the process, for each tensor and stage the least
of all rounds. The stages:

    memory      both are read, and their XOR is written: less than any coder of pairs does
    predictors  found on samples
    coder       the kernel that makes a frame, or reads it, predictors given
    rest        Python, and keyframes where those are shorter
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from modelvault import codec
from modelvault.codec import kernels, table
from modelvault.repository.samples import fit_pieces
from modelvault.tensors import CHUNK_BYTES, DType
from peers.codecs import ZIPNN, contenders
from peers.series import Pair


@dataclass(frozen=True)
class Row:
    """What one stage takes of encoding or decoding a pair: milliseconds, and nanoseconds a number."""

    history: str
    dtype: str
    what: str
    stage: str
    chunks: int
    ms: float
    ns_a_number: float


class _Chunk(NamedTuple):
    raw: memoryview
    reference: memoryview
    row: int
    start: int


def measured(history: str, pair: Pair, rounds: int) -> Iterator[Row]:
    """Yield what each stage takes."""
    dtype = pair.new.dtype
    spent: dict[tuple[str, str], float] = {}
    chunks = 0
    for tensor in _tensors(pair):
        chunks += len(tensor)
        for key, seconds in _of_tensor(dtype, tensor, rounds).items():
            spent[key] = spent.get(key, 0.0) + seconds
    spent |= {(what, ZIPNN): seconds for what, seconds in _of_zipnn(pair, rounds).items()}
    numbers = pair.nbytes // dtype.size
    for (what, stage), seconds in sorted(spent.items()):
        yield Row(
            history, dtype.name.lower(), what, stage, chunks, round(seconds * 1e3, 3), round(seconds * 1e9 / numbers, 3)
        )


def _tensors(pair: Pair) -> Iterator[list[_Chunk]]:
    assert pair.reference is not None
    for new, old in zip(pair.new.tensors, pair.reference.tensors, strict=True):
        raw, reference = new.words.data.cast("B"), old.words.data.cast("B")
        yield [
            _Chunk(raw[at : at + CHUNK_BYTES], reference[at : at + CHUNK_BYTES], new.row, at // pair.new.dtype.size)
            for at in range(0, len(raw), CHUNK_BYTES)
        ]


def _of_tensor(dtype: DType, chunks: Sequence[_Chunk], rounds: int) -> dict[tuple[str, str], float]:
    nbytes = sum(len(chunk.raw) for chunk in chunks)
    sample = list(fit_pieces(nbytes, dtype, chunks[0].row)) if chunks else []
    pairs = [
        (chunks[place].raw[start : start + size], chunks[place].reference[start : start + size])
        for place, start, size in sample
    ]
    share = sum(size for _, _, size in sample) / max(1, nbytes)
    buffer = np.empty(CHUNK_BYTES, np.uint8)

    def touch() -> None:
        for chunk in chunks:
            one, other = (np.frombuffer(side, np.uint8) for side in (chunk.raw, chunk.reference))
            np.bitwise_xor(one, other, out=buffer[: one.size])

    def fit() -> codec.Parameters:
        return codec.fit(dtype, pairs, row=chunks[0].row, share=share)

    parameters = fit() if chunks else codec.Parameters(dtype)
    packed = parameters.to_bytes()

    def encode() -> list[bytes]:
        return [
            codec.encode_chunk(chunk.raw, parameters, [chunk.reference], row=chunk.row, start=chunk.start)
            for chunk in chunks
        ]

    encoded = encode()
    whole = {one.id for one in (table.RESIDUAL_RANS, table.STRIDES_DELTA, table.LOW_RANK, table.LOW_RANK_DELTA)}
    by_kernel = [(chunk, frame) for chunk, frame in zip(chunks, encoded, strict=True) if frame[0] in whole]

    def encode_frames() -> None:
        for chunk, _ in by_kernel:
            kernels.current.encode_frame(
                dtype.code, chunk.raw, packed, [chunk.reference], chunk.row, chunk.start, len(chunk.raw), True
            )

    def decode() -> None:
        for chunk, frame in zip(chunks, encoded, strict=True):
            codec.decode_chunk(frame, len(chunk.raw), parameters, [chunk.reference])

    def decode_frames() -> None:
        for chunk, frame in by_kernel:
            kernels.current.decode_frame(dtype.code, frame, len(chunk.raw), packed, [chunk.reference])

    least = _least([touch, fit, encode_frames, encode, decode_frames, decode] if chunks else [], rounds)
    if not least:
        return {}
    memory, predictors, coder, encoding, decoder, decoding = least
    return {
        ("encode", "memory"): memory,
        ("encode", "predictors"): predictors,
        ("encode", "coder"): coder,
        ("encode", "rest"): encoding - coder,
        ("encode", "all"): predictors + encoding,
        ("decode", "memory"): memory,
        ("decode", "coder"): decoder,
        ("decode", "rest"): decoding - decoder,
        ("decode", "all"): decoding,
    }


def _of_zipnn(pair: Pair, rounds: int) -> dict[str, float]:
    found = dict(contenders(pair.new.dtype, keyframe=False)).get("zipnn", [])
    for zipnn in (one for one in found if one.name == ZIPNN):
        encoded = zipnn.encode(pair)
        least = _least([partial(zipnn.encode, pair), partial(zipnn.decode, encoded, pair)], rounds)
        return dict(zip(("encode", "decode"), least, strict=True))
    return {}


def _least(actions: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Return the CPU seconds of each action, the least of all rounds, in which they take turns."""
    least = [float("inf")] * len(actions)
    for _ in range(rounds):
        for place, action in enumerate(actions):
            begun = time.process_time()
            action()
            least[place] = min(least[place], time.process_time() - begun)
    return least


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a Markdown table: nanoseconds a number, a line for each history."""
    stages = ("memory", "predictors", "coder", "rest", "all", ZIPNN)
    yield "| history | dtype | | " + " | ".join(stages) + " |"
    yield "|---|---|---|" + "---|" * len(stages)
    for history, dtype, what in dict.fromkeys((row.history, row.dtype, row.what) for row in rows):
        found = {row.stage: f"{row.ns_a_number:.2f}" for row in rows if (row.history, row.what) == (history, what)}
        yield f"| {history} | {dtype} | {what} | " + " | ".join(found.get(stage, "") for stage in stages) + " |"
