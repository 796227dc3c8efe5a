"""`identify`: which commits a file on disk is from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from modelvault.cli import render
from modelvault.cli.options import Json
from modelvault.cli.tensors import distance_text, sums_json
from modelvault.cli.vault import here
from modelvault.repository import history
from modelvault.repository import identify as identify_module

_SHOWN = 20


def identify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file on disk.")],
    nearest: Annotated[
        bool, typer.Option("--nearest", help="If it is in no commit, find the nearest and say how far it is.")
    ] = False,
    json: Json = False,
) -> None:
    """Find the commits a file is from: the same bytes, or the same tensors in another container or under other names.

    Exits with 1 if neither it nor its tensors are in a commit, also where --nearest finds something.
    """
    repository = here()
    progress = render.ProgressBar()
    try:
        found = identify_module.identify(repository, file, nearest=nearest, progress=progress)
    finally:
        progress.close()
    with repository.store.read() as txn:
        shorts = [history.shorten(txn, place.commit_id) for place in found.places[:_SHOWN]]
    if json:
        render.json_object({"schema": "modelvault.identify/1", "file": str(file), **_json(found)})
    else:
        if found.match is None:
            render.note(f"{str(file)!a} is in no commit, and neither are its {found.tensors} tensors")
        render.table(
            [
                (found.match or "", short, render.one_line(place.commit.subject), place.path)
                for short, place in zip(shorts, found.places, strict=False)
            ]
        )
        if len(found.places) > _SHOWN:
            render.data(f"and {len(found.places) - _SHOWN} more")
        if found.distance is not None:
            compared = f"{found.share:.0%} of the elements compared: {distance_text(found.distance)}"
            render.data(compared)
    if found.match in (None, "nearest"):
        raise typer.Exit(1)


def _json(found: identify_module.Identified) -> dict[str, Any]:
    return {
        "sha256": found.file_id.hex(),
        "size": found.size,
        "match": found.match,
        "commits": [
            {"id": place.commit_id.hex(), "subject": place.commit.subject, "path": place.path} for place in found.places
        ],
        "distance": sums_json(found.distance) if found.distance else None,
        "compared_share": found.share if found.distance else None,
    }
