"""What a version would take, alone or against others, foretold by coding a sample of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from modelvault.objects.tensor import TensorRecord
from modelvault.repository.chunks import ChunkReader
from modelvault.repository.recode import sample_bytes
from modelvault.repository.versions import Version
from modelvault.store.base import Store
from modelvault.tensors import CHUNK_BYTES

_SAMPLE_SHARE = 64
"""One in so many raw bytes of a version is measured: 1.6 %."""
_SAMPLE_LEAST = 64 << 10
_SAMPLE_MOST = 1 << 20
_PIECE = 16 << 10
"""Bytes of one piece of a sample; pieces stand at equal distances through all tensors of a version."""
_SAMPLES_BYTES = 256 << 20
"""All samples together: with more versions, each gets less."""


class VersionSamples:
    """Pieces of versions, decoded, and what they take coded against one another.

    Pieces stand at equal distances through all tensors of a version, and at the same places in its references.
    """

    def __init__(
        self, store: Store, versions: list[Version], records: dict[int, TensorRecord], *, thorough: bool
    ) -> None:
        self._versions, self._records = versions, records
        self._reader = ChunkReader(store)
        self._largest = min(_SAMPLE_MOST, max(_PIECE, _SAMPLES_BYTES // len(versions)))
        self._share = _SAMPLE_SHARE // 8 if thorough else _SAMPLE_SHARE
        self._pieces: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._held = 0

    def size(self, number: int) -> int:
        """Return about how many bytes of a version are its sample."""
        nbytes = self._versions[number].nbytes
        return min(self._largest, nbytes, max(_SAMPLE_LEAST, nbytes // self._share))

    def measure(self, number: int, *references: Sequence[int]) -> int:
        """Return the bytes that a version would take, alone or against references of its tensors, by its sample.

        Args:
            number: the version.
            references: of each of its tensors, one reference; none, one or several times.

        Raises:
            TensorDamagedError: it or a reference cannot be decoded.
        """
        version, size = self._versions[number], self.size(number)
        pieces = max(1, size // _PIECE)
        raw, beside = bytearray(), [bytearray() for _ in references]
        starts = [at * version.nbytes // pieces // 16 * 16 for at in range(pieces)]
        place = end = 0
        for at, tensor in enumerate(version.tensors):
            begin, end = end, end + self._records[tensor].nbytes
            while place < pieces and starts[place] < end:
                start = (starts[place] - begin) // 16 * 16
                piece = self._piece(tensor, start)
                raw += piece
                for side, tensors in zip(beside, references, strict=True):
                    side += self._piece(tensors[at], start)[: len(piece)]
                place += 1
        if not raw:
            return 0
        taken = sample_bytes(bytes(raw), version.dtype, *map(bytes, beside))
        return round(taken * version.nbytes / len(raw))

    def _piece(self, tensor: int, start: int) -> bytes:
        with self._lock:
            found = self._pieces.get((tensor, start))
            if found is not None:
                self._pieces.move_to_end((tensor, start))
                return found
        inside = start % CHUNK_BYTES
        found = self._reader.chunk(tensor, start // CHUNK_BYTES)[inside : inside + _PIECE]
        with self._lock:
            self._pieces[tensor, start] = found
            self._held += len(found)
            while self._held > _SAMPLES_BYTES:
                self._held -= len(self._pieces.popitem(last=False)[1])
        return found
