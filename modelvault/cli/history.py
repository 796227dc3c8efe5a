"""`log`."""

from __future__ import annotations

from typing import Annotated

import typer

from modelvault.cli.commit_text import show_log
from modelvault.cli.options import Json


def log(
    revision: Annotated[
        str | None, typer.Argument(metavar="RANGE", help="A revision or A..B; HEAD if left out.", show_default=False)
    ] = None,
    oneline: Annotated[bool, typer.Option("--oneline", help="One line a commit.")] = False,
    graph: Annotated[bool, typer.Option("--graph", help="Draw how commits descend from one another.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Begin at every branch and tag.")] = False,
    limit: Annotated[
        int | None, typer.Option("-n", metavar="N", min=0, help="Show at most N commits.", show_default=False)
    ] = None,
    grep: Annotated[
        str | None,
        typer.Option("--grep", metavar="PATTERN", help="Only messages that match, a regular expression."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", metavar="CONDITION", help="Only where it holds: 'val_acc>=0.9', 'loss<2'; may be repeated."
        ),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option("--sort", metavar="KEY", help="By time, step, size, or a metric: the best first."),
    ] = None,
    stat: Annotated[bool, typer.Option("--stat", help="What each stored that its parent does not have.")] = False,
    json: Json = False,
) -> None:
    """Show commits, newest first: what each says, measured and cost."""
    selection = None
    if grep is not None or metric or sort is not None:
        from modelvault.repository.selection import Selection

        selection = Selection.parse(grep, metric or (), sort)
    show_log(
        revision,
        oneline=oneline,
        graph=graph,
        all_=all_,
        limit=limit,
        json=json,
        stat=stat,
        selection=selection,
    )
