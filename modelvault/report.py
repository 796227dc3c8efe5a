"""The savings report, as plain data. Nothing is printed here, and nothing heavy is imported."""

from __future__ import annotations

from typing import Any, NamedTuple

from modelvault.repository.census import Census, take_census
from modelvault.repository.charges import By, Line, split
from modelvault.repository.repository import Repository

__all__ = ["By", "Line", "Report", "make_report", "make_split_report"]

SCHEMA = "modelvault.report/1"


class Report(NamedTuple):
    """What a vault saves.

    Attributes:
        mode: how the bytes are kept: "lossless", or what is lossy, with the bounds.
        census: what is live and what it takes.
        disk_bytes: what the vault takes on disk, as `du` counts.
    """

    mode: str
    census: Census
    disk_bytes: int

    @property
    def ratio(self) -> float | None:
        """Raw bytes of the files committed by bytes stored for them, None while there are no commits."""
        stored = self.census.stored_bytes
        return self.census.raw_bytes / stored if self.census.commits and stored else None

    def to_json(self) -> dict[str, Any]:
        """Return the report as one JSON object, sizes in bytes."""
        census = self.census
        return {
            "schema": SCHEMA,
            "commits": census.commits,
            "forgotten": census.forgotten,
            "raw_bytes": census.raw_bytes,
            "stored_bytes": census.stored_bytes,
            "overhead_bytes": census.stored_bytes - census.coded_bytes,
            "ratio": self.ratio,
            "mode": self.mode,
            "keyframes": census.keyframes,
            "deltas": census.deltas,
            "depth": {"mean": census.depth_mean, "max": census.depth_max},
            "layers": [{"depth": depth, **layer._asdict()} for depth, layer in census.layers.items()],
            "disk_bytes": self.disk_bytes,
            "reclaimable_bytes": census.reclaimable_bytes,
        }


def make_report(repository: Repository) -> Report:
    """Count what the vault holds now."""
    return make_split_report(repository, None)[0]


def make_split_report(repository: Repository, by: By | None) -> tuple[Report, list[Line]]:
    """Count what the vault holds now, and say who pays for it; no lines without `by`."""
    with repository.store.read() as txn:
        census = take_census(txn)
        lines = split(txn, by, census) if by is not None else []
    return Report(census.mode, census, repository.store.disk_bytes()), lines
