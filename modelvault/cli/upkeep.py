"""`init`, `status` and `report`. Light: neither numpy nor torch is imported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from modelvault.cli import render
from modelvault.cli.options import Json
from modelvault.cli.vault import here
from modelvault.report import By, make_split_report
from modelvault.repository.census import Census
from modelvault.repository.repository import init_repository
from modelvault.repository.status import read_status

_BAR = 40
"""Characters of the longest bar."""


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where; made if it is not there.")] = Path(),
    json: Json = False,
) -> None:
    """Make an empty vault."""
    repository = init_repository(directory)
    if json:
        render.json_object({"schema": "modelvault.init/1", "vault": str(repository.directory.absolute())})
    else:
        render.data(f"initialised an empty vault in {repository.directory} (lossless)")


def status(json: Json = False) -> None:
    """Compare HEAD's files with those on disk."""
    progress = render.ProgressBar()
    try:
        found = read_status(here(), progress)
    finally:
        progress.close()
    if json:
        render.json_object(
            {
                "schema": "modelvault.status/1",
                "branch": found.branch,
                "detached": found.detached,
                "head": found.commit_id.hex() if found.commit_id else None,
                "clean": found.is_clean,
                "files": [{"path": path, "state": state} for path, state in found.files],
            }
        )
        return
    if found.commit_id is None:
        render.data(f"on branch {found.branch}, no commits yet")
        return
    where = f"detached, last on branch {found.branch}" if found.detached else f"on branch {found.branch}"
    render.data(f"{where}, at {found.short} {render.one_line(found.subject)}")
    for path, state in found.files:
        if state != "same":
            render.data(f"  {state}: {render.one_line(path)}")
    if found.is_clean:
        render.data("all files are as committed")


def report(
    by: Annotated[
        By | None, typer.Option("--by", help="Split what is stored: who pays for how much.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Say what the vault saves: raw bytes, stored bytes, their ratio, depth, and what a gc would free."""
    found, lines = make_split_report(here(), by)
    if json:
        split = {"by": by, "lines": [line._asdict() for line in lines]} if by is not None else {}
        render.json_object(found.to_json() | split)
        return
    if by is not None:
        rows: list[tuple[str, ...]] = [(by, "raw", "stored", "ratio")]
        for name, raw, stored in lines:
            rows.append((render.one_line(name), render.size(raw), render.size(stored), render.ratio(raw, stored)))
        total = found.census.stored_bytes
        rows.append(("total", "", render.size(total), ""))
        render.table(rows, right=frozenset({1, 2, 3}))
        render.data(f"{found.mode}; a shared tensor is charged to the oldest commit that needs it")
        return
    census = found.census
    if not census.commits:
        render.data("no commits yet")
    ratio = f"{found.ratio:.2f}x {found.mode}" if found.ratio is not None else "-"
    render.table(
        [
            ("commits", f"{census.commits}, {census.forgotten} forgotten" if census.forgotten else str(census.commits)),
            ("raw", render.size(census.raw_bytes)),
            ("stored", render.size(census.stored_bytes)),
            ("ratio", ratio),
            ("keyframes", f"{census.keyframes} chunks"),
            ("deltas", f"{census.deltas} chunks"),
            ("depth", f"mean {census.depth_mean:.1f}, max {census.depth_max}"),
            ("on disk", render.size(found.disk_bytes)),
            ("reclaimable", render.size(census.reclaimable_bytes)),
        ]
    )
    if census.depth_max:
        render.data("")
        render.table(list(_layers(census)), right=frozenset({0, 1, 2, 3}))


def _layers(census: Census) -> Iterator[tuple[str, ...]]:
    """Yield a row for each depth, with a bar as long as its share of the largest."""
    yield "depth", "tensors", "raw", "stored", ""
    most = max(layer.stored_bytes for layer in census.layers.values())
    for depth, layer in census.layers.items():
        bar = "#" * -(-_BAR * layer.stored_bytes // most) if most else ""
        yield str(depth), str(layer.tensors), render.size(layer.raw_bytes), render.size(layer.stored_bytes), bar
