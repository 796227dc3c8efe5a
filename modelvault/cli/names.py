"""`tag`, `branch` and `switch`. Light: neither numpy nor torch is imported."""

from __future__ import annotations

from typing import Annotated

import typer

from modelvault.cli import render
from modelvault.cli.options import Json, LockTimeout
from modelvault.cli.vault import here
from modelvault.repository import history, naming, refs
from modelvault.repository.naming import What
from modelvault.repository.repository import DEFAULT_LOCK_TIMEOUT, Repository

Move_ = Annotated[bool, typer.Option("--force", "-f", help="Move it if it exists.")]
Delete = Annotated[bool, typer.Option("--delete", "-d", help="Delete it.")]
Name = Annotated[
    str | None, typer.Argument(metavar="NAME", help="Its name; all are listed without.", show_default=False)
]
Start = Annotated[str, typer.Argument(metavar="REV", help="Where it is to point.")]


def tag(
    name: Name = None,
    revision: Start = "HEAD",
    force: Move_ = False,
    delete: Delete = False,
    lock_timeout: LockTimeout = DEFAULT_LOCK_TIMEOUT,
    json: Json = False,
) -> None:
    """List tags, or make, move or delete one."""
    repository = here(lock_timeout)
    if name is None:
        _list(repository, refs.TAGS, json)
        return
    _change(repository, "tag", name, revision, force=force, delete=delete, json=json)


def branch(
    name: Name = None,
    revision: Start = "HEAD",
    force: Move_ = False,
    delete: Delete = False,
    lock_timeout: LockTimeout = DEFAULT_LOCK_TIMEOUT,
    json: Json = False,
) -> None:
    """List branches, or make, move or delete one; HEAD stays (see switch)."""
    repository = here(lock_timeout)
    if name is None:
        _list(repository, refs.BRANCHES, json)
        return
    _change(repository, "branch", name, revision, force=force, delete=delete, json=json)


def switch(
    name: Annotated[str, typer.Argument(metavar="BRANCH", help="The branch to go to.")],
    create: Annotated[bool, typer.Option("--create", "-c", help="Make it first, where HEAD is.")] = False,
    lock_timeout: LockTimeout = DEFAULT_LOCK_TIMEOUT,
    json: Json = False,
) -> None:
    """Move HEAD to a branch: the next commit goes there. Files on disk stay as they are."""
    repository = here(lock_timeout)
    target = naming.switch(repository, name, create=create)
    if json:
        render.json_object({"schema": "modelvault.switch/1", "branch": name, "head": target.hex() if target else None})
        return
    render.data(f"on branch {name}")


def _list(repository: Repository, prefix: str, json: bool) -> None:
    what = "tags" if prefix == refs.TAGS else "branches"
    with repository.store.read() as txn:
        head = refs.read_head(txn)
        current = head.branch if prefix == refs.BRANCHES and head.detached is None else None
        found = refs.list_refs(txn, prefix)
        rows = [
            (
                "*" if name == current else " ",
                render.one_line(name),
                history.shorten(txn, target),
                render.one_line(history.read_commit(txn, target).subject),
            )
            for name, target in found.items()
        ]
    if json:
        listed = [{"name": name, "id": target.hex()} for name, target in found.items()]
        render.json_object({"schema": f"modelvault.{what}/1", what: listed, "current": current})
        return
    render.table([row if prefix == refs.BRANCHES else row[1:] for row in rows])


def _change(
    repository: Repository, what: What, name: str, revision: str, *, force: bool, delete: bool, json: bool
) -> None:
    target = None
    if delete:
        at = naming.delete(repository, what, name, force=force)
    else:
        at = target = naming.put(repository, what, name, revision, force=force)
    if json:
        render.json_object({"schema": f"modelvault.{what}/1", "name": name, "id": target.hex() if target else None})
        return
    with repository.store.read() as txn:
        shown = history.shorten(txn, at)
    render.data(f"deleted {what} {name} (was {shown})" if delete else f"{what} {name} is at {shown}")
