"""Packages that offer a store rather than a codec: two snapshots are saved one after the other, the second counts.

They work in memory (/dev/shm where there is one), so that no disk is waited for; the starts of processes are counted.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from modelvault.tensors import DType
from peers.codecs import Contender
from peers.series import Pair, Snapshot, Words, read

_DTYPES = {DType.F32: ("float32", "F32"), DType.BF16: ("bfloat16", "BF16"), DType.F16: ("float16", "F16")}
"""What moonclip and what safetensors call them."""


def store_contenders(dtype: DType, keyframe: bool) -> Iterator[tuple[str, list[Contender]]]:
    """Yield each package's name and its contenders; none if it is not installed or does not know the dtype."""
    for package, module, make in _STORES:
        try:
            importlib.import_module(module)
        except ImportError:
            yield package, []
        else:
            yield package, [make(dtype, "keyframe" if keyframe else "own")] if dtype in _DTYPES else []


def bytes_under(place: Path) -> int:
    """Return the bytes of all files in a directory, hard links once."""
    found = {}
    for path in place.rglob("*"):
        if path.is_file() and not path.is_symlink():
            status = path.stat()
            found[status.st_dev, status.st_ino] = status.st_size
    return sum(found.values())


def scratch(name: str) -> Path:
    """Return a new directory, in memory if there is a place for it. Whoever asks removes it."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix=f"bench-{name}-", dir=memory if memory.is_dir() else None))


def write_safetensors(path: Path, snapshot: Snapshot) -> None:
    """Write the tensors of a snapshot as a safetensors file: names, dtype and bytes as they are, one dimension."""
    header, end = dict[str, Any](), 0
    for tensor in snapshot.tensors:
        start, end = end, end + tensor.words.nbytes
        about = {"dtype": _DTYPES[snapshot.dtype][1], "shape": [tensor.words.size], "data_offsets": [start, end]}
        header[tensor.name] = about
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in snapshot.tensors:
            file.write(tensor.words.tobytes())


def _store_contender(
    name: str,
    form: str,
    distribution: str,
    start: Callable[[Path], Any],
    put: Callable[[Any, int, Snapshot], Any],
    get: Callable[[Any, int, Snapshot], list[Words]],
    stage: Callable[[Any, int, Snapshot], None] = lambda store, number, snapshot: None,
) -> Contender:
    """Return a contender that saves into a new store for every pair.

    Args:
        start: makes a store in a directory.
        put: saves a snapshot as the given number.
        get: returns a snapshot's tensors; looks at their names only.
        stage: what comes before the clock: the user has the file already.
    """
    place: Path | None = None
    store: Any = None
    before = number = 0

    def clear() -> None:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)

    def prepare(pair: Pair) -> None:
        nonlocal place, store, before, number
        clear()
        place = scratch(distribution)
        store = start(place / "store")
        number = 0
        if pair.reference is not None:
            stage(store, number, pair.reference)
            put(store, number, pair.reference)
            number = 1
        stage(store, number, pair.new)
        before = bytes_under(place / "store")

    def encode(pair: Pair) -> int:
        put(store, number, pair.new)
        return number

    def size(encoded: int) -> int:
        assert place is not None
        return bytes_under(place / "store") - before

    def decode(encoded: int, pair: Pair) -> list[Words]:
        return get(store, encoded, pair.new)

    return Contender(name, form, distribution, encode, decode, prepare, size, clear)


def _moonclip(dtype: DType, form: str) -> Contender:
    from moonclip import MoonclipManager

    ids = list[Any]()
    called = _DTYPES[dtype][0]

    def start(place: Path) -> Any:
        ids.clear()
        everything = 10**9
        return MoonclipManager(
            str(place),
            async_save=False,
            max_full_snapshots=everything,
            max_deltas_per_full=everything,
            merge_max_chain=everything,
            max_total_snapshots=everything,
            full_every_steps=everything,
            rollback_interval_steps=0,
        )

    def put(store: Any, number: int, snapshot: Snapshot) -> None:
        tensors = {t.name: ((t.words.size,), called, t.words.tobytes()) for t in snapshot.tensors}
        ids.append(store.save_tensors(number, tensors))

    def get(store: Any, number: int, snapshot: Snapshot) -> list[Words]:
        found = store.load(ids[number])
        return [np.frombuffer(found[tensor.name], tensor.words.dtype) for tensor in snapshot.tensors]

    return _store_contender("moonclip's store", form, "moonclip", start, put, get)


def _lmzip(dtype: DType, form: str) -> Contender:
    program = [sys.executable, "-m", "lmz"]

    def start(place: Path) -> Path:
        place.mkdir()
        (place.parent / "in").mkdir()
        return place

    def stage(store: Path, number: int, snapshot: Snapshot) -> None:
        write_safetensors(store.parent / ("in" if number == 0 else "") / f"{number}.safetensors", snapshot)

    def run(store: Path, *words: str) -> None:
        subprocess.run([*program, *words], cwd=store.parent, check=True, stdout=subprocess.DEVNULL)

    def put(store: Path, number: int, snapshot: Snapshot) -> None:
        if number:
            run(store, "append", "-q", "-j", "1", "store/a.lmz", f"{number}.safetensors")
        else:
            run(store, "compress", "-q", "-j", "1", "in", "store/a.lmz")

    def get(store: Path, number: int, snapshot: Snapshot) -> list[Words]:
        back = store.parent / "back.safetensors"
        with contextlib.suppress(FileNotFoundError):
            back.unlink()
        run(store, "extract", "-q", "-f", "store/a.lmz", f"{number}.safetensors", back.name)
        raw = np.fromfile(back, np.uint8)
        return [raw[8 + int(raw[:8].view("<u8")[0]) :].view(snapshot.tensors[0].words.dtype)]

    return _store_contender("lmz's archive", form, "lmzip", start, put, get, stage)


def _vault(dtype: DType, form: str) -> Contender:
    import modelvault

    commits = list[modelvault.CommitInfo]()

    def start(place: Path) -> modelvault.Vault:
        commits.clear()
        return modelvault.open(place, create=True)

    def stage(store: modelvault.Vault, number: int, snapshot: Snapshot) -> None:
        shutil.copyfile(snapshot.file, store.root / f"model{snapshot.file.suffix}")

    def put(store: modelvault.Vault, number: int, snapshot: Snapshot) -> None:
        commits.append(store.commit(store.root / f"model{snapshot.file.suffix}", message=str(number)))

    def get(store: modelvault.Vault, number: int, snapshot: Snapshot) -> list[Words]:
        back = store.root.with_name(f"back{snapshot.file.suffix}")
        store.checkout(commits[number].id, back)
        return [tensor.words for tensor in read(back).tensors]

    # What the commit says it added, not the growth of the database file, which comes in steps.
    contender = _store_contender("modelvault's commit", form, "mvault", start, put, get, stage)
    return replace(contender, size=lambda encoded: commits[encoded].added_bytes)


_STORES: tuple[tuple[str, str, Callable[[DType, str], Contender]], ...] = (
    ("modelvault's commit", "modelvault", _vault),
    ("moonclip", "moonclip", _moonclip),
    ("lmzip", "lmz", _lmzip),
)
"""Name, module to import, and what makes the contender."""
