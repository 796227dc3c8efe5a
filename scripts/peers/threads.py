"""Commits and checkouts on one processor and on several, in turn, beside `cp`: what more threads are worth.

Each number of processors has a vault of its own in this process, which works with as many threads. Versions are the
outer loop, so that all meet the same machine; what threads cost each other is in the CPU seconds. Beside that as many
processes commit the same at the same time, each on a processor of its own: they share the machine, but no interpreter.
And the coder alone, of what is in memory: the chunks of the newest version are encoded and compared, and decoded.
"""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from modelvault import codec
from modelvault.repository.threads import in_order
from modelvault.tensors import CHUNK_BYTES
from peers.codecs import fitted
from peers.contenders import Copy, System, Vault
from peers.series import Pair, pairs

_Bytes = npt.NDArray[np.uint8]

_YARDSTICK_BYTES = 1 << 27


@dataclass(frozen=True)
class Row:
    """One commit, checkout or copy; or what each of so many threads did at the same time for comparison."""

    history: str
    threads: int  # 0: cp
    round: int
    version: int
    depth: int | None
    what: str
    wall_s: float
    cpu_s: float
    load: float


@contextmanager
def processors(count: int) -> Iterator[None]:
    """Keep this process to so many processors."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def timed(action: Callable[[], None]) -> tuple[float, float]:
    """Return the wall and CPU seconds that something takes after all that was written before is on the disk."""
    os.sync()
    wall, used = time.perf_counter(), time.process_time()
    action()
    return round(time.perf_counter() - wall, 4), round(time.process_time() - used, 4)


def yardsticks(count: int) -> Iterator[tuple[str, float, float]]:
    """Yield what so many threads take who share nothing but the machine, each for as much work."""
    arrays = [np.ones((2, _YARDSTICK_BYTES), np.uint8) for _ in range(count)]
    with processors(count), ThreadPoolExecutor(count) as threads:
        for what, action in _YARDSTICKS.items():

            def act(action: Callable[[_Bytes], object] = action) -> None:
                list(threads.map(action, arrays))

            act()  # for the caches, and for the threads to be there
            yield what, *timed(act)


def _copy(array: _Bytes) -> None:
    np.copyto(array[0], array[1])


def _digest(array: _Bytes) -> None:
    hashlib.sha256(array[1].data).digest()


_BY_PROCESSES = "commit by processes"

_PATIENCE_S = 600

_CODING = ("encoding and comparing", "decoding")

_YARDSTICKS: dict[str, Callable[[_Bytes], object]] = {"copy of memory": _copy, "SHA-256": _digest}


def _commit_alone(files: Sequence[Path], place: Path, processor: int, together: Barrier, taken: Connection) -> None:
    """Commit a history on one processor, each version when all others are ready for it, and send what each took."""
    os.sched_setaffinity(0, {processor})
    vault = Vault(place, files[0].suffix)
    for file in files:
        vault.stage(file)
        together.wait(_PATIENCE_S)
        taken.send(timed(vault.save))
        vault.saved += 1


def processes(history: Path, files: Sequence[Path], work: Path, count: int, number: int) -> Iterator[Row]:
    """Yield what commits take that so many processes make at the same time."""
    spawn = multiprocessing.get_context("spawn")
    together, ends = spawn.Barrier(count), [spawn.Pipe(duplex=False) for _ in range(count)]
    chosen = sorted(os.sched_getaffinity(0))[:count]
    started = [
        spawn.Process(target=_commit_alone, args=(files, work / f"alone-{processor}", processor, together, sending))
        for processor, (_, sending) in zip(chosen, ends, strict=True)
    ]
    for process, (_, sending) in zip(started, ends, strict=True):
        process.start()
        sending.close()  # here; so that one that ends too early is noticed
    try:
        for version in range(len(files)):
            for receiving, _ in ends:
                if not receiving.poll(_PATIENCE_S):
                    raise RuntimeError(f"a commit by a process of its own took more than {_PATIENCE_S} seconds")
                wall_s, cpu_s = receiving.recv()
                load = round(os.getloadavg()[0], 2)
                yield Row(history.name, count, number, version, None, _BY_PROCESSES, wall_s, cpu_s, load)
    finally:
        for process in started:
            process.terminate()
            process.join()


class _Chunk(NamedTuple):
    raw: memoryview
    reference: memoryview
    parameters: codec.Parameters
    row: int
    start: int

    def encode(self) -> bytes:
        frame = codec.encode_chunk(self.raw, self.parameters, [self.reference], row=self.row, start=self.start)
        if not codec.decodes_to(frame, self.raw, self.parameters, [self.reference]):
            raise RuntimeError("a chunk did not survive encoding")
        return frame

    def decode(self, frame: bytes) -> bytes:
        return codec.decode_chunk(frame, len(self.raw), self.parameters, [self.reference])


def _chunks(pair: Pair) -> Iterator[_Chunk]:
    if pair.reference is None:
        raise ValueError("a pair has two snapshots")
    for new, old in zip(pair.new.tensors, pair.reference.tensors, strict=True):
        raw, reference = new.words.data.cast("B"), old.words.data.cast("B")
        parameters = fitted(pair.new.dtype, new.row, raw, [reference])
        for at in range(0, len(raw), CHUNK_BYTES):
            end, start = at + CHUNK_BYTES, at // pair.new.dtype.size
            yield _Chunk(raw[at:end], reference[at:end], parameters, new.row, start)


def coding(chunks: Sequence[_Chunk], count: int) -> Iterator[tuple[str, float, float]]:
    """Yield what so many threads take to code what is in memory, spread as a commit and a checkout spread it."""
    frames = list[bytes]()

    def encode() -> None:
        frames.extend(in_order(_Chunk.encode, chunks))

    def decode() -> None:
        for _ in in_order(lambda coded: coded[0].decode(coded[1]), zip(chunks, frames, strict=True)):
            pass

    with processors(count):
        for what, action in zip(_CODING, (encode, decode), strict=True):
            yield what, *timed(action)


def measured(history: Path, files: Sequence[Path], work: Path, counts: Sequence[int], rounds: int) -> Iterator[Row]:
    """Yield all commits of a history, then all checkouts, of every round."""
    chunks = list(_chunks(list(pairs(history, 2))[-1]))
    for number in range(rounds):
        for count in counts:
            for what, wall_s, cpu_s in itertools.chain(yardsticks(count), coding(chunks, count)):
                yield Row(history.name, count, number, 0, None, what, wall_s, cpu_s, round(os.getloadavg()[0], 2))
        shutil.rmtree(work, ignore_errors=True)
        for count in counts:
            yield from processes(history, files, work / f"processes-{count}", count, number)
        suffix = files[0].suffix
        vaults = [(count, Vault(work / f"threads-{count}", suffix)) for count in counts]
        copy = Copy(work / "cp", suffix)
        for what in ("commit", "checkout"):
            for version, file in enumerate(files):
                for count, system in [(0, copy), *vaults]:
                    wall_s, cpu_s = _done(system, what, version, file, count)
                    load = round(os.getloadavg()[0], 2)
                    yield Row(history.name, count, number, version, system.depth(version), what, wall_s, cpu_s, load)
    shutil.rmtree(work, ignore_errors=True)


def _done(system: System, what: str, version: int, file: Path, count: int) -> tuple[float, float]:
    """Save a file, or bring it back, durably either way; return what it took."""

    def save() -> None:
        system.save()
        if isinstance(system, Copy):
            _sync(system.place / f"version-{version}")

    def restore() -> None:
        system.restore(version)
        if isinstance(system, Copy):
            _sync(system.back)

    if what == "commit":
        system.stage(file)
    else:
        system.back.unlink(missing_ok=True)
    with processors(count or len(os.sched_getaffinity(0))):
        taken = timed(save if what == "commit" else restore)
    if what == "commit":
        system.saved += 1
    elif not system.is_exact(file):
        raise RuntimeError(f"version {version} came back altered")
    return taken


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a Markdown table: medians over the rounds, by depth, as multiples of cp's in the same run."""
    counts = sorted({row.threads for row in rows} - {0})
    yield "| | depth | cp + fsync, s | " + " | ".join(f"{count} threads, s | x cp | CPU, s" for count in counts) + " |"
    yield "|---|" + "---|" * (2 + 3 * len(counts))

    def median(what: str, threads: int, depth: int | None, clock: str) -> float:
        chosen = [row for row in rows if (row.what, row.threads, row.depth) == (what, threads, depth)]
        return statistics.median(row.wall_s if clock == "wall" else row.cpu_s for row in chosen)

    for what in ("commit", "checkout"):
        copied = median(what, 0, None, "wall")
        for depth in sorted({row.depth for row in rows if row.depth is not None}):
            cells = []
            for count in counts:
                wall = median(what, count, depth, "wall")
                cells.append(f"{wall:.3f} | {wall / copied:.1f} | {median(what, count, depth, 'cpu_s'):.3f}")
            yield f"| {what} | {depth} | {copied:.3f} | " + " | ".join(cells) + " |"
    yield ""
    for what in _YARDSTICKS:
        one = median(what, 1, None, "wall")
        for count in counts:
            gain = count * one / median(what, count, None, "wall")
            yield f"{what}: {count} threads do {gain:.2f} times as much as one."
    for what in _CODING:
        for count in counts:
            gain = median(what, 1, None, "wall") / median(what, count, None, "wall")
            yield f"{what}: {count} threads are {gain:.2f} times as fast as one."
    versions = sorted({row.version for row in rows if row.what == _BY_PROCESSES})
    for count in counts:
        one, other = (
            sum(
                statistics.median(
                    row.wall_s for row in rows if (row.what, row.threads, row.version) == (_BY_PROCESSES, some, version)
                )
                for version in versions
            )
            for some in (1, count)
        )
        yield f"{_BY_PROCESSES}: {count} do {count * one / other:.2f} times as much as one."
