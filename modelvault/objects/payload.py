"""How the bytes of a commit are kept, and what keeping them cost when it was made.

A payload is a mutable record beside the immutable commit: repack and retention replace it, the commit id stays.
"""

from __future__ import annotations

from typing import NamedTuple

from modelvault import wire
from modelvault.ids import CommitId
from modelvault.objects.lossy import Lossy

KIND = 1
VERSION = 2
"""Version 2 has the optimizer's bound behind what is lossy; it is written only where there is one."""

EXACT = 0
"""Mode: checkout returns the very bytes that were committed."""


LOSSY = 1
"""Mode: for some files checkout returns a stand-in, whose numbers are within a bound of the committed ones."""


class Payload(NamedTuple):
    """The payload record of one commit.

    Attributes:
        mode: `EXACT` or `LOSSY`.
        added_bytes: bytes of packs and records that this commit added to the vault.
        keyframes: chunks it stored as keyframes.
        deltas: chunks it stored as deltas.
        depth: the deepest chain that one of its tensors hangs on.
        forgotten: for each part (`recipe.PARTS`), when it was forgotten (milliseconds since the epoch); 0: kept.
        lossy: bound, measurements and stand-ins, exactly where the mode is `LOSSY`.
    """

    mode: int
    added_bytes: int
    keyframes: int
    deltas: int
    depth: int
    forgotten: tuple[int, int, int] = (0, 0, 0)
    lossy: Lossy | None = None

    @property
    def mode_name(self) -> str:
        """The mode for people, with the bound if there is one: what must stand beside every ratio."""
        return str(self.lossy) if self.lossy else "lossless"

    def to_bytes(self, commit_id: CommitId) -> bytes:
        """Return the record, sealed with the id of its commit."""
        out = wire.Writer()
        for number in (self.mode, self.added_bytes, self.keyframes, self.deltas, self.depth, *self.forgotten):
            out.uint(number)
        if self.lossy is not None:
            self.lossy.write(out)
        version = VERSION if self.lossy is not None and self.lossy.optimizer else 1
        if self.lossy is not None and version == VERSION:
            out.float64(self.lossy.optimizer)
        return wire.seal(KIND, version, out.getvalue(), commit_id)

    @classmethod
    def from_bytes(cls, data: bytes, commit_id: CommitId) -> Payload:
        """Read the record sealed with this commit's id."""
        record = wire.Reader(wire.unseal(data, KIND, VERSION, commit_id))
        mode, added_bytes, keyframes, deltas, depth = record.uint(LOSSY), *(record.uint() for _ in range(4))
        forgotten = record.uint(), record.uint(), record.uint()
        lossy = Lossy.read(record) if mode == LOSSY else None
        if data[1] == VERSION:
            if lossy is None:
                raise wire.WireError("exact payload of version 2")
            lossy = lossy._replace(optimizer=record.float64())
            if not lossy.optimizer:
                raise wire.WireError("payload of version 2 without what it is for")
        payload = cls(mode, added_bytes, keyframes, deltas, depth, forgotten, lossy)
        record.end()
        return payload
