"""Is every topic shown, and kept in one place?"""

from __future__ import annotations

from pathlib import Path

import pytest

from modelvault.cli.commands import COMMANDS
from modelvault.cli.topics import TOPICS, markdown

from .terminal import done, run

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


@pytest.mark.parametrize("name", TOPICS)
def test_a_topic_is_shown_and_documented(name: str) -> None:
    shown = done("help", name)
    assert shown.startswith(TOPICS[name].title + "\n")
    assert "`" not in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert markdown(TOPICS[name]) in PAGE.read_text()


def test_help_lists_verbs_and_topics() -> None:
    shown = done("help")
    for name in (*COMMANDS, *TOPICS):
        assert f"  {name} " in shown
    assert not set(TOPICS) & set(COMMANDS)


def test_a_verb_has_its_help_and_anything_else_is_an_error() -> None:
    assert "--exit-code" in done("help", "diff")
    said = run("help", "nonsense")
    assert (said.code, said.out) == (2, "")
