"""Is an acknowledged transaction ever lost, or half a one kept, when the process is killed?"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from modelvault.store.environment import structure_problems
from modelvault.store.generations import current_generation
from modelvault.store.lmdb_store import LmdbStore
from tests.recovery import history
from tests.recovery.programs import start


def kill_while_it_writes(vault: Path, chance: random.Random, *options: object) -> int:
    """Let a writer run, kill it at a random moment, and return the last number it acknowledged (0: none)."""
    process = start("write", vault, *options)
    assert process.stdout is not None
    acknowledged = process.stdout.readline()
    time.sleep(chance.uniform(0.0, 0.25))
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read()
    process.stdout.close()
    assert process.wait(60) == -signal.SIGKILL
    # The kill may have cut the last line.
    lines = (acknowledged + rest).rpartition("\n")[0].split()
    return int(lines[-1]) if lines else 0


def check_after_a_kill(vault: Path, acknowledged: int) -> int:
    store = LmdbStore(vault)
    assert store.live_sessions() == []
    with store.read() as reading:
        number = history.check(reading)
    # The kill may have come between the commit and its acknowledgement.
    assert number in (acknowledged, acknowledged + 1)
    assert structure_problems(current_generation(vault) / "data.mdb") == []
    with store.write() as transaction:  # no lock is left behind
        assert history.append(transaction) == number + 1
    return number


def run_kills(vault: Path, kills: int, *options: object) -> None:
    LmdbStore.create(vault)
    chance = random.Random(kills)
    for _ in range(kills):
        check_after_a_kill(vault, kill_while_it_writes(vault, chance, *options))


@pytest.mark.parametrize("options", [(), ("--compact", 3)], ids=["writing", "writing and compacting"])
def test_a_killed_writer_loses_nothing(tmp_path: Path, options: tuple[object, ...]) -> None:
    run_kills(tmp_path / ".modelvault", 6, *options)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--compact", 2)], ids=["writing", "writing and compacting"])
def test_a_writer_killed_many_times_loses_nothing(tmp_path: Path, options: tuple[object, ...]) -> None:
    run_kills(tmp_path / ".modelvault", 60, *options)


def test_a_compaction_killed_at_any_step_changes_nothing(tmp_path: Path) -> None:
    vault = tmp_path / ".modelvault"
    store = LmdbStore.create(vault)
    for step in range(1, 100):
        with store.write() as transaction:
            number = history.append(transaction)
        process = start("die", step, "compact", vault)
        process.communicate(timeout=60)
        with store.read() as reading:
            assert history.check(reading) == number
        check_after_a_kill(vault, number)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    else:
        pytest.fail("the compaction never came to its end")
    assert step > 10, "the steps were not counted"
    # What the killed ones left is gone.
    assert sorted(entry.name for entry in vault.iterdir()) == [
        "current",
        current_generation(vault).name,
        "lock",
        "sessions",
        "writer",
    ]


def test_a_vault_whose_creation_was_killed_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    for step in range(1, 100):
        vault = tmp_path / str(step) / ".modelvault"
        vault.parent.mkdir()
        process = start("die", step, "create", vault)
        process.communicate(timeout=60)
        if vault.exists():
            store = LmdbStore(vault)
        else:
            store = LmdbStore.create(vault)
            assert list(vault.parent.iterdir()) == [vault]  # what the killed one left is gone
        with store.write() as transaction:
            assert history.append(transaction) == 1
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    else:
        pytest.fail("the creation never came to its end")
    assert step > 5, "the steps were not counted"
