"""Do the quick way and Typer's understand a line of `log` alike?"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.cli import app, history
from modelvault.cli.quick import parse_log
from modelvault.errors import UsageError

DEFAULTS: dict[str, Any] = {
    "revision": None,
    "oneline": False,
    "graph": False,
    "all_": False,
    "limit": None,
    "json": False,
    "stat": False,
    "selection": None,
}

LINES = [
    "log",
    "log HEAD",
    "log --oneline",
    "log --graph --all",
    "log --json",
    "log -n 3",
    "log -n3",
    "log -n 0",
    "log -n 1 -n 2",
    "log --oneline --oneline",
    "log HEAD~3..main --oneline -n 5",
    "log -n 5 main --json",
    "log --all main",
    "log --stat --oneline",
    "log --oneline -n 12 epoch-40",
]
LEFT = ["log --help", "log -h", "log a b", "log -n", "log -n x", "log -n -1", "log --one", "log -- main", "log -x"]


def by_typer(words: list[str], patch: pytest.MonkeyPatch) -> dict[str, Any] | None:
    """Return what Typer calls the command with, None if it refuses the line."""
    called: list[dict[str, Any]] = []

    def note(revision: str | None, **options: Any) -> None:
        called.append({"revision": revision, **options})

    patch.setattr(history, "show_log", note)
    try:
        app.run(words)
    except UsageError:
        return None
    return called[0] if called else None


@pytest.mark.parametrize("line", LINES)
def test_plain_lines_mean_the_same(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = parse_log(line.split())
    assert quick is not None
    assert {**DEFAULTS, **quick} == by_typer(line.split(), monkeypatch)


@pytest.mark.parametrize("line", [*LEFT, "", "status", "-C x log", "logs"])
def test_other_lines_are_left_to_typer(line: str) -> None:
    assert parse_log(line.split()) is None


WORDS = st.sampled_from(
    ["--oneline", "--graph", "--all", "--json", "-n", "3", "-n7", "-n=2", "main", "HEAD~1", "--", "-", "", "--jso", "0"]
)


@given(st.lists(WORDS, max_size=5))
def test_what_is_understood_at_all_is_understood_alike(words: list[str]) -> None:
    quick = parse_log(["log", *words])
    if quick is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        assert {**DEFAULTS, **quick} == by_typer(["log", *words], patch)
