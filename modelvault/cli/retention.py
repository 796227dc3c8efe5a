"""`forget`: which commits need not keep their bytes. Light: neither numpy nor torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelvault.cli import render
from modelvault.cli.options import Json, LockTimeout
from modelvault.cli.vault import here
from modelvault.errors import InputError, PartlyDoneError, UsageError
from modelvault.objects.recipe import PARTS
from modelvault.repository import history, retention
from modelvault.repository.repository import DEFAULT_LOCK_TIMEOUT, Repository
from modelvault.repository.retention import Choice, Policy
from modelvault.repository.revisions import resolve

if TYPE_CHECKING:
    from modelvault.ids import CommitId
    from modelvault.store.base import ReadTransaction

_HOW = "name commits, or say what to keep: --keep-last, --keep-every, --keep-best, --keep-tags"


def forget(
    revisions: Annotated[
        list[str] | None,
        typer.Argument(metavar="REV", help="These commits, tips and tagged ones too.", show_default=False),
    ] = None,
    keep_last: Annotated[
        int | None,
        typer.Option("--keep-last", metavar="N", min=1, help="Keep the newest N commits.", show_default=False),
    ] = None,
    keep_every: Annotated[
        int | None,
        typer.Option(
            "--keep-every",
            metavar="N",
            min=1,
            help="Keep the branch's first commit and every N-th after it.",
            show_default=False,
        ),
    ] = None,
    keep_best: Annotated[
        list[str] | None,
        typer.Option("--keep-best", metavar="N:METRIC", help="Keep the N commits best in METRIC; may be repeated."),
    ] = None,
    keep_tags: Annotated[bool, typer.Option("--keep-tags", help="Keep tagged commits, which are kept anyway.")] = False,
    part: Annotated[
        list[str] | None,
        typer.Option("--part", metavar="weights|optimizer|other", help="Forget this part only; may be repeated."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every branch, each by the same rules.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take it back: for REV, or for all that can be.")] = False,
    dry_run: Annotated[
        bool, typer.Option("-n", "--dry-run", help="Say what would stay and go; change nothing.")
    ] = False,
    lock_timeout: LockTimeout = DEFAULT_LOCK_TIMEOUT,
    json: Json = False,
) -> None:
    """Let commits go without their bytes, or without one part of them; what they say and measured stays.

    What any rule keeps stays. Rules go through the commits of the current branch and never touch the tip of a branch, a
    tagged commit, or the one HEAD is on. Bytes leave the disk with the next gc; until then forget --undo takes it back.
    """
    policy = Policy(keep_last or 0, keep_every or 0, tuple(_best(text) for text in keep_best or ()), keep_tags)
    parts = retention.part_codes(part or [])
    named = revisions or []
    if undo:
        if not policy.says_nothing or part or all_:
            raise UsageError("--undo takes commits and nothing else", hint="modelvault forget --undo REV")
        _bring_back(here(lock_timeout), named, dry_run=dry_run, json=json)
        return
    if policy.says_nothing == (not named):
        raise UsageError("nothing says what to forget" if not named else "either commits or rules", hint=_HOW)
    if named and all_:
        raise UsageError("--all goes with rules, not with commits", hint=_HOW)
    repository = here(lock_timeout)
    if dry_run:
        with repository.store.read() as txn:
            choices = _choose(repository, txn, named, policy, parts, all_)
    else:
        with repository.store.write(timeout=lock_timeout, waiting=repository.waiting) as writing:
            choices = _choose(repository, writing, named, policy, parts, all_)
            retention.forget(writing, [choice for choice in choices if choice.parts])
    _show(repository, choices, parts, dry_run=dry_run, json=json)


def _choose(
    repository: Repository,
    txn: ReadTransaction,
    named: Sequence[str],
    policy: Policy,
    parts: frozenset[int],
    all_: bool,
) -> list[Choice]:
    if named:
        return retention.choose_named(txn, _resolved(repository, txn, named), parts)
    return retention.choose(txn, policy, parts, repository.config, every_branch=all_)


def _resolved(repository: Repository, txn: ReadTransaction, named: Sequence[str]) -> list[CommitId]:
    found = []
    for text in named:
        resolved = resolve(txn, text, repository.config)
        if resolved.note:
            render.note(resolved.note)
        found.append(resolved.commit_id)
    return found


def _bring_back(repository: Repository, named: Sequence[str], *, dry_run: bool, json: bool) -> None:
    if not dry_run:
        with repository.store.write(timeout=repository.lock_timeout, waiting=repository.waiting) as writing:
            choices = retention.choose_to_bring_back(writing, _resolved(repository, writing, named))
            retention.bring_back(writing, [choice for choice in choices if choice.parts])
    with repository.store.read() as txn:
        if dry_run:
            choices = retention.choose_to_bring_back(txn, _resolved(repository, txn, named))
        able = [choice for choice in choices if choice.parts]
        shown = {choice.commit_id: history.shorten(txn, choice.commit_id) for choice in choices}
    if json:
        render.json_object(
            {
                "schema": "modelvault.forget-undo/1",
                "dry_run": dry_run,
                "kept_again": [_choice_json(choice, shown[choice.commit_id]) for choice in able],
                "not_possible": [_choice_json(choice, shown[choice.commit_id]) for choice in choices if choice.reasons],
            }
        )
    else:
        for choice in able:
            said = "would keep" if dry_run else "keeps"
            render.data(f"{said} {shown[choice.commit_id]} {render.one_line(choice.commit.subject)} again")
        for choice in choices:
            if choice.reasons:
                render.note(f"cannot bring back {shown[choice.commit_id]}: {choice.reasons[0]}")
        if not choices:
            render.note("no commit is forgotten")
    if named and len(able) < len(choices):
        kind = PartlyDoneError if able else InputError
        raise kind(f"{len(choices) - len(able)} of {len(choices)} commits cannot be brought back")


def _show(
    repository: Repository, choices: Sequence[Choice], parts: frozenset[int], *, dry_run: bool, json: bool
) -> None:
    stays = [choice for choice in choices if not choice.parts]
    goes = [choice for choice in choices if choice.parts]
    with repository.store.read() as txn:
        shown = {choice.commit_id: history.shorten(txn, choice.commit_id) for choice in choices}
    if json:
        render.json_object(
            {
                "schema": "modelvault.forget/1",
                "dry_run": dry_run,
                "parts": [PARTS[part] for part in sorted(parts)],
                "kept": [_choice_json(choice, shown[choice.commit_id]) for choice in stays],
                "forgotten": [_choice_json(choice, shown[choice.commit_id]) for choice in goes],
            }
        )
        return
    render.table(
        [
            (
                "goes" if choice.parts else "stays",
                shown[choice.commit_id],
                render.one_line(choice.commit.subject),
                ", ".join(map(render.one_line, choice.reasons)) or _what(choice),
            )
            for choice in (*stays, *goes)
        ]
    )
    if not goes:
        render.note("nothing to forget")
    elif dry_run:
        render.note(f"would forget {len(goes)} of {len(choices)} commits; without -n it is done")
    else:
        render.note(
            f"forgot {len(goes)} of {len(choices)} commits; their bytes stay until the next gc,"
            " and modelvault forget --undo takes it back until then"
        )


def _what(choice: Choice) -> str:
    """Return what of a commit goes, "" for all of it."""
    if choice.parts == retention.ALL_PARTS:
        return ""
    return ", ".join(PARTS[part] for part in sorted(choice.parts))


def _choice_json(choice: Choice, short: str) -> dict[str, Any]:
    return {
        "id": choice.commit_id.hex(),
        "short": short,
        "subject": choice.commit.subject,
        "parts": [PARTS[part] for part in sorted(choice.parts)],
        "reasons": list(choice.reasons),
    }


def _best(text: str) -> tuple[int, str]:
    count, colon, metric = text.partition(":")
    if not (colon and metric and count.isascii() and count.isdigit() and int(count)):
        raise UsageError(f"--keep-best {text!a}: N:METRIC is wanted", hint="for example --keep-best 3:val_acc")
    return int(count), metric
