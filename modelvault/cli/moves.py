"""`reflog` and `undo`: where names pointed, and the last move taken back. Light: no numpy, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelvault.cli import render
from modelvault.cli.commit_text import iso_date, local_date
from modelvault.cli.options import Json, LockTimeout
from modelvault.cli.vault import here
from modelvault.errors import UnknownRevisionError, UsageError
from modelvault.repository import history, refs
from modelvault.repository.repository import DEFAULT_LOCK_TIMEOUT
from modelvault.repository.undo import undo as take_back

if TYPE_CHECKING:
    from modelvault.ids import CommitId
    from modelvault.objects.ref import ReflogEntry
    from modelvault.store.base import ReadTransaction


def reflog(
    name: Annotated[
        str | None,
        typer.Argument(metavar="REF", help="A branch, a tag or HEAD; HEAD if left out.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("-n", metavar="N", min=0, help="Show at most N moves.", show_default=False)
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every operation, with all it moved.")] = False,
    json: Json = False,
) -> None:
    """Show where a ref pointed, newest first: `REF@{n}` names what it pointed at n moves ago.

    A deleted branch or tag is still listed, so `modelvault branch NAME NAME@{1}` brings it back.
    """
    if all_ and name is not None:
        raise UsageError("--all lists the moves of every ref; leave out REF", hint=f"modelvault reflog {name}")
    repository = here()
    shown = None if all_ else "HEAD" if name in (None, "@") else name
    with repository.store.read() as txn:
        ref = None
        if shown is not None:
            ref = refs.find_ref(txn, shown)
            if ref is None:
                raise UnknownRevisionError(
                    f"there never was a branch or tag {shown!a}", hint="modelvault reflog --all lists every move"
                )
        rows: list[tuple[str, ...]] = []
        entries: list[dict[str, Any]] = []
        for entry in refs.read_reflog(txn):
            moves = [(moved, target) for moved, target in entry.moves if ref in (None, moved)]
            if ref is not None and not moves:
                continue
            if limit is not None and len(entries) >= limit:
                break
            selector = f"{shown}@{{{len(entries)}}}" if ref is not None else None
            if json:
                entries.append(_entry_json(entry, selector))
                continue
            entries.append({})
            when, operation = local_date(entry.time_ms), render.one_line(entry.operation)
            if selector is not None:
                rows.append((render.one_line(selector), _target(txn, moves[-1][1]), when, operation))
            else:
                places = [f"{render.one_line(moved)} {_target(txn, target)}" for moved, target in moves]
                rows.append((when, operation, ", ".join(places)))
    if json:
        render.json_object({"schema": "modelvault.reflog/1", "ref": ref, "entries": entries})
        return
    render.table(rows)


def undo(lock_timeout: LockTimeout = DEFAULT_LOCK_TIMEOUT, json: Json = False) -> None:
    """Take back the last operation that moved a branch, a tag or HEAD; a second undo takes back the undo.

    Files on disk stay as they are, and so do commits: they can still be named by id, and by `REF@{n}`.
    """
    repository = here(lock_timeout)
    done = take_back(repository)
    with repository.store.read() as txn:
        tip = refs.head_commit(txn)
        rows = [
            (render.one_line(refs.describe(ref)), _target(txn, before), "->", _target(txn, after))
            for ref, before, after in done.changes
        ]
        at = f"at {history.shorten(txn, tip)} {history.read_commit(txn, tip).subject}" if tip else "no commits yet"
    if json:
        render.json_object(
            {
                "schema": "modelvault.undo/1",
                "undone": done.entry.operation,
                "time": iso_date(done.entry.time_ms),
                "operation": done.operation,
                "moves": [
                    {"ref": ref, "before": before.hex() if before else None, "after": after.hex() if after else None}
                    for ref, before, after in done.changes
                ],
                "branch": done.head.branch,
                "detached": done.head.detached is not None,
                "head": tip.hex() if tip else None,
            }
        )
        return
    render.data(f"{render.one_line(done.operation)} (of {local_date(done.entry.time_ms)})")
    render.table([(f"  {name}", *rest) for name, *rest in rows])
    where = f"detached, last on branch {done.head.branch}" if done.head.detached else f"on branch {done.head.branch}"
    render.note(f"HEAD is {render.one_line(f'{where}, {at}')}; files on disk were not touched")


def _target(txn: ReadTransaction, target: CommitId | None) -> str:
    return history.shorten(txn, target) if target is not None else "nothing"


def _entry_json(entry: ReflogEntry, selector: str | None) -> dict[str, Any]:
    return {
        "selector": selector,
        "time": iso_date(entry.time_ms),
        "operation": entry.operation,
        "moves": [{"ref": ref, "target": target.hex() if target else None} for ref, target in entry.moves],
    }
