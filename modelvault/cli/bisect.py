"""`bisect`: the first bad commit, found by halving."""

from __future__ import annotations

from typing import Annotated

import typer

from modelvault.cli import render
from modelvault.cli.options import Json
from modelvault.cli.vault import here
from modelvault.errors import UsageError
from modelvault.ids import CommitId
from modelvault.objects.commit import Commit
from modelvault.repository import bisect as search
from modelvault.repository import history
from modelvault.repository.revisions import resolve
from modelvault.repository.selection import Condition


def bisect(
    good: Annotated[str, typer.Argument(metavar="GOOD", help="A commit that is good.")],
    bad: Annotated[str, typer.Argument(metavar="BAD", help="One that is bad and descends from it.")],
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CMD", help="After --: tests the file, or the directory of files, at {}.", show_default=False
        ),
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", metavar="FILE", help="Only this file of each commit.", show_default=False)
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", metavar="CONDITION", help="In place of CMD: good is where it holds: 'val_acc>=0.9'."),
    ] = None,
    json: Json = False,
) -> None:
    """Find the first commit that is bad: where CMD fails, or a metric falls. About log2 of all are tested.

    Each is restored to a temporary place, and CMD gets its path in place of {}, or as its last word. Exit code 0 means
    good, 125 skips the commit, 1 to 127 mean bad; anything above stops the search. What CMD prints goes to stderr.
    Commits that are forgotten, or have no such file or metric, are skipped. Exits with 1 if skipped ones are in doubt.
    """
    if (metric is None) == (not command):
        raise UsageError("either a command or --metric is wanted", hint="bisect GOOD BAD -- python check.py {}")
    repository = here()
    with repository.store.read() as txn:
        ends = [resolve(txn, text, repository.config) for text in (good, bad)]
        for end in ends:
            if end.note:
                render.note(end.note)

    def told(commit_id: CommitId, commit: Commit, verdict: search.Verdict) -> None:
        if not json:
            render.data(f"{verdict:<7}  {_line(commit_id, commit)}")

    def _line(commit_id: CommitId, commit: Commit) -> str:
        with repository.store.read() as txn:
            return f"{history.shorten(txn, commit_id)}  {render.one_line(commit.subject)}"

    if metric is not None:
        judge = search.by_metric(Condition.parse(metric))
    else:
        judge = search.by_files(repository, (file,) if file else (), search.command(command or []))
    found = search.bisect(repository, ends[0].commit_id, ends[1].commit_id, judge, told)
    if json:
        render.json_object(
            {
                "schema": "modelvault.bisect/1",
                "good": ends[0].commit_id.hex(),
                "bad": ends[1].commit_id.hex(),
                "first_bad": found.first_bad.hex() if found.first_bad else None,
                "suspects": [one.hex() for one in found.suspects],
                "tested": [{"id": one.hex(), "verdict": verdict} for one, verdict in found.tested],
            }
        )
    else:
        with repository.store.read() as txn:
            commits = [(one, history.read_commit(txn, one)) for one in found.suspects]
        if found.first_bad is None:
            render.data("one of these is the first bad one; the others could not be tested:")
        render.lines(
            f"{'first bad' if found.first_bad else ' '}  {_line(commit_id, commit)}" for commit_id, commit in commits
        )
    if found.first_bad is None:
        raise typer.Exit(1)
