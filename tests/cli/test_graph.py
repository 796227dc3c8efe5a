"""Does `log --graph` draw how commits descend from one another?"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.cli.graph import draw

from .conftest import Cli

CASES: dict[str, tuple[list[tuple[str, list[str]]], str]] = {
    "nothing": ([], ""),
    "a line": ([("b", ["a"]), ("a", [])], "* b\n* a"),
    "two branches": ([("c", ["a"]), ("b", ["a"]), ("a", [])], "* c\n| * b\n|/\n* a"),
    "three branches": (
        [("d", ["a"]), ("c", ["a"]), ("b", ["a"]), ("a", [])],
        "* d\n| * c\n| | * b\n|_|/\n|/\n* a",
    ),
    "a merge": (
        [("m", ["b", "c"]), ("c", ["a"]), ("b", ["a"]), ("a", [])],
        "* m\n|\\\n| * c\n* | b\n|/\n* a",
    ),
    "a branch longer than the other": (
        [("d", ["b"]), ("c", ["a"]), ("b", ["a"]), ("a", [])],
        "* d\n| * c\n* | b\n|/\n* a",
    ),
}


def picture(nodes: Sequence[tuple[str, Sequence[str]]]) -> str:
    return "\n".join(f"{text} {node or ''}".rstrip() for text, node in draw(nodes))


@pytest.mark.parametrize("name", CASES)
def test_pictures(name: str) -> None:
    nodes, expected = CASES[name]
    assert picture(nodes) == expected


@st.composite
def histories(draw_: st.DrawFn) -> list[tuple[int, list[int]]]:
    """Commits numbered from the newest, each with older ones as parents."""
    count = draw_(st.integers(1, 12))
    return [
        (number, draw_(st.lists(st.integers(number + 1, count - 1), max_size=3, unique=True)))
        if number < count - 1
        else (number, [])
        for number in range(count)
    ]


@given(histories())
def test_every_commit_has_one_star_in_its_own_column(nodes: list[tuple[int, list[int]]]) -> None:
    lines = list(draw(nodes))
    assert [node for _, node in lines if node is not None] == [node for node, _ in nodes]
    for text, node in lines:
        assert text.count("*") == (node is not None)
        assert set(text) <= set("*|/\\_ ")
        assert text == text.rstrip()


def test_the_graph_of_a_vault(cli: Cli) -> None:
    base = cli.commit("base")
    cli.ok("switch", "-c", "trial")
    tried = cli.commit("tried")
    cli.ok("switch", "main")
    kept = cli.commit("kept")
    lines = cli.ok("log", "--graph", "--all", "--oneline").splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        f"* {kept[:8]} (HEAD -> main) kept",
        f"| * {tried[:8]} (trial) tried",
        "|/",
        f"* {base[:8]} base",
    ]
    text = cli.ok("log", "--graph")
    assert f"* commit {kept} (HEAD -> main)\n| Author: " in text
    assert cli.ok("log", "--graph", "--oneline", "-n", "1").count("\n") == 1
