"""`repack --lossy`: exact commits turned into lossy ones, or what that would give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelvault.cli import render
from modelvault.cli.commit_text import lossy_json
from modelvault.errors import InputError, WouldLoseDataError
from modelvault.repository import history
from modelvault.repository.lossy import LossyRequest
from modelvault.repository.lossy_repack import (
    Choice,
    LossyRepacked,
    Turned,
    choose,
    choose_to_undo,
    lossy_repack,
    undo_lossy,
)
from modelvault.repository.repository import Repository


def turn_lossy(
    repository: Repository, revisions: Sequence[str], wish: LossyRequest, *, is_meant: bool, dry_run: bool, json: bool
) -> None:
    """Turn commits into lossy ones, if that is meant, and print what it gave.

    Raises:
        WouldLoseDataError: it is not meant, and exact bytes would go.
    """
    wish.check()
    with repository.store.read() as txn:
        choices = choose(txn, revisions, repository.config)
        shorts = {choice.commit_id: history.shorten(txn, choice.commit_id) for choice in choices}
    wanted = [choice for choice in choices if not choice.reason]
    if wanted and not (is_meant or dry_run):
        raise WouldLoseDataError(
            f"{_commits(len(wanted))} would lose {'its' if len(wanted) == 1 else 'their'} exact bytes; nothing was"
            " changed",
            hint="repack -n shows what it would give, --yes-lossy does it",
        )
    progress = render.ProgressBar()
    try:
        done = lossy_repack(repository, choices, wish, dry_run=dry_run, progress=progress)
    finally:
        progress.close()
    if json:
        render.json_object(_json(choices, done, dry_run))
    else:
        _print(choices, shorts, done, dry_run)


def turn_exact(repository: Repository, revisions: Sequence[str], *, dry_run: bool, json: bool) -> None:
    """Make lossy commits exact again that can be.

    Raises:
        InputError: a commit was named that cannot be. Nothing was changed.
    """
    with repository.store.write(timeout=repository.lock_timeout, waiting=repository.waiting) as txn:
        choices = choose_to_undo(txn, revisions, repository.config)
        shorts = [history.shorten(txn, choice.commit_id) for choice in choices]
        unable = [(short, choice) for short, choice in zip(shorts, choices, strict=True) if choice.reason]
        if revisions and unable:
            raise InputError(f"cannot make {unable[0][0]} exact again: {unable[0][1].reason}")
        if not dry_run:
            undo_lossy(txn, choices)
    if json:
        listed = [
            {"id": choice.commit_id.hex(), "subject": choice.commit.subject, "reason": choice.reason}
            for choice in choices
        ]
        render.json_object({"schema": "modelvault.repack-undo-lossy/1", "dry_run": dry_run, "commits": listed})
        return
    rows = [
        ("stays" if choice.reason else "exact", short, render.one_line(choice.commit.subject), choice.reason)
        for short, choice in zip(shorts, choices, strict=True)
    ]
    render.table(rows)
    count = len(choices) - len(unable)
    if not count:
        render.note("nothing to make exact again")
    else:
        render.note(f"{'would make' if dry_run else 'made'} {_commits(count)} exact again")


def _print(choices: Sequence[Choice], shorts: dict[Any, str], done: LossyRepacked, dry_run: bool) -> None:
    turned = {one.commit_id: one for one in done.turned}
    rows = [("", "", "", "exact", "lossy", "")]
    for choice in choices:
        one = turned.get(choice.commit_id)
        cells = ("", "", choice.reason or "it was changed meanwhile") if one is None else _cells(one)
        state = "lossy" if one is not None and one.lossy is not None else "stays"
        rows.append((state, shorts[choice.commit_id], render.one_line(choice.commit.subject), *cells))
    if len(rows) > 1:
        render.table(rows, right=frozenset({3, 4}))
    count = sum(one.lossy is not None for one in done.turned)
    if not count:
        render.note("nothing to round")
        return
    given_up, taken = sum(one.given_up for one in done.turned), sum(one.taken for one in done.turned)
    render.data(
        f"frames of the vault: {render.size(done.before)} now, about {render.size(done.after)} after a gc: stand-ins"
        f" take {render.size(taken)}, exact frames that nothing else needs took {render.size(given_up)}"
    )
    if done.leaning:
        render.note(
            f"{render.size(done.leaning)} of exact frames that stay lean on what goes: the gc codes them anew, and they"
            " may grow"
        )
    if dry_run:
        render.note(f"would make {_commits(count)} lossy; --yes-lossy instead of -n does it")
    else:
        render.note(
            f"made {_commits(count)} lossy; the next gc frees what nothing needs any more, and until then"
            " repack --undo-lossy takes it back"
        )


def _cells(one: Turned) -> tuple[str, str, str]:
    if one.lossy is None:
        return "", "", "it has nothing to round"
    largest = f"{one.lossy.max_abs:.3g}" if one.lossy.is_absolute else f"{one.lossy.max_rel:.3g} of a number"
    return render.size(one.given_up), render.size(one.taken), f"{one.lossy}: differs by at most {largest}"


def _commits(count: int) -> str:
    return f"{count} commit{'s' if count != 1 else ''}"


def _json(choices: Sequence[Choice], done: LossyRepacked, dry_run: bool) -> dict[str, Any]:
    return {
        "schema": "modelvault.repack-lossy/1",
        "dry_run": dry_run,
        "before": {"stored_bytes": done.before},
        "after": {"stored_bytes": done.after},
        "leaning_bytes": done.leaning,
        "commits": [
            {
                "id": one.commit_id.hex(),
                "subject": one.commit.subject,
                "mode": str(one.lossy),
                "given_up_bytes": one.given_up,
                "stored_bytes": one.taken,
                "lossy": lossy_json(one.lossy),
            }
            for one in done.turned
            if one.lossy is not None
        ],
        "kept": [
            {"id": choice.commit_id.hex(), "subject": choice.commit.subject, "reason": choice.reason}
            for choice in choices
            if choice.reason
        ],
    }
