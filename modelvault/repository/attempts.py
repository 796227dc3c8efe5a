"""What the last repack tried for nothing, so that the next one leaves it alone.

Samples may promise what whole tensors do not keep: a reference that no chunk gains by in the end, a plan that made the
vault larger and was taken back. Nothing in the vault looks different then, so the same plan would be tried again and
again. Table `stats` keeps a digest of it. Light: no numpy, no codec.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

from modelvault import wire
from modelvault.store.base import ReadTransaction, WriteTransaction

_KEY = b"tried"

References = Mapping[int, Sequence[int]]


def digest_of(wanted: References, now: References, foreseen: int) -> bytes:
    """Return what tells an attempt from others.

    Args:
        wanted: by tensor that is to be coded anew, what it is to lean on.
        now: by tensor, what it leans on.
        foreseen: bytes that the whole vault is believed to take afterwards, which depends on all other tensors.
    """
    out = wire.Writer()
    out.uint(foreseen)
    for number in sorted(wanted):
        out.uint(number)
        for references in (now[number], wanted[number]):
            out.uint(len(references))
            for one in references:
                out.uint(one)
    return blake2b(out.getvalue(), digest_size=16).digest()


def was_for_nothing(txn: ReadTransaction, attempt: bytes) -> bool:
    """Return whether this is what was tried last for nothing."""
    return txn.get("stats", _KEY) == attempt


def note_for_nothing(txn: WriteTransaction, attempt: bytes) -> None:
    """Note that this was tried for nothing."""
    txn.put("stats", _KEY, attempt)
