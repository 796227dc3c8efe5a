"""Does `gc` say what it does, and refuse what it must?"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from modelvault.ids import CommitId
from modelvault.repository.repository import open_repository
from modelvault.store import free_pages
from tests.repository.garbage import entries, forget
from tests.repository.networks import Run

from .conftest import Cli, environment, spawn

FIELDS = {
    "schema": str,
    "dry_run": bool,
    "grace_seconds": float,
    "commits": int,
    "files": int,
    "tensors": int,
    "recoded": int,
    "freed_bytes": int,
    "disk_bytes": int,
    "reclaimable_bytes": int,
}


def give_up(cli: Cli, *, days_ago: float = 0, leaning: bool = False) -> list[str]:
    """Commit four epochs of one run, or of several, and forget the first three."""
    run = Run({"w": 40_000})
    made = []
    for n in range(4):
        made.append(cli.commit(f"epoch {n}", (run if leaning else Run({"w": 40_000 + n}, seed=n)).file()))
        run.train()
    forget(open_repository(cli.root), [CommitId(bytes.fromhex(name)) for name in made[:3]], days_ago=days_ago)
    return made


def test_it_frees_and_says_so(cli: Cli) -> None:
    *_, last = give_up(cli)
    out = cli.ok("gc", "--grace", "0s")
    assert re.match(r"freed \d.* [KM]i?B: 0 commits, 3 files, 3 tensors; 0 tensors coded anew\n", out), out
    assert re.search(r"\ngave back \d.* [KM]i?B of disk\n", out), out
    assert "freed 0 B: 0 commits, 0 files, 0 tensors; 0 tensors coded anew" in cli.ok("gc", "--grace", "0s")
    assert "0 problems" in cli.ok("show", last) or last[:8] in cli.ok("show", last)
    cli.ok("checkout", last, "-o", "back.pt")
    assert (cli.root / "back.pt").read_bytes() == Run({"w": 40_003}, seed=3).file()


def test_a_commit_hints_when_much_could_go(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_pages, "_fallocate", lambda: None)  # a file system that takes no holes
    for seed in range(9):
        last = cli("commit", cli.write("model.pt", Run({"w": 60_000}, seed=seed).file()), "-m", f"run {seed}")
        assert "gc" not in last.err
    cli.ok("forget", "--keep-last", "1")
    cli.write("model.pt", b"small")
    said = cli("commit", "model.pt", "-m", "small", "--json")
    assert "modelvault gc" in said.err and "forgotten" in said.err
    assert "gc" not in said.out
    cli.ok("gc", "--grace", "0s")
    assert "gc --compact" in cli("commit", "model.pt", "-m", "again").err
    cli.ok("gc", "--grace", "0s", "--compact")
    assert "gc" not in cli("commit", "model.pt", "-m", "and again").err


def test_a_dry_run_changes_nothing_and_foretells(cli: Cli) -> None:
    give_up(cli, leaning=True)
    repository = open_repository(cli.root)
    before = entries(repository)
    foretold = cli.json("gc", "-n", "--grace", "0s", "--compact")
    assert "would free" in cli.ok("gc", "--dry-run", "--grace", "0s", "--compact")
    assert "would give back" in cli.ok("gc", "-n", "--grace", "0s", "--compact")
    assert entries(repository) == before
    done = cli.json("gc", "--grace", "0s", "--compact")
    assert foretold["dry_run"] is True and done["dry_run"] is False
    assert done["files"] == foretold["files"] == 3
    assert done["recoded"] == foretold["recoded"]
    assert foretold["freed_bytes"] == pytest.approx(done["freed_bytes"], rel=0.01)
    assert done["reclaimable_bytes"] > 0


def test_the_schema(cli: Cli) -> None:
    found = cli.json("gc")
    assert {name: type(value) for name, value in found.items()} == FIELDS
    assert found["schema"] == "modelvault.gc/1"
    assert found["grace_seconds"] == 14 * 86_400


def test_an_empty_vault_has_nothing_to_free(cli: Cli) -> None:
    before = entries(open_repository(cli.root))
    assert cli.ok("gc").startswith("freed 0 B: 0 commits")
    assert cli.ok("gc", "-n").startswith("would free 0 B: 0 commits")
    cli.ok("gc", "--compact")
    assert entries(open_repository(cli.root)) == before


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("90s", 90), ("5m", 300), ("2h", 7200), ("14d", 1_209_600), ("1w", 604_800), ("1.5h", 5400)],
)
def test_forms_of_the_grace(cli: Cli, text: str, seconds: float) -> None:
    assert cli.json("gc", "-n", "--grace", text)["grace_seconds"] == seconds


@pytest.mark.parametrize(
    "text", ["", "14", "d", "-1d", "1y", "1 d", "1e3s", "nan", "1.d", "٣d", "0s\n", "9" * 400 + "d"]
)
def test_what_is_no_grace_is_a_usage_error(cli: Cli, text: str) -> None:
    assert "--grace" in cli.fails(2, "gc", f"--grace={text}")


def test_the_grace_decides(cli: Cli) -> None:
    give_up(cli, days_ago=3)
    assert cli.json("gc", "--grace", "4d")["files"] == 0
    assert cli.json("gc")["files"] == 0
    assert cli.json("gc", "--grace", "2d")["files"] == 3


def test_a_copy_opens_and_is_the_same(cli: Cli, tmp_path: Path) -> None:
    *_, last = give_up(cli)
    target = tmp_path / "deep" / "copy"
    assert f"compacted copy to {target}" in cli.ok("gc", "--grace", "0s", "--compact", "--to", str(target))
    assert cli.ok("-C", str(target), "log", "--json") == cli.ok("log", "--json")
    cli.ok("-C", str(target), "checkout", last)
    assert (target / "model.pt").read_bytes() == (cli.root / "model.pt").read_bytes()


def test_a_copy_never_goes_over_a_vault(cli: Cli, tmp_path: Path) -> None:
    give_up(cli)
    before = entries(open_repository(cli.root))
    other = tmp_path / "other"
    cli.ok("init", str(other))
    there = entries(open_repository(other))
    for target in (other, cli.root):
        assert "already" in cli.fails(1, "gc", "--grace", "0s", "--compact", "--to", str(target))
    (tmp_path / "file").write_bytes(b"precious")
    cli.fails(1, "gc", "--grace", "0s", "--compact", "--to", str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == b"precious"
    assert entries(open_repository(other)) == there
    assert entries(open_repository(cli.root)) == before


def test_a_dry_run_writes_no_copy(cli: Cli, tmp_path: Path) -> None:
    assert "would write" in cli.ok("gc", "-n", "--compact", "--to", str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()


def test_to_without_compact_is_a_usage_error(cli: Cli, tmp_path: Path) -> None:
    assert "--compact" in cli.fails(2, "gc", "--to", str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()


def test_damage_is_said_with_its_own_code(cli: Cli) -> None:
    give_up(cli)
    repository = open_repository(cli.root)
    with repository.store.write() as txn:
        for key, _ in list(txn.scan("recipes")):
            txn.delete("recipes", key)
    before = entries(repository)
    assert "missing" in cli.fails(14, "gc", "--grace", "0s")
    assert entries(repository) == before


@pytest.mark.parametrize("words", [["-n"], ["-n", "--compact"], []], ids=" ".join)
def test_it_is_light_where_nothing_is_coded_anew(cli: Cli, words: list[str]) -> None:
    give_up(cli)
    program = (
        "import sys\nfrom modelvault.cli import main\n"
        f"assert main({['gc', '--grace', '0s', *words]!r}) == 0\n"
        "print(sorted({'numpy', 'torch'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=cli.root, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_outside_a_vault(tmp_path: Path) -> None:
    assert spawn(tmp_path, "gc").returncode == 10
