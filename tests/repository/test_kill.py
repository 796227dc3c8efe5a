"""Is a commit there whole or not at all after a kill, and is an acknowledged one never lost?"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelvault.repository import history, refs
from modelvault.repository.repository import Repository, open_repository

from .vaults import all_commits, commit, files_of, fsck

PROJECT = Path(__file__).parents[2]


def killed_after(root: Path, seed: int, seconds: float) -> list[str]:
    """Start committing, kill it that long after its first commit; return the commits it acknowledged."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.repository.committer", str(root), str(seed), "1000"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline().strip()
    assert first
    time.sleep(seconds)
    process.kill()
    rest = process.communicate()[0].split("\n")
    assert process.returncode == -signal.SIGKILL
    return [first, *rest[:-1]]  # a line that was not finished acknowledges nothing


def killed_inside(root: Path, seed: int, puts: int) -> list[str]:
    """Have a committing process kill itself inside a transaction; return the commits it acknowledged."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.repository.committer", str(root), str(seed), "1000", str(puts)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    return done.stdout.split()


def assert_is_sound(root: Path, acknowledged: list[str]) -> None:
    """Check from a fresh opening that nothing acknowledged is lost and nothing is there by half."""
    repository = open_repository(root)
    found = all_commits(repository)
    assert {commit_id.hex() for commit_id in found} >= set(acknowledged)
    assert len(found) <= len(acknowledged) + acknowledged_late(root)
    with repository.store.read() as txn:
        assert txn.count("commits") == txn.count("payloads") == len(found)
        tip = refs.head_commit(txn)
        newest = next(refs.read_reflog(txn), None)
        assert (newest is None) == (tip is None)
        if newest is not None:
            assert tip in [target for _, target in newest.moves]
        for commit_id in found:
            history.read_payload(txn, commit_id)
    fsck(repository)
    assert repository.store.live_sessions() == []


def acknowledged_late(root: Path) -> int:
    """How many commits may be there that nobody was told of: one for each kill."""
    return sum(1 for _ in (root / "kills").read_text()) if (root / "kills").exists() else 0


def batter(repository: Repository, kills: int) -> None:
    generator = random.Random(4)
    root = repository.root
    acknowledged: list[str] = []
    for number in range(kills):
        with (root / "kills").open("a") as file:
            file.write("x")
        if number % 2:
            acknowledged += killed_after(root, number, generator.uniform(0, 0.3))
        else:
            puts = generator.randrange(1, 60)
            acknowledged += killed_inside(root, number, puts if number % 4 else -puts)
        assert_is_sound(root, acknowledged)
    again = open_repository(root)
    done = commit(again, b"life goes on")
    assert files_of(again, done.commit_id) == {"model.pt": b"life goes on"}
    os.sync()
    fsck(again)


def test_kills_lose_nothing_acknowledged(disk_vault: Repository) -> None:
    batter(disk_vault, 8)


@pytest.mark.slow
def test_many_kills_lose_nothing_acknowledged(disk_vault: Repository) -> None:
    batter(disk_vault, 50)


@pytest.mark.parametrize("puts", range(1, 26, 6))
def test_a_kill_inside_the_very_first_commit_leaves_an_empty_vault(disk_vault: Repository, puts: int) -> None:
    """One commit of this run puts some thirty values, in several transactions."""
    assert killed_inside(disk_vault.root, 1, puts) == []
    assert all_commits(open_repository(disk_vault.root)) == []
    assert_is_sound(disk_vault.root, [])
