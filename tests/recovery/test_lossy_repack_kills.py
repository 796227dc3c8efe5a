"""Is every commit whole, exact or lossy, whenever a lossy repack is killed?"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from modelvault.objects.payload import EXACT
from modelvault.repository import history
from modelvault.repository.fsck import check
from modelvault.repository.gc import collect_garbage
from modelvault.repository.lossy import LossyRequest
from modelvault.repository.lossy_repack import choose, lossy_repack
from modelvault.repository.repository import init_repository, open_repository
from tests.recovery.test_gc_kills import PATIENCE, start
from tests.repository.garbage import assert_tidy
from tests.repository.test_lossy import Network
from tests.repository.vaults import all_commits, commit, files_of, new_vault


@pytest.fixture(autouse=True)
def _author(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELVAULT_AUTHOR", "Ada <ada@example.org>")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # what a killed process leaves there goes with the test


def run_kills(root: Path, commits: int, kills: int) -> None:
    chance, network = random.Random(kills), Network()
    repository, twin = init_repository(root / "run"), new_vault(root / "twin")
    for epoch in range(commits):
        for vault in (repository, twin):
            commit(vault, network.file(), f"epoch {epoch}")
        network.train()
    order = all_commits(repository)
    exact = [files_of(repository, commit_id) for commit_id in order]
    with twin.store.read() as txn:  # the same without a kill: what stand-ins have to be
        choices = choose(txn, [], twin.config)
    lossy_repack(twin, choices, LossyRequest(0.001))
    lossy = [files_of(twin, commit_id) for commit_id in all_commits(twin)]
    killed = turned = 0
    for number in range(kills):
        process = start("lossy", root / "run")
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        time.sleep(chance.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=PATIENCE)
        assert process.returncode in (0, -signal.SIGKILL)
        killed += process.returncode != 0
        again = open_repository(root / "run")
        if number % 3 == 2:
            collect_garbage(again, grace=0.0)
            assert_tidy(again)
        turned = 0
        for place, commit_id in enumerate(order):
            with again.store.read() as txn:
                is_exact = history.read_payload(txn, commit_id).mode == EXACT
            assert files_of(again, commit_id) == (exact if is_exact else lossy)[place]
            turned += not is_exact
        assert check(again).problems == ()
    assert killed, "nothing was killed"
    with repository.store.read() as txn:
        choices = choose(txn, [], repository.config)
    assert len(lossy_repack(repository, choices, LossyRequest(0.001)).turned) == commits - 1 - turned
    collect_garbage(repository, grace=0.0, compact=True)
    assert_tidy(repository)
    assert [files_of(repository, commit_id) for commit_id in order] == [*exact[:1], *lossy[1:]]


def test_a_killed_lossy_repack_leaves_every_commit_whole(tmp_path: Path) -> None:
    run_kills(tmp_path, 12, 5)


@pytest.mark.slow
def test_a_lossy_repack_killed_many_times_leaves_every_commit_whole(tmp_path: Path) -> None:
    run_kills(tmp_path, 40, 40)
