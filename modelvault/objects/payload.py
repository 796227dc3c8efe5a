"""How the bytes of a commit are kept, and what keeping them cost when it was made.

A payload is a mutable record beside the immutable commit: repack and retention replace it, the commit id stays.
"""

from __future__ import annotations

from typing import NamedTuple

from modelvault import wire

KIND = 1
VERSION = 1

EXACT = 0
"""Mode: checkout returns the very bytes that were committed."""


class Payload(NamedTuple):
    """The payload record of one commit.

    Attributes:
        mode: `EXACT`; other numbers are not defined yet.
        added_bytes: bytes of packs and records that this commit added to the vault.
        keyframes: chunks it stored as keyframes.
        deltas: chunks it stored as deltas.
        depth: the deepest chain that one of its tensors hangs on.
    """

    mode: int
    added_bytes: int
    keyframes: int
    deltas: int
    depth: int

    def to_bytes(self) -> bytes:
        """Return the sealed record."""
        out = wire.Writer()
        for number in self:
            out.uint(number)
        return wire.seal(KIND, VERSION, out.getvalue())

    @classmethod
    def from_bytes(cls, data: bytes) -> Payload:
        """Read a sealed record."""
        record = wire.Reader(wire.unseal(data, KIND, VERSION))
        payload = cls(record.uint(EXACT), record.uint(), record.uint(), record.uint(), record.uint())
        record.end()
        return payload
