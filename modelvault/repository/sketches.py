"""Tensors found by what is in them: whatever their name, file or branch, a fine-tune finds the model it began from.

A sketch is a few short hashes of a tensor. Each covers sign and exponent of eight neighbouring elements at a place that
the tensor's dtype and length alone decide. A change of one part in a hundred leaves an exponent alone 95 times in a
hundred, so of sixteen such hashes most survive a fine-tune, while tensors that are not related share none.

Table `sketches` leads from a hash to the first and the last tensor that had it. A tensor enters its hashes only where
few of them are known: a line of epochs costs nothing but its first, until it has drifted away from it. Everything here
may be thrown away at any time; then nothing is found by content until new tensors have entered, or a repack has
entered the old ones. Light.
"""

from __future__ import annotations

import functools
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from typing import NamedTuple

from modelvault import wire
from modelvault.store.base import ReadTransaction, WriteTransaction
from modelvault.tensors import DType

_ELEMENTS = 8
_LEAST_DISTINCT = 4
"""Elements that a hash covers, and how many of them must differ: rows of zeros or ones are no mark of anything. Eight
signs and exponents of weights hold about 28 bits."""

_MOST = 16
_LEAST = 4
_BYTES_A_PROBE = 32 << 10
"""Hashes of a tensor: an entry takes some 22 bytes of the store, so that even a sketch of which every hash is entered
is under a thousandth of a tensor of 128 KiB and more."""

_LEAST_BYTES = 4 << 10
"""Shorter tensors have no sketch."""

_KNOWN_SHARE = 4
"""A tensor of whose hashes one in so many is known, and two at least, enters no others."""

_ENOUGH = 4
"""Where so many hashes of a tensor, the first ones, are all known, no others are computed or entered: they lead to the
newest of a line of epochs, and where they no longer do, all are taken again."""

_HASH_BYTES = 6

# Of each element, the bits above these are its sign and exponent; of 8-bit integers, the upper half.
_SHIFTS = {
    DType.F16: 10,
    DType.BF16: 7,
    DType.F32: 23,
    DType.F64: 52,
    DType.F8_E4M3: 3,
    DType.F8_E4M3FNUZ: 3,
    DType.F8_E5M2: 2,
    DType.F8_E5M2FNUZ: 2,
    DType.C32: 10,
    DType.C64: 23,
    DType.C128: 52,
    DType.I8: 4,
    DType.U8: 4,
}

_NUMBERS = {size: struct.Struct(f"<{_ELEMENTS}{code}") for size, code in ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))}
_TOKENS = struct.Struct(f"<{_ELEMENTS}H")


class Mark(NamedTuple):
    """What one hash leads to: the number of the first tensor that had it, and of the last."""

    first: int
    last: int

    def to_bytes(self) -> bytes:
        """Return the value of its entry."""
        return wire.sortable(self.first) + (wire.sortable(self.last) if self.last != self.first else b"")

    @classmethod
    def from_bytes(cls, data: bytes) -> Mark:
        """Read the value of an entry.

        Raises:
            WireError: it is none.
        """
        cut = 1 + data[0] if data else 0
        first = wire.read_sortable(data[:cut])
        return cls(first, wire.read_sortable(data[cut:]) if cut < len(data) else first)


def sketch_of(dtype: DType, nbytes: int, read: Callable[[int, int], bytes]) -> tuple[bytes, ...]:
    """Return the hashes of a tensor, none where its dtype or length is of no use for them.

    Args:
        dtype: of its elements.
        nbytes: its length.
        read: returns so many of its bytes from an offset on.
    """
    return tuple(_hashes(dtype, nbytes, read))


def sketch_enough(
    txn: ReadTransaction, dtype: DType, nbytes: int, read: Callable[[int, int], bytes]
) -> tuple[bytes, ...]:
    """Return the hashes of a tensor as `sketch_of` does, but only the first few where all of these are known."""
    found = list[bytes]()
    for key in _hashes(dtype, nbytes, read):
        if len(found) == _ENOUGH and None not in map(partial(_mark, txn), found):
            break
        found.append(key)
    return tuple(found)


def _hashes(dtype: DType, nbytes: int, read: Callable[[int, int], bytes]) -> Iterator[bytes]:
    shift = _SHIFTS.get(dtype)
    if shift is None or nbytes < _LEAST_BYTES:
        return
    word, places = _places(dtype, nbytes)
    for start, seed in places:
        tokens = [number >> shift for number in _NUMBERS[word].unpack(read(start, _ELEMENTS * word))]
        if len(set(tokens)) >= _LEAST_DISTINCT:
            yield blake2b(seed + _TOKENS.pack(*tokens), digest_size=_HASH_BYTES).digest()


@functools.lru_cache(maxsize=1024)
def _places(dtype: DType, nbytes: int) -> tuple[int, tuple[tuple[int, bytes], ...]]:
    """Return the bytes of an element, and of each hash where it begins and what it begins with."""
    word = dtype.size // 2 if dtype.kind == "complex" else dtype.size
    count = min(_MOST, max(_LEAST, nbytes // _BYTES_A_PROBE))
    stratum = nbytes // word // count
    found = []
    for place in range(count):
        seed = f"{dtype.code}\0{nbytes}\0{place}".encode()
        inside = int.from_bytes(blake2b(seed, digest_size=8).digest(), "little") % (stratum - _ELEMENTS)
        found.append(((place * stratum + inside) * word, seed))
    return word, tuple(found)


def find_alike(txn: ReadTransaction, sketch: Sequence[bytes]) -> tuple[int, ...]:
    """Return the numbers of tensors that share hashes with a sketch, none twice, the likeliest first.

    The last tensor that had most of them, the last of all, and the first that had most: the newest relatives, and
    the one that they all come from.
    """
    marks = [mark for mark in map(lambda key: _mark(txn, key), sketch) if mark is not None]
    if not marks:
        return ()
    lasts, firsts = Counter(mark.last for mark in marks), Counter(mark.first for mark in marks)
    often = max(lasts, key=lambda number: (lasts[number], number))
    origin = max(firsts, key=lambda number: (firsts[number], -number))
    return tuple(dict.fromkeys((often, max(lasts), origin)))


def enter(txn: WriteTransaction, sketch: Sequence[bytes], number: int) -> int:
    """Note a new tensor under the hashes that are known, and under the others as well if these are few.

    Returns:
        The bytes that this added.
    """
    marks = {key: _mark(txn, key) for key in sketch}
    known = sum(mark is not None for mark in marks.values())
    all_of_them = known < max(2, -(-len(marks) // _KNOWN_SHARE))
    added = 0
    for key, mark in marks.items():
        if mark is None and not all_of_them:
            continue
        value = Mark(mark.first if mark else number, number).to_bytes()
        added += len(value) - len(mark.to_bytes()) if mark else len(key) + len(value)
        txn.put("sketches", key, value)
    return added


def enter_late(txn: WriteTransaction, sketch: Sequence[bytes], number: int) -> None:
    """Note a tensor that has been in the vault for long, if it is there still."""
    if txn.get("tensors", wire.sortable(number)) is None:
        return
    for key in sketch:
        mark = _mark(txn, key) or Mark(number, number)
        txn.put("sketches", key, Mark(min(mark.first, number), max(mark.last, number)).to_bytes())


def oldest(txn: ReadTransaction) -> int | None:
    """Return the lowest number that a hash leads to, None if there is none."""
    marks = (_mark(txn, key) for key, _ in txn.scan("sketches"))
    return min((mark.first for mark in marks if mark is not None), default=None)


def after_sweep(txn: ReadTransaction, is_live: Callable[[int], bool]) -> Iterator[tuple[bytes, bytes, bytes | None]]:
    """Yield (key, value, new value) of each entry that must change when tensors go; None where it goes too."""
    for key, value in txn.scan("sketches"):
        try:
            mark = Mark.from_bytes(value)
        except wire.WireError:
            yield key, value, None
            continue
        kept = [number for number in mark if is_live(number)]
        if len(kept) < len(mark):
            yield key, value, Mark(kept[0], kept[0]).to_bytes() if kept else None


def _mark(txn: ReadTransaction, key: bytes) -> Mark | None:
    value = txn.get("sketches", key)
    if value is None:
        return None
    try:
        return Mark.from_bytes(value)
    except wire.WireError:
        return None  # fsck's to report
