"""What does a training run cost: depth, bytes a commit, bookkeeping, and pages on disk?"""

from __future__ import annotations

import pytest

from modelvault.planner import MAX_DEPTH
from modelvault.report import make_report
from modelvault.repository.repository import Repository

from .networks import SHUFFLENET, Run
from .vaults import all_commits, commit, files_of, fsck, table_bytes, tensor_records

SMALL = {"conv.weight": 40_000, "fc.weight": 30_000, "norm.weight": 64, "norm.bias": 64}


def test_depth_grows_by_one_an_epoch_and_deltas_are_cheap(vault: Repository) -> None:
    run = Run(SMALL)
    done = [commit(vault, data, f"epoch {n}") for n, data in enumerate(run.epochs(12))]
    assert [made.payload.depth for made in done] == list(range(12))
    assert done[0].payload.deltas == 0
    assert all(made.payload.keyframes == 0 and made.payload.deltas == 3 for made in done[1:])
    raw = done[0].commit.raw_bytes
    mean = sum(made.payload.added_bytes for made in done[1:]) / 11
    assert mean < 0.75 * raw
    assert mean < 0.85 * done[0].payload.added_bytes


def test_depth_never_exceeds_its_bound_and_comes_down(vault: Repository) -> None:
    run = Run({"w": 20_000, "b": 100})
    epochs = list(run.epochs(40))
    done = [commit(vault, data, f"epoch {n}") for n, data in enumerate(epochs)]
    depths = [made.payload.depth for made in done]
    assert max(depths) == MAX_DEPTH == 16
    assert depths[MAX_DEPTH + 1] < MAX_DEPTH
    records = tensor_records(vault)
    assert all(not r.base or r.depth == records[r.base].depth + 1 for r in records.values())
    assert [files_of(vault, made.commit_id)["model.pt"] for made in done[::-1]] == epochs[::-1]
    fsck(vault)


def test_what_a_payload_says_was_added_is_what_the_tables_grew_by(vault: Repository) -> None:
    run = Run(SMALL)
    counted: list[tuple[int, int]] = []
    for data in run.epochs(4):
        before = table_bytes(vault)
        done = commit(vault, data)
        after = table_bytes(vault)
        grown = sum(after[table] - before[table] for table in after)
        counted.append((done.payload.added_bytes, grown))
    for said, grown in counted:
        assert grown - 600 < said <= grown  # refs, reflog, payload and counters are the vault's


def test_bookkeeping_stays_under_two_kilobytes_a_commit(vault: Repository) -> None:
    """The 2 KB test: all that is neither a frame nor a codec parameter, for a network of 296 storages."""
    assert len(SHUFFLENET) == 296
    assert sum(4 * size >= 64 << 10 for size in SHUFFLENET.values()) == 22
    run = Run(SHUFFLENET)
    epochs = run.epochs(6)
    commit(vault, next(epochs))
    growth = []
    for data in epochs:
        before = overhead(vault)
        commit(vault, data)
        growth.append(overhead(vault) - before)
    assert max(growth) <= 2_000
    report = make_report(vault).to_json()
    assert report["overhead_bytes"] == pytest.approx(overhead(vault), rel=0.02)


def overhead(repository: Repository) -> int:
    sizes = table_bytes(repository)
    parameters = sum(len(record.parameters) for record in tensor_records(repository).values())
    return sum(sizes.values()) - sizes["packs"] - parameters


def test_pages_of_the_database_round_up_by_less_than_three_percent(disk_vault: Repository) -> None:
    run = Run(SHUFFLENET)
    for data in run.epochs(14):
        commit(disk_vault, data)
    stored = sum(table_bytes(disk_vault).values())
    assert stored >= 20_000_000
    assert make_report(disk_vault).disk_bytes <= 1.03 * stored


def test_the_report_adds_up(vault: Repository) -> None:
    empty = make_report(vault)
    assert (empty.census.commits, empty.ratio) == (0, None)
    run = Run(SMALL)
    done = [commit(vault, data) for data in run.epochs(5)]
    report = make_report(vault)
    records = tensor_records(vault)
    assert report.census.commits == len(all_commits(vault)) == 5
    assert report.census.raw_bytes == sum(made.commit.raw_bytes for made in done)
    assert report.census.reclaimable_bytes == 0
    assert report.census.keyframes == sum(made.payload.keyframes for made in done)
    assert report.census.deltas == sum(made.payload.deltas for made in done)
    assert report.census.depth_max == max(record.depth for record in records.values()) == 4
    assert report.census.depth_mean == pytest.approx(2.0)
    # Stored is all there is, but for the counters that are the store's own.
    assert report.census.stored_bytes == pytest.approx(sum(table_bytes(vault).values()), rel=0.001)
    assert report.ratio is not None and report.ratio > 1.2
