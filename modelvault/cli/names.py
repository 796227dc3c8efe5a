"""`tag`, `branch` and `switch`. Light: neither numpy nor torch is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from modelvault.cli import render
from modelvault.cli.options import Json, LockTimeout
from modelvault.cli.vault import here
from modelvault.errors import UsageError, WouldLoseDataError
from modelvault.objects.ref import Head, Move
from modelvault.repository import history, refs, revisions
from modelvault.repository.names import check_ref
from modelvault.repository.repository import DEFAULT_LOCK_TIMEOUT, Repository

if TYPE_CHECKING:
    from modelvault.store.base import ReadTransaction

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
    _change(repository, "tag", refs.TAGS, name, revision, force=force, delete=delete, json=json)


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
    _change(repository, "branch", refs.BRANCHES, name, revision, force=force, delete=delete, json=json)


def switch(
    name: Annotated[str, typer.Argument(metavar="BRANCH", help="The branch to go to.")],
    create: Annotated[bool, typer.Option("--create", "-c", help="Make it first, where HEAD is.")] = False,
    lock_timeout: LockTimeout = DEFAULT_LOCK_TIMEOUT,
    json: Json = False,
) -> None:
    """Move HEAD to a branch: the next commit goes there. Files on disk stay as they are."""
    repository = here(lock_timeout)
    check_ref(name, "branch")
    with repository.store.write(timeout=lock_timeout, waiting=repository.waiting) as txn:
        ref, tip = refs.BRANCHES + name, refs.head_commit(txn)
        exists = refs.read_ref(txn, ref) is not None
        if create and exists:
            raise UsageError(f"branch {name} exists already", hint=f"modelvault switch {name}")
        if not create and not exists and name != refs.read_head(txn).branch:
            raise UsageError(f"there is no branch {name}", hint=f"make it: modelvault switch -c {name}")
        moves = [Move(ref, tip)] if create and tip is not None else []
        if refs.read_head(txn) != Head(name) or moves:
            refs.move(txn, f"switch {name}", moves, head=Head(name))
        target = refs.head_commit(txn)
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
    repository: Repository,
    what: str,
    prefix: str,
    name: str,
    revision: str,
    *,
    force: bool,
    delete: bool,
    json: bool,
) -> None:
    check_ref(name, what)
    with repository.store.write(timeout=repository.lock_timeout, waiting=repository.waiting) as txn:
        before = refs.read_ref(txn, prefix + name)
        target = None
        if delete:
            if before is None:
                raise UsageError(f"there is no {what} {name}", hint=f"modelvault {what} lists them")
            head = refs.read_head(txn)
            if prefix == refs.BRANCHES and head.detached is None and head.branch == name:
                raise UsageError(f"HEAD is on branch {name}", hint="switch to another branch first")
            if prefix == refs.BRANCHES and not force and not _is_held_elsewhere(repository, txn, name):
                raise WouldLoseDataError(
                    f"branch {name} holds commits that no other branch or tag does",
                    hint=f"modelvault branch --delete --force {name}",
                )
        else:
            if before is not None and not force:
                raise UsageError(
                    f"{what} {name} exists already, on {history.shorten(txn, before)}",
                    hint="move it with --force",
                )
            target = revisions.resolve(txn, revision, repository.config).commit_id
        refs.move(txn, f"{what} {name}", [Move(prefix + name, target)])
        at = target or before
        shown = history.shorten(txn, at) if at else ""
    if json:
        render.json_object({"schema": f"modelvault.{what}/1", "name": name, "id": target.hex() if target else None})
        return
    render.data(f"deleted {what} {name} (was {shown})" if delete else f"{what} {name} is at {shown}")


def _is_held_elsewhere(repository: Repository, txn: ReadTransaction, name: str) -> bool:
    """Return whether a branch's tip is reachable from another branch, a tag or HEAD."""
    tip = refs.read_ref(txn, refs.BRANCHES + name)
    starts = [target for other, target in refs.list_refs(txn, refs.BRANCHES).items() if other != name]
    starts += refs.list_refs(txn, refs.TAGS).values()
    head = refs.head_commit(txn)
    if head is not None:
        starts.append(head)
    return any(commit_id == tip for commit_id, _ in history.walk(txn, starts))
