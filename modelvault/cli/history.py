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
    json: Json = False,
) -> None:
    """Show commits, newest first: what each says, measured and cost."""
    show_log(revision, oneline=oneline, graph=graph, all_=all_, limit=limit, json=json)
