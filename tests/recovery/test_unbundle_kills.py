"""Is a bundle there whole or not at all, whenever bringing it in is killed?"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from modelvault.repository.bundle import make_bundle
from modelvault.repository.fsck import check
from modelvault.repository.gc import collect_garbage
from modelvault.repository.repository import init_repository, open_repository
from modelvault.repository.unbundle import unbundle
from tests.recovery.test_gc_kills import PATIENCE, start
from tests.repository.garbage import assert_restores, assert_tidy
from tests.repository.networks import Run
from tests.repository.vaults import all_commits, commit, files_of, new_vault


@pytest.fixture(autouse=True)
def _author(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELVAULT_AUTHOR", "Ada <ada@example.org>")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # what a killed process leaves there goes with the test


def run_kills(root: Path, kills: int) -> None:
    chance, vault = random.Random(kills), new_vault(root / "run")
    for data in Run({f"layer{n}.weight": 40_000 for n in range(6)}).epochs(7):
        commit(vault, data)
    expected = {commit_id: files_of(vault, commit_id) for commit_id in all_commits(vault)}
    order = list(expected)[::-1]
    make_bundle(vault, "HEAD~6", root / "first.mvb")
    make_bundle(vault, "HEAD~6..HEAD", root / "rest.mvb")
    receiver = init_repository(root / "receiver")
    unbundle(receiver, root / "first.mvb", branch="main")
    killed = ended = 0
    for number in range(kills):
        process = start("unbundle", root / "receiver", root / "rest.mvb")
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        time.sleep(chance.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=PATIENCE)
        killed += process.returncode != 0
        again = open_repository(root / "receiver")
        found = all_commits(again)
        assert len(found) in (1, len(order)), "half of it is there"
        ended += len(found) == len(order)
        assert_restores(again, {commit_id: expected[commit_id] for commit_id in found})
        if ended or number % 3 == 2:
            collect_garbage(again, grace=0.0)
            assert_tidy(again)
        if ended:
            break
    assert killed, "nothing was killed"
    unbundle(receiver, root / "rest.mvb")
    assert_restores(receiver, expected)
    assert check(receiver).problems == ()


def test_a_killed_unbundle_brings_all_or_nothing(tmp_path: Path) -> None:
    run_kills(tmp_path, 4)


@pytest.mark.slow
def test_an_unbundle_killed_many_times_brings_all_or_nothing(tmp_path: Path) -> None:
    run_kills(tmp_path, 40)
