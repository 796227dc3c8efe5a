"""`bundle` and `unbundle`: commits as one file for somebody who has what came before."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from modelvault.cli import render
from modelvault.cli.options import Json, LockTimeout
from modelvault.cli.vault import here
from modelvault.errors import UsageError
from modelvault.repository import history, refs
from modelvault.repository.bundle import Bundled, make_bundle
from modelvault.repository.repository import DEFAULT_LOCK_TIMEOUT
from modelvault.repository.unbundle import Unbundled, build
from modelvault.repository.unbundle import unbundle as bring_in

_BANDWIDTHS = ("1mbit", "10mbit", "100mbit")
"""A slow mobile connection, a usual one, a usual wire."""

_UNITS = {"k": 1e3, "m": 1e6, "g": 1e9}

Overwrite = Annotated[bool, typer.Option("--force", "-f", help="Overwrite what is there.")]


def bundle(
    revisions: Annotated[
        str, typer.Argument(metavar="A..B", help="What B has and A has not; or B, with all before it.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")],
    only_tip: Annotated[
        bool, typer.Option("--only-tip", help="Send the bytes of B alone; of commits between only what they say.")
    ] = False,
    bandwidth: Annotated[
        list[str] | None,
        typer.Option("--bandwidth", metavar="RATE", help="Say how long it takes at RATE, such as 10mbit; repeatable."),
    ] = None,
    force: Overwrite = False,
    json: Json = False,
) -> None:
    """Write commits into one file, as small as they are for somebody who has the files of A."""
    rates = [(text, parse_rate(text)) for text in bandwidth or _BANDWIDTHS]
    repository = here()
    progress = render.ProgressBar()
    try:
        done = make_bundle(repository, revisions, output, only_tip=only_tip, force=force, progress=progress)
    finally:
        progress.close()
    if json:
        render.json_object(_bundle_json(output, done, rates))
        return
    with repository.store.read() as txn:
        base = f", for who has the files of {history.shorten(txn, done.base)}" if done.base else ""
    count = len(done.commits)
    render.data(
        f"{render.one_line(str(output))}: {count} commit{'s' if count != 1 else ''}, {render.size(done.raw_bytes)} of"
        f" files in {render.size(done.nbytes)} ({render.ratio(done.raw_bytes, done.nbytes)} {done.mode}){base}"
    )
    rows = [("sent at", "takes", "in place of", "saves")]
    for text, rate in rates:
        takes, whole = 8 * done.nbytes / rate, 8 * done.raw_bytes / rate
        rows.append((f"{text.removesuffix('/s')}/s", _seconds(takes), _seconds(whole), _seconds(whole - takes)))
    render.table(rows, right=frozenset({1, 2, 3}))


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if abs(seconds) >= 999.5 else f"{seconds:.3g} s"


def parse_rate(text: str) -> float:
    """Return the bits a second that `10mbit`, `1.5gbit`, `64kbit` or `9600bit` stand for.

    >>> parse_rate("10mbit")
    10000000.0
    """
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)([kmg]?)bit(?:/s)?", text.strip(), re.ASCII | re.IGNORECASE)
    rate = float(match.group(1)) * _UNITS.get(match.group(2).lower(), 1.0) if match else 0.0
    if not rate:
        raise UsageError(f"--bandwidth {text!a}: bits a second are wanted", hint="for example 10mbit")
    return rate


def _bundle_json(output: Path, done: Bundled, rates: list[tuple[str, float]]) -> dict[str, Any]:
    return {
        "schema": "modelvault.bundle/1",
        "path": str(output),
        "bytes": done.nbytes,
        "raw_bytes": done.raw_bytes,
        "mode": done.mode,
        "base": done.base.hex() if done.base else None,
        "commits": [commit_id.hex() for commit_id in done.commits],
        "refs": list(done.refs),
        "bandwidths": [
            {
                "bits_per_second": rate,
                "seconds": 8 * done.nbytes / rate,
                "seconds_raw": 8 * done.raw_bytes / rate,
                "seconds_saved": 8 * (done.raw_bytes - done.nbytes) / rate,
            }
            for _, rate in rates
        ],
    }


def unbundle(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The bundle.")],
    branch: Annotated[
        str | None,
        typer.Option("--as", metavar="BRANCH", help="Put it on this branch, not the bundle's.", show_default=False),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            "--base", metavar="PATH", help="Without a vault: the old file, or a directory of them.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE|DIR", help="With --base: where to write.", show_default=False),
    ] = None,
    force: Overwrite = False,
    lock_timeout: LockTimeout = DEFAULT_LOCK_TIMEOUT,
    json: Json = False,
) -> None:
    """Bring the commits of a bundle into the vault, or with --base write the files of its last one.

    The branch moves as in git: only forward. HEAD and files on disk stay; checkout writes them.
    """
    if (base is None) != (output is None):
        raise UsageError("--base and -o go together", hint="unbundle FILE --base OLD -o NEW")
    if base is not None and output is not None:
        if branch is not None:
            raise UsageError("--as is for a vault, --base for files")
        _build(path, base, output, force=force, json=json)
        return
    if force:
        raise UsageError("--force goes with --base")
    repository = here(lock_timeout)
    progress = render.ProgressBar()
    try:
        done = bring_in(repository, path, branch=branch, progress=progress)
    finally:
        progress.close()
    with repository.store.read() as txn:
        mode = history.read_payload(txn, done.tip).mode_name
        shorts = {one: history.shorten(txn, one) for _, *ends in done.moved for one in ends if one is not None}
    if json:
        render.json_object(_unbundle_json(done, mode))
        return
    count = len(done.commits)
    render.data(
        f"{count} new commit{'s' if count != 1 else ''}, {render.size(done.raw_bytes)} of files"
        f" +{render.size(done.added_bytes)} ({mode})"
    )
    for name, before, after in done.moved:
        where = f"{shorts[before]} -> {shorts[after]}" if before is not None else f"new, at {shorts[after]}"
        render.data(f"{render.one_line(refs.describe(name))}: {where}")
    for name in done.left:
        render.note(f"{refs.describe(name)} is on another commit here and stays there")
    if not done.moved:
        render.note("everything was here already")


def _unbundle_json(done: Unbundled, mode: str) -> dict[str, Any]:
    return {
        "schema": "modelvault.unbundle/1",
        "tip": done.tip.hex(),
        "mode": mode,
        "commits": [commit_id.hex() for commit_id in done.commits],
        "raw_bytes": done.raw_bytes,
        "added_bytes": done.added_bytes,
        "moved": [
            {"ref": name, "before": before.hex() if before else None, "after": after.hex()}
            for name, before, after in done.moved
        ],
        "left": list(done.left),
    }


def _build(path: Path, base: Path, output: Path, *, force: bool, json: bool) -> None:
    progress = render.ProgressBar()
    try:
        done = build(path, base, output, force=force, progress=progress)
    finally:
        progress.close()
    if json:
        render.json_object(
            {
                "schema": "modelvault.unbundle-files/1",
                "id": done.commit_id.hex(),
                "subject": done.commit.subject,
                "mode": done.mode,
                "written": [
                    {"path": str(target), "size": entry.size, "sha256": entry.file_id.hex()}
                    for target, entry in done.written
                ],
            }
        )
        return
    for target, entry in done.written:
        render.data(f"{render.one_line(str(target))}  {render.size(entry.size)}  sha256 {entry.file_id.hex()[:16]} ok")
    render.note(f"{done.commit_id.hex()[:8]} {done.commit.subject} ({done.mode})")
