"""Do the lines of a split report add up to the whole, whatever it is split by?"""

from __future__ import annotations

import itertools

import pytest

from tests.repository.networks import Run

from .conftest import Cli

SPLITS = ("commit", "part", "branch", "codec", "tensor")


@pytest.fixture
def history(cli: Cli) -> Cli:
    """Six epochs of weights and momentum, two of them on a second branch."""
    run = Run({"w": 60_000, "optimizer.state.0.momentum_buffer": 30_000, "bias": 10})
    for number, data in enumerate(itertools.islice(run.epochs(6), 6)):
        if number == 4:
            cli.ok("switch", "-c", "side")
        cli.commit(f"epoch {number}", data)
    return cli


@pytest.mark.parametrize("by", SPLITS)
def test_lines_add_up(history: Cli, by: str) -> None:
    found = history.json("report", "--by", by)
    assert found["by"] == by
    assert sum(line["stored_bytes"] for line in found["lines"]) == found["stored_bytes"]
    assert all(line["stored_bytes"] > 0 for line in found["lines"])


def test_commits_carry_their_own_files(history: Cli) -> None:
    found = history.json("report", "--by", "commit")
    *commits, vault = found["lines"]
    assert [line["name"].split("  ")[1] for line in commits] == [f"epoch {number}" for number in range(6)]
    assert sum(line["raw_bytes"] for line in commits) == found["raw_bytes"]
    assert vault["name"] == "(vault)"


def test_parts_and_branches_are_told_apart(history: Cli) -> None:
    parts = {line["name"] for line in history.json("report", "--by", "part")["lines"]}
    assert {"weights", "optimizer"} <= parts
    branches = {line["name"] for line in history.json("report", "--by", "branch")["lines"]}
    assert branches == {"side", "(vault)"}  # the current branch leads to all of them
    history.ok("switch", "main")
    branches = {line["name"] for line in history.json("report", "--by", "branch")["lines"]}
    assert branches == {"main", "side", "(vault)"}


def test_codecs_are_named(history: Cli) -> None:
    names = {line["name"] for line in history.json("report", "--by", "codec")["lines"]}
    assert {"levels-rans", "residual-rans", "(records)"} <= names


def test_an_unknown_split_is_a_usage_error(cli: Cli) -> None:
    done = cli("report", "--by", "colour")
    assert done.code == 2
