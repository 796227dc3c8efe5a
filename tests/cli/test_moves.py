"""Does the reflog show every move, and does undo take back exactly the last one?"""

from __future__ import annotations

import re

import pytest

from modelvault import wire
from modelvault.repository.repository import open_repository

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


def refs_of(cli: Cli) -> dict[str, object]:
    """Return everything that names point at."""
    status = cli.json("status")
    branches, tags = cli.json("branch")["branches"], cli.json("tag")["tags"]
    return {"head": (status["branch"], status["detached"], status["head"]), "branches": branches, "tags": tags}


def test_nothing_to_undo(cli: Cli) -> None:
    assert "nothing to undo" in cli.fails(1, "undo")


def test_undoing_commits_one_operation_at_a_time(cli: Cli) -> None:
    """Only the last operation is taken back: a second undo is a redo."""
    first = cli.commit("one")
    second = cli.commit("two", None, "--tag", "best")
    found = cli.json("undo")
    assert (found["undone"], found["operation"]) == ("commit", "undo: commit")
    assert found["moves"] == [
        {"ref": "heads/main", "before": second, "after": first},
        {"ref": "tags/best", "before": second, "after": None},
        {"ref": "HEAD", "before": second, "after": first},
    ]
    assert (found["branch"], found["detached"], found["head"]) == ("main", False, first)
    assert cli.json("show", "HEAD@{1}")["id"] == cli.json("show", second)["id"] == second
    again = cli.json("undo")
    assert (again["undone"], again["operation"], again["head"]) == ("undo: commit", "redo: commit", second)
    assert cli.json("show", "best")["id"] == second
    assert cli.json("undo")["operation"] == "undo: commit"


def test_what_undo_says(cli: Cli) -> None:
    first, second = cli.commit("one"), cli.commit("two")
    done = cli("undo")
    assert re.fullmatch(
        rf"undo: commit \(of .*\)\n  branch main  {second[:8]}  ->  {first[:8]}\n"
        rf"  HEAD         {second[:8]}  ->  {first[:8]}\n",
        done.out,
    )
    assert done.err == f"modelvault: HEAD is on branch main, at {first[:8]} one; files on disk were not touched\n"
    assert (cli.root / "model.pt").read_bytes() == b"two"


def test_undoing_the_first_commit(cli: Cli) -> None:
    first = cli.commit("one")
    assert "no commits yet" in cli("undo").err
    assert cli.ok("status") == "on branch main, no commits yet\n"
    assert cli.json("undo")["head"] == first


@pytest.mark.parametrize(
    "words",
    [
        ("tag", "new"), ("tag", "-f", "best"), ("tag", "-d", "best"), ("branch", "new"),
        ("branch", "-d", "-f", "trial"),
        ("branch", "-f", "trial"), ("switch", "trial"), ("switch", "-c", "new"), ("checkout", "HEAD~1"),
        ("checkout", "trial"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_every_operation_is_taken_back_and_done_again(cli: Cli, words: tuple[str, ...]) -> None:
    cli.commit("zero")
    cli.commit("one", None, "--tag", "best")
    cli.ok("switch", "-c", "trial")
    cli.commit("two")
    cli.ok("checkout", "main")
    cli.commit("three")
    before = refs_of(cli)
    cli.ok(*words)
    after = refs_of(cli)
    assert after != before
    for expected in (before, after, before):
        cli.ok("undo")
        assert refs_of(cli) == expected


def test_undoing_a_commit_made_from_a_detached_head(cli: Cli) -> None:
    cli.commit("one")
    cli.commit("two")
    cli.ok("checkout", "HEAD~1", "--force")
    before = refs_of(cli)
    cli.commit("three")
    cli.ok("undo")
    assert refs_of(cli) == before
    assert refs_of(cli)["head"] == ("main", True, cli.json("show", "main~1")["id"])


def test_undo_when_the_reflog_was_cut_short(cli: Cli) -> None:
    """What the reflog does not know any more must not be taken for what never was."""
    cli.commit("one")
    cli.ok("tag", "other")
    cli.ok("tag", "-d", "other")
    with open_repository(cli.root).store.write(timeout=5) as txn:
        for number in (1, 2):
            txn.delete("reflog", wire.sortable(number))
    assert "no longer says where tag other was" in cli.fails(1, "undo")
