"""Does forgetting let go of exactly what the rules do not keep, refuse what is forgotten, and can it be taken back?"""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelvault.errors import ForgottenError
from modelvault.objects.recipe import PARTS, Recipe
from modelvault.repository import history
from modelvault.repository.checkout import checkout
from modelvault.repository.repository import open_repository
from modelvault.repository.revisions import resolve
from tests.repository.networks import Run

from .conftest import Cli

BOTH = {"model.weight": 20_000, "optimizer.state.0.exp_avg": 20_000}
"""Elements of tensors with a part each, large enough to be stored alone."""


@pytest.fixture
def line(cli: Cli) -> list[str]:
    """Ten commits with a metric that is best in the middle, oldest first; number 2 is tagged."""
    accuracy = [0.1, 0.2, 0.3, 0.4, 0.9, 0.8, 0.7, float("nan"), 0.4, 0.5]
    ids = [cli.commit(f"epoch {n}", None, "--metric", f"acc={acc}") for n, acc in enumerate(accuracy)]
    cli.ok("tag", "v1", ids[2])
    return ids


def kept(cli: Cli, line: list[str], *words: str) -> dict[int, list[str]]:
    """Return number -> reasons of what these words would keep."""
    found = cli.json("forget", "-n", *words)
    numbers = {commit_id: number for number, commit_id in enumerate(line)}
    stays = {numbers[choice["id"]]: choice["reasons"] for choice in found["kept"]}
    goes = {numbers[choice["id"]] for choice in found["forgotten"]}
    assert goes.isdisjoint(stays)
    return stays


def forgotten(cli: Cli) -> set[str]:
    return {commit["subject"] for commit in cli.json("log", "--all")["commits"] if commit["forgotten"]}


ALWAYS = {9: ["tip of main"], 2: ["tag v1"]}


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (("--keep-last", "1"), {9: ["tip of main", "last 1"]}),
        (("--keep-last", "2"), {9: ["tip of main", "last 2"], 8: ["last 2"]}),
        (("--keep-every", "4"), {0: ["every 4"], 4: ["every 4"], 8: ["every 4"]}),
        (("--keep-best", "1:acc"), {4: ["best acc"]}),
        (("--keep-best", "2:acc"), {4: ["best 2 acc"], 5: ["best 2 acc"]}),
        (("--keep-tags",), {}),
        (
            ("--keep-last", "1", "--keep-every", "9", "--keep-best", "1:acc"),
            {0: ["every 9"], 9: ["tip of main", "last 1", "every 9"], 4: ["best acc"]},
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_rules(cli: Cli, line: list[str], words: tuple[str, ...], more: dict[int, list[str]]) -> None:
    """Rules add up, and tips and tagged commits stay whatever they say."""
    assert kept(cli, line, *words) == ALWAYS | more


def test_the_best_is_what_the_configuration_says(cli: Cli, line: list[str]) -> None:
    cli.ok("config", "metrics.acc", "min")
    assert kept(cli, line, "--keep-best", "1:acc") == ALWAYS | {0: ["best acc"]}


def test_of_equals_the_newest_is_best(cli: Cli) -> None:
    line = [cli.commit(f"epoch {n}", None, "--metric", "acc=1") for n in range(3)]
    cli.commit("tip")
    assert set(kept(cli, [*line, cli.json("show")["id"]], "--keep-best", "1:acc")) == {2, 3}


def test_a_metric_that_nobody_measured_keeps_nothing_from_being_forgotten(cli: Cli, line: list[str]) -> None:
    assert "has a metric 'ac'" in cli.fails(2, "forget", "--keep-best", "1:ac")
    assert forgotten(cli) == set()


def test_a_metric_that_is_never_a_number_keeps_nothing_either(cli: Cli) -> None:
    for n in range(3):
        cli.commit(f"epoch {n}", None, "--metric", "acc=nan")
    assert "has a metric 'acc'" in cli.fails(2, "forget", "--keep-best", "1:acc")


def test_a_vault_without_commits(cli: Cli) -> None:
    assert cli("forget", "--keep-last", "1") == (0, "", "modelvault: nothing to forget\n")
    assert cli("forget", "--undo") == (0, "", "modelvault: no commit is forgotten\n")


def test_rules_again_count_what_is_still_kept(cli: Cli, line: list[str]) -> None:
    """A second run of the same rules changes nothing, and places for --keep-every do not shift."""
    words = ("--keep-every", "4", "--keep-last", "2", "--keep-best", "2:acc")
    cli.ok("forget", *words)
    before = forgotten(cli)
    assert before == {f"epoch {n}" for n in (1, 3, 6, 7)}
    assert "nothing to forget" in cli("forget", *words).err
    assert forgotten(cli) == before
    line.append(cli.commit("epoch 10"))
    cli.ok("forget", "--keep-every", "4")
    assert forgotten(cli) == {f"epoch {n}" for n in (1, 3, 5, 6, 7, 9)}


def test_branches(cli: Cli, line: list[str]) -> None:
    """Rules look at the current branch, or at each one with --all; a detached HEAD is kept."""
    cli.ok("switch", "-c", "trial")
    other = [cli.commit(f"trial {n}") for n in range(3)]
    cli.ok("switch", "main")
    every = line + other
    assert set(kept(cli, every, "--keep-last", "1")) == {2, 9}
    assert cli.json("forget", "-n", "--keep-last", "1", "--all")["forgotten"][0]["subject"] == "trial 1"
    assert kept(cli, every, "--keep-last", "2", "--all")[8] == ["last 2"]
    assert kept(cli, every, "--keep-last", "2", "--all")[11] == ["last 2"]
    cli.ok("checkout", line[5], "--force")
    assert kept(cli, every, "--keep-last", "1")[5] == ["HEAD"]


def test_forgetting_by_name_takes_tips_and_tagged_ones(cli: Cli, line: list[str]) -> None:
    assert cli.ok("forget", "HEAD", "v1", "epoch-3", "-n").splitlines() == [
        f"goes  {line[9][:8]}  epoch 9",
        f"goes  {line[2][:8]}  epoch 2",
        f"goes  {line[3][:8]}  epoch 3",
    ]
    assert forgotten(cli) == set()
    done = cli("forget", "HEAD", "v1", "epoch-3")
    assert done.err.startswith("modelvault: forgot 3 of 3 commits; their bytes stay until the next gc")
    assert forgotten(cli) == {"epoch 9", "epoch 2", "epoch 3"}
    assert cli.json("reflog", "--all", "-n", "1")["entries"][0] | {"time": ""} == {
        "selector": None, "time": "", "operation": "forget 3 commits", "moves": [],
    }  # fmt: skip
    assert cli.ok("status").endswith("all files are as committed\n")
    again = cli("forget", "v1")
    assert (again.out, again.err) == (
        f"stays  {line[2][:8]}  epoch 2  it is forgotten already\n",
        "modelvault: nothing to forget\n",
    )


def test_a_dry_run_says_why(cli: Cli, line: list[str]) -> None:
    lines = cli.ok("forget", "-n", "--keep-last", "2").splitlines()
    assert lines[0] == f"stays  {line[9][:8]}  epoch 9  tip of main, last 2"
    assert lines[2] == f"stays  {line[2][:8]}  epoch 2  tag v1"
    assert lines[3] == f"goes   {line[7][:8]}  epoch 7"
    assert len(lines) == 10


@pytest.mark.parametrize(
    "words",
    [
        (), ("--keep-last", "0"), ("--keep-last", "1", "HEAD"), ("--all", "HEAD"), ("--part", "weights"),
        ("--part", "heads", "HEAD"), ("--keep-best", "acc"), ("--keep-best", "0:acc"), ("--keep-best", "x:acc"),
        ("--undo", "--keep-last", "1"), ("--undo", "--part", "weights"), ("--undo", "--all"), ("--all",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_says_nothing_or_two_things(cli: Cli, line: list[str], words: tuple[str, ...]) -> None:
    cli.fails(2, "forget", *words)
    assert forgotten(cli) == set()


def test_what_is_forgotten_is_not_checked_out(cli: Cli, line: list[str]) -> None:
    cli.ok("forget", "epoch-3")
    for words in ((), ("-o", "x"), ("-o", "-"), ("model.pt",)):
        error = cli.fails(1, "checkout", "epoch-3", *words)
        assert error.startswith(f"modelvault: {line[3][:8]} was forgotten on 20")
        assert error.endswith(f"(try: modelvault forget --undo {line[3][:8]})\n")
    repository = open_repository(cli.root)
    with repository.store.read() as txn, pytest.raises(ForgottenError):
        checkout(repository, resolve(txn, "epoch-3", repository.config), output=cli.root / "x")
    assert not (cli.root / "x").exists()
    cli.ok("checkout", "epoch-4", "-o", "x")


def test_a_damaged_payload_record_keeps_nothing_from_being_restored(cli: Cli, line: list[str]) -> None:
    with open_repository(cli.root).store.write(timeout=5) as txn:
        txn.put("payloads", bytes.fromhex(line[3]), b"damaged")
    cli.ok("checkout", line[3], "-o", "x")
    assert (cli.root / "x").read_bytes() == b"epoch 3"


def test_what_log_and_show_say(cli: Cli, line: list[str]) -> None:
    cli.ok("forget", "epoch-3")
    assert cli.ok("log", "--oneline", "-n", "1", "epoch-3").endswith("epoch 3  acc 0.4  forgotten\n")
    assert "Cost:   forgotten\n" in cli.ok("log", "epoch-3")
    assert "Kept:   forgotten on 20" in cli.ok("show", "epoch-3")
    assert set(cli.json("show", "epoch-3")["forgotten"]) == set(PARTS)
    assert cli.json("show", "epoch-4")["forgotten"] == {}


def test_taking_it_back(cli: Cli, line: list[str]) -> None:
    cli.ok("forget", "--keep-last", "1")
    assert cli.ok("forget", "--undo", "epoch-3") == f"keeps {line[3][:8]} epoch 3 again\n"
    assert cli.ok("checkout", "epoch-3", "-o", "x")
    assert len(forgotten(cli)) == 7
    assert len(cli.json("forget", "--undo", "-n")["kept_again"]) == 7
    assert len(cli.json("forget", "--undo")["kept_again"]) == 7
    assert forgotten(cli) == set()
    assert cli.json("reflog", "--all", "-n", "1")["entries"][0]["operation"] == "forget --undo 7 commits"
    assert "no commit is forgotten" in cli("forget", "--undo").err
    done = cli("forget", "--undo", "epoch-3")
    assert done.code == 1
    assert "it is not forgotten" in done.err


def test_undo_is_of_moves_only(cli: Cli, line: list[str]) -> None:
    """`undo` passes over what forget did: nothing moved there."""
    cli.ok("forget", "epoch-3")
    assert cli.json("undo")["undone"] == "tag v1"
    assert forgotten(cli) == {"epoch 3"}


def collect(cli: Cli, revision: str, parts: set[int]) -> None:
    """Do to a commit's files what a gc does: give up parts, or all."""
    repository = open_repository(cli.root)
    with repository.store.write(timeout=5) as txn:
        commit = history.read_commit(txn, resolve(txn, revision, repository.config).commit_id)
        for entry in commit.files:
            data = txn.get("recipes", entry.file_id)
            assert data is not None
            recipe = Recipe.from_bytes(data, entry.file_id)
            left = tuple(0 if part in parts else n for n, part in zip(recipe.tensors, recipe.parts, strict=True))
            if any(left):
                txn.put("recipes", entry.file_id, recipe._replace(tensors=left).to_bytes(entry.file_id))
            else:
                txn.delete("recipes", entry.file_id)


def fsck_problems(cli: Cli) -> list[dict[str, Any]]:
    done = cli("fsck", "--json")
    problems = json.loads(done.out)["problems"]
    assert isinstance(problems, list)
    assert done.code == (14 if problems else 0)
    return problems


@pytest.fixture
def epochs(cli: Cli) -> list[str]:
    """Three commits with weights and optimizer state."""
    run = Run(BOTH)
    return [cli.commit(f"epoch {n}", data) for n, data in enumerate(run.epochs(3))]


def test_a_part(cli: Cli, epochs: list[str]) -> None:
    assert "goes   " in cli.ok("forget", "--part", "optimizer", "--keep-last", "2", "-n")
    cli.ok("forget", "--part", "optimizer", "epoch-0")
    assert set(cli.json("show", "epoch-0")["forgotten"]) == {"optimizer"}
    assert cli.ok("log", "--oneline", "epoch-0").endswith("  optimizer forgotten\n")
    error = cli.fails(1, "checkout", "epoch-0", "-o", "x")
    assert f"model.pt of {epochs[0][:8]} cannot be rebuilt: its optimizer part was forgotten on" in error
    assert cli.json("forget", "epoch-0")["forgotten"][0]["parts"] == ["weights", "other"]
    assert cli.ok("log", "--oneline", "epoch-0").endswith("  forgotten\n")


def test_a_part_that_no_file_has_is_not_forgotten(cli: Cli) -> None:
    cli.commit("plain", Run({"weight": 20_000}).file())
    assert "it has no optimizer part" in cli.ok("forget", "--part", "optimizer", "HEAD")
    cli.ok("checkout", "HEAD", "-o", "x")


def test_files_without_the_forgotten_part_are_still_checked_out(cli: Cli) -> None:
    both = Run(BOTH).file()
    cli.write("both.pt", both)
    cli.write("plain.txt", b"notes")
    cli.ok("commit", "both.pt", "plain.txt", "-m", "one")
    cli.ok("forget", "--part", "optimizer", "HEAD")
    cli.ok("checkout", "HEAD", "plain.txt", "-o", "x")
    cli.fails(1, "checkout", "HEAD", "-o", "y/")


@pytest.mark.parametrize("parts", [{1}, {0, 1, 2}], ids=["optimizer", "all"])
def test_after_a_gc(cli: Cli, epochs: list[str], parts: set[int]) -> None:
    """What is gone is no damage where it is forgotten, cannot be brought back, and is stored afresh when committed."""
    words = [word for part in parts for word in ("--part", PARTS[part])] if len(parts) < 3 else []
    data = (cli.root / "model.pt").read_bytes()
    cli.commit("later", Run({"weight": 20_000}, seed=9).file())
    cli.ok("forget", "epoch-2", *words)
    collect(cli, "epoch-2", parts)
    assert fsck_problems(cli) == []
    done = cli("forget", "--undo", "epoch-2")
    assert done.code == 1 and "the bytes of model.pt are gone" in done.err
    assert cli("forget", "--undo").code == 0
    for command in (("log", "--stat"), ("show", "epoch-2"), ("show", "epoch-2", "--json"), ("report",)):
        cli.ok(*command)
    assert cli("ls", "epoch-2").code == (1 if len(parts) == 3 else 0)
    cli.write("model.pt", data)
    assert "in no commit" in cli.fails(16, "checkout", "later")
    cli.ok("checkout", "later", "--force")
    cli.ok("switch", "main")
    cli.commit("again", data)
    assert fsck_problems(cli) == []
    (cli.root / "model.pt").unlink()
    cli.ok("checkout", "again", "-o", "x")
    assert (cli.root / "x").read_bytes() == data
    assert cli.json("forget", "--undo", "epoch-2")["kept_again"][0]["subject"] == "epoch 2"
    cli.ok("checkout", "epoch-2", "-o", "y")


@pytest.mark.parametrize("parts", [{1}, {0, 1, 2}], ids=["optimizer", "all"])
def test_what_is_gone_and_not_forgotten_is_damage(cli: Cli, epochs: list[str], parts: set[int]) -> None:
    collect(cli, "epoch-1", parts)
    problems = fsck_problems(cli)
    assert len(problems) == 1
    assert ("given up" if len(parts) == 1 else "missing") in problems[0]["problem"]
    assert problems[0]["commits"] == [epochs[1]]


def test_a_file_that_another_commit_keeps_must_be_whole(cli: Cli, epochs: list[str]) -> None:
    cli.commit("epoch 2 again", (cli.root / "model.pt").read_bytes())
    cli.ok("forget", "epoch-2")
    assert cli.ok("checkout", "epoch-2-again", "-o", "x")
    collect(cli, "epoch-2", {1})
    assert len(fsck_problems(cli)) == 1
