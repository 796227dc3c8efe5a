"""Is a vault complete whenever a gc is killed, and does everybody else go on while one runs?"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelvault.ids import CommitId
from modelvault.objects.payload import Payload
from modelvault.objects.recipe import PARTS
from modelvault.repository.gc import collect_garbage
from modelvault.repository.repository import Repository, init_repository, open_repository
from tests.repository.garbage import assert_restores, assert_tidy, entries, forget, move_ref
from tests.repository.networks import Run, torch_file
from tests.repository.vaults import all_commits, commit, files_of

PROJECT = Path(__file__).parents[2]
PATIENCE = 120.0
STEPS = ("coding anew", "copying packs")


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.recovery.collector", *map(str, arguments)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(autouse=True)
def _author(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELVAULT_AUTHOR", "Ada <ada@example.org>")


class Work:
    """A vault that always has something to collect: epochs to be coded anew, and packs that are partly dead."""

    def __init__(self, root: Path) -> None:
        self.repository: Repository = init_repository(root)
        self.live: dict[CommitId, dict[str, bytes]] = {}
        self._run = Run({f"layer{n}.weight": 20_000 for n in range(6)})

    def add(self, chance: random.Random) -> None:
        """Commit a few more, and give up about half of everything."""
        for _ in range(3):
            self._run.train()
            files = {"model.pt": self._run.file()}
            self.live[commit(self.repository, files).commit_id] = files
            names = chance.sample(sorted(self._run.weights), 2)
            some = {"part.pt": torch_file({name: self._run.weights[name] for name in names})}
            self.live[commit(self.repository, some).commit_id] = some
        gone = [commit_id for commit_id in self.live if chance.random() < 0.5]
        forget(self.repository, gone)
        for commit_id in gone:
            del self.live[commit_id]


def kill(root: Path, delay: float, *options: str) -> bool:
    """Kill a gc that long after it began; say whether it came to its end before."""
    process = start("gc", root, *options)
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode == 0


def run_kills(root: Path, kills: int) -> None:
    chance, work = random.Random(kills), Work(root)
    ended = 0
    for number in range(kills):
        work.add(chance)
        ended += kill(root, chance.uniform(0, 0.2), *(["--compact"] if number % 2 else []))
        again = open_repository(root)
        assert_restores(again, work.live)
        assert again.store.live_sessions() == []
        if number % 3 == 2:
            collect_garbage(again, grace=0, compact=True)
            assert_restores(again, work.live)
            assert_tidy(again)
            left = entries(again)
            assert collect_garbage(again, grace=0).freed_bytes == 0
            assert entries(again) == left
    assert ended < kills, "nothing was killed"


def test_a_killed_gc_leaves_a_complete_vault(tmp_path: Path) -> None:
    run_kills(tmp_path, 9)


@pytest.mark.slow
def test_a_gc_killed_many_times_leaves_a_complete_vault(tmp_path: Path) -> None:
    run_kills(tmp_path, 50)


def test_a_killed_forget_forgets_all_or_nothing(tmp_path: Path) -> None:
    repository, run, live = init_repository(tmp_path), Run({"layer.weight": 17_000}), {}
    for data in run.epochs(12):
        live[commit(repository, data).commit_id] = {"model.pt": data}
    chance, seen = random.Random(1), set[int]()
    for _ in range(12):
        process = start("forget", tmp_path)
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.communicate(timeout=PATIENCE)
        again = open_repository(tmp_path)
        kept = sum(is_kept(again, commit_id) for commit_id in live)
        assert kept in (2, 12)
        seen.add(kept)
        assert_restores(again, live)
    assert len(seen) == 2, "every kill fell on the same side"


class StopError(Exception):
    """Where a gc ends as if it had been killed between two transactions."""


@pytest.mark.parametrize("what", STEPS)
def test_a_gc_that_ends_between_two_steps_is_finished_by_the_next(tmp_path: Path, what: str) -> None:
    chance, work = random.Random(1), Work(tmp_path)
    for _ in range(3):
        work.add(chance)
    stopped = False

    def stop(step: str, done: int, total: int) -> None:
        nonlocal stopped
        if step == what:
            stopped = True
            raise StopError

    with pytest.raises(StopError):
        collect_garbage(work.repository, grace=0, progress=stop)
    assert stopped
    assert_restores(work.repository, work.live)
    collect_garbage(work.repository, grace=0)
    assert_restores(work.repository, work.live)
    assert_tidy(work.repository)


def run_beside(root: Path, collections: int) -> None:
    """Run gcs beside a committer and a reader."""
    repository = init_repository(root)
    kept = commit(repository, {"kept.pt": Run({"w": 20_000, "v": 17_000}, seed=8).file()})
    move_ref(repository, "tags/kept", kept.commit_id)
    expected = files_of(repository, kept.commit_id)
    committers, reader = [start("commit", root, seed, collections * 2) for seed in (1, 2)], start("read", root)
    done = 0
    while done < collections or any(process.poll() is None for process in committers):
        collect_garbage(repository, grace=0, compact=done % 4 == 3)
        done += 1
    acknowledged = [line for process in committers for line in process.communicate(timeout=PATIENCE)[0].split()]
    count = reader.communicate("enough\n", timeout=PATIENCE)[0]
    assert [process.returncode for process in (*committers, reader)] == [0, 0, 0]
    assert int(count) > 0
    assert len(acknowledged) == collections * 4
    found = all_commits(repository)
    assert {commit_id.hex() for commit_id in found} == {*acknowledged, kept.commit_id.hex()}
    collect_garbage(repository, grace=0)
    live = {commit_id: files_of(repository, commit_id) for commit_id in found if is_kept(repository, commit_id)}
    assert live[kept.commit_id] == expected
    assert_restores(repository, live)
    assert_tidy(repository)


def is_kept(repository: Repository, commit_id: CommitId) -> bool:
    with repository.store.read() as txn:
        payload = Payload.from_bytes(txn.get("payloads", commit_id) or b"", commit_id)
    return payload.forgotten == (0,) * len(PARTS)


def test_commits_and_readers_go_on_beside_gcs(tmp_path: Path) -> None:
    run_beside(tmp_path, 10)


@pytest.mark.slow
def test_commits_and_readers_go_on_beside_many_gcs(tmp_path: Path) -> None:
    run_beside(tmp_path, 40)


def test_gcs_beside_one_another_do_no_harm(tmp_path: Path) -> None:
    chance, work = random.Random(3), Work(tmp_path)
    for _ in range(3):
        work.add(chance)
        running = [start("gc", tmp_path) for _ in range(3)]
        for process in running:
            process.communicate(timeout=PATIENCE)
        assert [process.returncode for process in running] == [0, 0, 0]
        assert_restores(work.repository, work.live)
    collect_garbage(work.repository, grace=0)
    assert_restores(work.repository, work.live)
    assert_tidy(work.repository)
