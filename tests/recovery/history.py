"""A history of transactions that anyone can recompute: what a store must hold after the first N of them.

Transaction N (from 1 on) writes a handful of values of very different lengths, replaces one, deletes what transaction
N - KEPT wrote, and sets the counter to N. So the counter says what everything else has to be.
"""

from __future__ import annotations

import hashlib

from modelvault.store.base import ReadTransaction, WriteTransaction

KEPT = 12
_LENGTHS = (20, 700, 5_000, 40_000, 300_000)


def value(number: int, part: int) -> bytes:
    seed = hashlib.sha256(b"%d-%d" % (number, part)).digest()
    length = _LENGTHS[part] + seed[0]
    return (seed * (length // len(seed) + 1))[:length]


def key(number: int, part: int) -> bytes:
    return b"%09d-%d" % (number, part)


def append(transaction: WriteTransaction) -> int:
    """Carry out the next transaction of the history and return its number."""
    number = last(transaction) + 1
    for part in range(len(_LENGTHS)):
        transaction.put("packs", key(number, part), value(number, part))
        transaction.delete("packs", key(number - KEPT, part))
    transaction.put("refs", b"main", value(number, 1))
    transaction.put("stats", b"counter", b"%d" % number)
    return number


def last(transaction: ReadTransaction) -> int:
    return int(transaction.get("stats", b"counter") or b"0")


def check(transaction: ReadTransaction) -> int:
    """Assert that the store holds exactly the history up to its counter, and return that."""
    number = last(transaction)
    expected = {
        key(n, part): value(n, part)
        for n in range(max(1, number - KEPT + 1), number + 1)
        for part in range(len(_LENGTHS))
    }
    assert dict(transaction.scan("packs")) == expected
    assert transaction.get("refs", b"main") == (value(number, 1) if number else None)
    return number
