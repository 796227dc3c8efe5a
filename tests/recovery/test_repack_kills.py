"""Is a vault complete whenever a repack is killed, and do commits, readers and gcs go on beside one?"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from modelvault.repository.cost import seconds
from modelvault.repository.repack import Bounds, repack
from modelvault.repository.repository import init_repository, open_repository
from tests.recovery.test_gc_kills import PATIENCE, start
from tests.repository.garbage import assert_restores, assert_tidy
from tests.repository.networks import Run
from tests.repository.test_refine import checkpoints
from tests.repository.vaults import all_commits, commit, files_of


@pytest.fixture(autouse=True)
def _author(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELVAULT_AUTHOR", "Ada <ada@example.org>")


def run_kills(root: Path, kills: int, *options: str) -> None:
    chance, repository = random.Random(kills), init_repository(root)
    run = Run({f"layer{n}.weight": 20_000 for n in range(4)})
    for data in checkpoints(6, {}) if options else run.epochs(12):
        commit(repository, data)
    expected = {commit_id: files_of(repository, commit_id) for commit_id in all_commits(repository)}
    killed = 0
    for number in range(kills):
        process = start("repack", root, (1, 16, 4)[number % 3], *options)
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        time.sleep(chance.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=PATIENCE)
        assert process.returncode in (0, -signal.SIGKILL)
        killed += process.returncode != 0
        again = open_repository(root)
        assert_restores(again, expected)
        assert_tidy_depths(root)
    assert killed, "nothing was killed"
    bounds = Bounds(max_depth=4, thorough=bool(options))
    repack(repository, bounds)
    assert_restores(repository, expected)
    assert repack(repository, bounds).recoded == 0


def assert_tidy_depths(root: Path) -> None:
    assert_tidy(open_repository(root), swept=False)


def test_a_killed_repack_leaves_a_complete_vault(tmp_path: Path) -> None:
    run_kills(tmp_path, 8)


def test_a_killed_repack_at_the_highest_effort_leaves_a_complete_vault(tmp_path: Path) -> None:
    run_kills(tmp_path, 8, "--effort-max")


@pytest.mark.slow
def test_a_repack_killed_many_times_leaves_a_complete_vault(tmp_path: Path) -> None:
    run_kills(tmp_path, 60)


class StopError(Exception):
    """Where a repack ends as if it had been killed between two transactions."""


@pytest.mark.parametrize("kind", ["depth", "restore", "budget"])
def test_a_repack_that_was_interrupted_is_finished_by_the_next(tmp_path: Path, kind: str) -> None:
    repository = init_repository(tmp_path)
    for data in Run({f"layer{n}.weight": 20_000 for n in range(4)}).epochs(10):
        commit(repository, data)
    expected = {commit_id: files_of(repository, commit_id) for commit_id in all_commits(repository)}
    now = repack(repository, Bounds(), dry_run=True).before
    bounds = {
        "depth": Bounds(max_depth=2),
        "restore": Bounds(max_restore=seconds(now.work_max) / 2),
        "budget": Bounds(budget=int(now.nbytes * 1.2)),
    }[kind]
    whole = repack(repository, bounds, dry_run=True)

    def stop(step: str, done: int, total: int) -> None:
        if step == "coding anew" and done == total // 2:
            raise StopError

    with pytest.raises(StopError):
        repack(repository, bounds, progress=stop)
    assert_restores(repository, expected)
    rest = repack(repository, bounds)
    assert rest.recoded > 0
    assert kind == "budget" or rest.recoded < whole.recoded
    assert rest.after.depth_max <= bounds.max_depth
    assert bounds.budget is None or rest.after.nbytes <= bounds.budget
    assert bounds.max_restore is None or seconds(rest.after.work_max) <= bounds.max_restore
    assert_restores(repository, expected)
    assert_tidy(repository, swept=False)
    assert repack(repository, bounds).recoded == 0


def test_commits_readers_and_gcs_go_on_beside_repacks(tmp_path: Path) -> None:
    repository = init_repository(tmp_path)
    kept = commit(repository, {"kept.pt": Run({"w": 20_000, "v": 17_000}, seed=8).file()}, tag="kept")
    expected = files_of(repository, kept.commit_id)
    committers = [start("commit", tmp_path, seed, 14) for seed in (1, 2)]
    reader = start("read", tmp_path)
    collectors = [start("gc", tmp_path)]
    rounds = 0
    while rounds < 6 or any(process.poll() is None for process in committers):
        repack(repository, Bounds(max_depth=(1, 3, 16)[rounds % 3]))
        collectors.append(start("gc", tmp_path))
        rounds += 1
        collectors.pop(0).communicate(timeout=PATIENCE)
    acknowledged = [line for process in committers for line in process.communicate(timeout=PATIENCE)[0].split()]
    count = reader.communicate("enough\n", timeout=PATIENCE)[0]
    for process in collectors:
        process.communicate(timeout=PATIENCE)
    assert [process.returncode for process in (*committers, reader, *collectors)] == [0] * (3 + len(collectors))
    assert int(count) > 0
    assert len(acknowledged) == 28
    assert files_of(repository, kept.commit_id) == expected
    assert_tidy(repository, swept=False)
