"""`gc`. Light as long as nothing has to be coded anew."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from modelvault.cli import render
from modelvault.cli.options import Json, LockTimeout
from modelvault.cli.vault import here
from modelvault.errors import UsageError
from modelvault.repository.gc import check_is_free, collect_garbage, copy_vault
from modelvault.repository.repository import DEFAULT_LOCK_TIMEOUT

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LONGEST = 100 * 366 * 86400


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Change nothing; say what would happen.")] = False,
    grace: Annotated[
        str, typer.Option("--grace", metavar="TIME", help="Keep what was given up less than this ago: 14d, 2h, 0s.")
    ] = "14d",
    compact: Annotated[
        bool, typer.Option("--compact", help="Copy the file without what is free, instead of leaving holes in it.")
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="With --compact: write a compacted copy there.", show_default=False),
    ] = None,
    lock_timeout: LockTimeout = DEFAULT_LOCK_TIMEOUT,
    json: Json = False,
) -> None:
    """Free what no branch, tag, young reflog entry or operation under way needs."""
    if to is not None and not compact:
        raise UsageError("--to goes with --compact", hint="modelvault gc --compact --to DIR")
    seconds = parse_grace(grace)
    repository = here(lock_timeout)
    if to is not None:
        check_is_free(to)  # before anything is freed here
    progress = render.ProgressBar()
    try:
        found = collect_garbage(
            repository, grace=seconds, compact=compact and to is None, dry_run=dry_run, progress=progress
        )
        if to is not None and not dry_run:
            copy_vault(repository, to)
    finally:
        progress.close()
    if json:
        render.json_object(
            {"schema": "modelvault.gc/1", "dry_run": dry_run, "grace_seconds": seconds, **found._asdict()}
        )
        return
    would = "would free" if dry_run else "freed"
    render.data(
        f"{would} {render.size(found.freed_bytes)}: {found.commits} commits, {found.files} files, {found.tensors}"
        f" tensors; {found.recoded} tensors coded anew"
    )
    if found.reclaimable_bytes or (compact and to is None):
        gives = "would give back" if dry_run else "gave back"
        render.data(f"{gives} {render.size(found.reclaimable_bytes)} of disk")
    elif to is None:
        render.data("nothing goes back to the disk; what is free is used by later commits")
    if to is not None:
        render.data(f"{'would write' if dry_run else 'wrote'} a compacted copy to {to}")


def parse_grace(text: str) -> float:
    """Return the seconds that `14d`, `2h`, `0s` stand for.

    >>> parse_grace("2h")
    7200.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text, re.ASCII)
    if not match:
        raise UsageError(f"--grace {text!a}: a number and one of s, m, h, d, w is wanted", hint="for example 14d or 0s")
    seconds = float(match.group(1)) * _UNITS[match.group(2)]
    if seconds > _LONGEST:
        raise UsageError(f"--grace {text!a}: that is more than a hundred years", hint="for example 14d or 0s")
    return seconds
