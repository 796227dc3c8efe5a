"""Does the reflog show every move, and does undo take back exactly the last one?"""

from __future__ import annotations

import re

from .conftest import Cli


def log_of(cli: Cli, *words: str) -> list[tuple[str | None, str, dict[str, str | None]]]:
    """Return (selector, operation, {ref: target}) of each entry."""
    entries = cli.json("reflog", *words)["entries"]
    return [
        (entry["selector"], entry["operation"], {move["ref"]: move["target"] for move in entry["moves"]})
        for entry in entries
    ]


def test_moves_of_head_are_numbered_as_revisions_are(cli: Cli) -> None:
    assert cli.ok("reflog") == ""
    first, second = cli.commit("one"), cli.commit("two")
    cli.ok("checkout", "HEAD~1")
    found = log_of(cli)
    assert [(selector, moves["HEAD"]) for selector, _, moves in found] == [
        ("HEAD@{0}", first),
        ("HEAD@{1}", second),
        ("HEAD@{2}", first),
    ]
    for selector, _, moves in found:
        assert selector is not None
        assert cli.json("show", selector)["id"] == moves["HEAD"]
    lines = cli.ok("reflog").splitlines()
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}"
    assert re.fullmatch(rf"HEAD@\{{0\}}  {first[:8]}  {when}  checkout {first[:8]}", lines[0])
    assert re.fullmatch(rf"HEAD@\{{1\}}  {second[:8]}  {when}  commit", lines[1])
    assert cli.ok("reflog", "@", "-n", "2").splitlines() == lines[:2]
    assert cli.ok("reflog", "-n", "0") == ""


def test_moves_of_one_ref(cli: Cli) -> None:
    first = cli.commit("one", None, "--tag", "best")
    second = cli.commit("two")
    cli.ok("tag", "best", "--force")
    assert [(s, m["tags/best"]) for s, _, m in log_of(cli, "best")] == [("best@{0}", second), ("best@{1}", first)]
    assert [m["heads/main"] for _, _, m in log_of(cli, "main")] == [second, first]
    assert cli.json("reflog", "best")["ref"] == "tags/best"


def test_every_operation(cli: Cli) -> None:
    first = cli.commit("one")
    cli.ok("branch", "trial")
    assert log_of(cli, "--all") == [
        (None, "branch trial", {"heads/trial": first}),
        (None, "commit", {"heads/main": first, "HEAD": first}),
    ]
    assert f"branch trial  heads/trial {first[:8]}\n" in cli.ok("reflog", "--all")
    assert "leave out REF" in cli.fails(2, "reflog", "--all", "main")


def test_a_deleted_branch_is_listed_and_can_be_brought_back(cli: Cli) -> None:
    first = cli.commit("one")
    cli.ok("branch", "trial")
    cli.ok("branch", "-d", "trial")
    assert cli.ok("reflog", "trial").splitlines()[0].startswith("trial@{0}  nothing  ")
    assert "did not exist then" in cli.fails(13, "show", "trial@{0}")
    assert cli.json("branch", "trial", "trial@{1}")["id"] == first


def test_a_ref_that_never_was(cli: Cli) -> None:
    cli.commit("one")
    assert "never was" in cli.fails(13, "reflog", "nosuch")
