"""What is live in a vault and what it takes. Light: records are read, no chunk is decoded.

Live is what a ref or a reflog entry leads to and was not forgotten. Everything else (what a killed commit left behind,
what was forgotten, what deleted branches held) is what a gc could free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from modelvault import wire
from modelvault.ids import CommitId, FileId
from modelvault.objects.tensor import TensorRecord, index_key
from modelvault.repository import history
from modelvault.repository.liveness import ALL_PARTS, Cutoff, Liveness, mark
from modelvault.store.base import ReadTransaction, Table

_FIXED_TABLES: tuple[Table, ...] = ("meta", "refs", "reflog", "latest", "stats", "sketches")
"""Tables whose entries are all live: they are small and belong to the vault, not to a commit."""

NOW = Cutoff(reflog=0, forgotten=2**63)
"""The reflog holds on to everything, forgetting counts at once."""


class Layer(NamedTuple):
    """Tensors of one depth: how many, their raw bytes, and the bytes of their frames."""

    tensors: int
    raw_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Census:
    """What a vault holds.

    Attributes:
        commits: commits whose files can be checked out.
        forgotten: live commits of which a part, or all, was forgotten.
        raw_bytes: sizes of the files of all commits that can be checked out, added up.
        stored_bytes: bytes of the frames and records that live commits need, keys included.
        coded_bytes: those of them that are frames or codec parameters.
        keyframes: live chunks that need nothing else.
        deltas: live chunks that need a reference.
        layers: by depth: the live tensors of that depth, and what they take.
        reclaimable_bytes: bytes of frames, packs and records that nothing live needs.
        modes: how many of the commits that can be checked out are kept in each mode, as `Payload.mode_name` says it.
    """

    commits: int
    forgotten: int
    raw_bytes: int
    stored_bytes: int
    coded_bytes: int
    keyframes: int
    deltas: int
    layers: Mapping[int, Layer]
    reclaimable_bytes: int
    modes: Mapping[str, int]

    @property
    def mode(self) -> str:
        """How the bytes are kept: "lossless", a lossy mode with its bound, or how many commits of each there are."""
        if len(self.modes) < 2:
            return next(iter(self.modes), "lossless")
        return ", ".join(f"{count} commit{'s' if count > 1 else ''} {mode}" for mode, count in self.modes.items())

    @property
    def depth_mean(self) -> float:
        """Mean depth of the live tensors."""
        tensors = sum(layer.tensors for layer in self.layers.values())
        return sum(depth * layer.tensors for depth, layer in self.layers.items()) / tensors if tensors else 0.0

    @property
    def depth_max(self) -> int:
        """Depth of the deepest live tensor."""
        return max(self.layers, default=0)


class _Balance:
    """Bytes that are live, and bytes that are not."""

    def __init__(self) -> None:
        self.live = self.dead = 0

    def enter(self, key: bytes, length: int, is_live: bool) -> None:
        if is_live:
            self.live += len(key) + length
        else:
            self.dead += len(key) + length


def take_census(txn: ReadTransaction) -> Census:
    """Count everything, table by table.

    Raises:
        CorruptError: a record is missing or damaged.
    """
    live = mark(txn, NOW)
    whole = [commit_id for commit_id, parts in live.commits.items() if parts == ALL_PARTS]
    raw_bytes = sum(history.read_commit(txn, commit_id).raw_bytes for commit_id in whole)
    balance = _Balance()
    for table in ("commits", "payloads"):
        for key, length in txn.sizes(table):
            balance.enter(key, length, CommitId(key) in live.commits)
    for key, length in txn.sizes("recipes"):
        balance.enter(key, length, bool(live.files.get(FileId(key), 0)))
    for key, length in txn.sizes("templates"):
        balance.enter(key, length, wire.read_sortable(key) in live.templates)
    for table in _FIXED_TABLES:
        for key, length in txn.sizes(table):
            balance.enter(key, length, True)
    coded, keyframes, deltas, layers = _enter_tensors(txn, live, balance)
    return Census(
        len(whole),
        len(live.commits) - len(whole),
        raw_bytes,
        balance.live,
        coded,
        keyframes,
        deltas,
        layers,
        balance.dead,
        Counter(sorted(history.read_payload(txn, commit_id).mode_name for commit_id in whole)),
    )


def _enter_tensors(txn: ReadTransaction, live: Liveness, balance: _Balance) -> tuple[int, int, int, dict[int, Layer]]:
    """Enter tensor records, index entries and packs; return coded bytes, keyframes, deltas, layers."""
    frames = parameters = keyframes = deltas = 0
    layers: dict[int, Layer] = {}
    for key, value in txn.scan("tensors"):
        number = wire.read_sortable(key)
        if number in live.damaged:
            balance.enter(key, len(value), False)
            continue
        record = TensorRecord.from_bytes(value)
        is_live = live.wants(number)
        balance.enter(key, len(value), is_live)
        balance.enter(index_key(record.tensor_id, number), 0, is_live)
        if is_live:
            frames += record.stored_bytes
            parameters += len(record.parameters)
            keyframes += record.chunks - record.deltas
            deltas += record.deltas
            tensors, raw, stored = layers.get(record.depth, Layer(0, 0, 0))
            layers[record.depth] = Layer(tensors + 1, raw + record.nbytes, stored + record.stored_bytes)
    packed = 0
    for key, length in txn.sizes("packs"):
        packed += length
        balance.live += len(key)
    balance.live += frames
    balance.dead += packed - frames
    return frames + parameters, keyframes, deltas, dict(sorted(layers.items()))
