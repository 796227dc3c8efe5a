"""A history as the codecs see it: the tensors of each snapshot, and pairs of neighbours.

Files are cut by the vault's own reader, so that every codec gets what the vault would encode: tensors, those under
16 KiB joined into one. Of each file the tensors of the dtype that holds most bytes are compared; what else there is
(counters, the pickle) is a few hundred bytes to a few kilobytes, and belongs to whole systems, not to codecs.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from modelvault.checkpoint import FileSource
from modelvault.repository.dissect import dissect
from modelvault.tensors import DType

Words: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
"""Elements as unsigned integers of their size, one dimension."""

SUFFIXES = {".pt", ".pth", ".safetensors", ".npz", ".npy", ".bin"}


@dataclass(frozen=True)
class Tensor:
    """One tensor, or several small ones after one another."""

    name: str
    words: Words
    row: int  # words of a row, 0 if it has none


@dataclass(frozen=True)
class Snapshot:
    """The tensors of one file that have its main dtype."""

    file: Path
    dtype: DType
    tensors: tuple[Tensor, ...]

    @cached_property
    def words(self) -> Words:
        """All elements in one run."""
        return np.concatenate([tensor.words for tensor in self.tensors])

    @property
    def shape(self) -> list[tuple[str, int]]:
        """What must agree for one snapshot to be another's reference."""
        return [(tensor.name, tensor.words.size) for tensor in self.tensors]


@dataclass(frozen=True)
class Pair:
    """A snapshot, and the one before it; none: the snapshot is a keyframe."""

    new: Snapshot
    reference: Snapshot | None

    @property
    def nbytes(self) -> int:
        """Bytes to encode."""
        return sum(tensor.words.nbytes for tensor in self.new.tensors)


def read(file: Path) -> Snapshot:
    """Return the tensors of a file.

    Raises:
        ValueError: there are none.
    """
    with FileSource(file) as source:
        slots = dissect(source).slots
    sizes = collections.Counter[DType]()
    for slot in slots:
        sizes[slot.dtype] += slot.nbytes
    del sizes[DType.BYTES]
    if not sizes:
        raise ValueError(f"{file} has no tensors that the reader knows")
    dtype = sizes.most_common(1)[0][0]
    raw = np.fromfile(file, np.uint8)
    tensors = []
    for slot in slots:
        if slot.dtype is dtype:
            pieces = [raw[offset : offset + length] for offset, length in slot.ranges]
            tensors.append(Tensor(slot.name, np.concatenate(pieces).view(f"<u{dtype.size}"), slot.row))
    return Snapshot(file, dtype, tuple(tensors))


def files(history: Path) -> list[Path]:
    """Return the snapshots of a history, oldest first."""
    return sorted(file for file in history.iterdir() if file.suffix in SUFFIXES and not file.name.startswith("."))


def pairs(history: Path, limit: int | None = None) -> Iterator[Pair]:
    """Yield the last snapshot alone, then each but the first against the one before it.

    Where the two do not hold the same tensors (no optimizer state before the first step) there is no pair.

    Args:
        limit: so many snapshots at most, the newest ones.
    """
    chosen = files(history)[-limit if limit else None :]
    if chosen:
        yield Pair(read(chosen[-1]), None)
    before: Snapshot | None = None
    for file in chosen:
        new = read(file)
        if before is not None and before.dtype is new.dtype and before.shape == new.shape:
            yield Pair(new, before)
        before = new


_STATE = "state"
"""Where `scripts/histories` keeps what it goes on from: files of torch, and no history."""


def histories(place: Path) -> list[Path]:
    """Return the directories under `place`, itself among them, that hold two snapshots or more."""
    found = sorted(itertools.chain([place], (path for path in place.iterdir() if path.name != _STATE)))
    return [path for path in found if path.is_dir() and len(files(path)) > 1]
