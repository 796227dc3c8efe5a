"""`commit` and `checkout`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from modelvault.cli import render
from modelvault.cli.commit_text import commit_json
from modelvault.cli.options import BoundKind, Eps, Force, Json, LockTimeout, OptimizerShare, Vectors, metrics, pairs
from modelvault.cli.vault import here
from modelvault.errors import CorruptError, UsageError
from modelvault.ids import CommitId
from modelvault.objects.lossy import Lossy
from modelvault.repository import history, refs
from modelvault.repository.abreast import checkout_many
from modelvault.repository.bound_search import DEFAULT_ALPHA, DEFAULT_RANGE, bounds_between
from modelvault.repository.checkout import Restored, stream
from modelvault.repository.checkout import checkout as restore_commit
from modelvault.repository.commit import Committed, Request, make_commit
from modelvault.repository.evaluator import DEFAULT_TIMEOUT, command
from modelvault.repository.lossy import Evaluation, Said, lossy_request
from modelvault.repository.repository import DEFAULT_LOCK_TIMEOUT, Repository
from modelvault.repository.revisions import Resolved, resolve, resolve_each
from modelvault.repository.surplus import Surplus, estimate
from modelvault.repository.worktree import write_all

_LITTLE_GAIN = 1.25
_LITTLE_GAIN_BYTES = 1 << 20


def commit(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Files, or directories with all below them.")],
    message: Annotated[str, typer.Option("--message", "-m", help="What this is; its first line names the commit.")],
    tag: Annotated[str | None, typer.Option("--tag", help="Put this tag on it.", show_default=False)] = None,
    step: Annotated[int | None, typer.Option("--step", help="The training step.", show_default=False)] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME=NUMBER", help="A measured value; may be repeated."),
    ] = None,
    meta: Annotated[
        list[str] | None, typer.Option("--meta", metavar="NAME=TEXT", help="Any other fact; may be repeated.")
    ] = None,
    lossy: Eps = None,
    bound: BoundKind = None,
    vectors: Vectors = None,
    optimizer: OptimizerShare = None,
    evaluator: Annotated[
        str | None,
        typer.Option("--eval", metavar="CMD", help="Find the bound with CMD FILE, which prints a number to keep high."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", metavar="X", help="What share of CMD's number may be lost, such as 0.002."),
    ] = None,
    alpha: Annotated[
        float, typer.Option("--alpha", help="Weight of the ratio against CMD's number, 0 to 1.")
    ] = DEFAULT_ALPHA,
    search: Annotated[str, typer.Option("--range", metavar="LOW:HIGH", help="Bounds to try.")] = "{:g}:{:g}".format(
        *DEFAULT_RANGE
    ),
    eval_timeout: Annotated[
        float, typer.Option("--eval-timeout", metavar="SECONDS", help="How long CMD may take for one file.", min=0)
    ] = DEFAULT_TIMEOUT,
    exact: Annotated[bool, typer.Option("--exact", help="Keep every bit, whatever config.yaml says.")] = False,
    lock_timeout: LockTimeout = DEFAULT_LOCK_TIMEOUT,
    json: Json = False,
) -> None:
    """Record files exactly as they are, or rounded if asked for, and print what keeping them cost."""
    repository = here(lock_timeout)
    evaluation = None
    if evaluator is not None:
        if max_drop is None:
            raise UsageError("--eval needs to know how much may be lost", hint="--max-drop 0.002 for 0.2 %")
        evaluation = Evaluation(
            command(evaluator, eval_timeout), evaluator, max_drop, alpha, bounds_between(*_range(search))
        )
    elif max_drop is not None:
        raise UsageError("--max-drop goes with --eval")
    if exact and (lossy is not None or evaluation is not None):
        raise UsageError("--exact and rounding exclude each other")
    said = Said(lossy, bound, vectors, optimizer, evaluation)
    wish = None if exact else lossy_request(repository.config.lossy, said)
    request = Request(paths, message, tag, step, metrics(metric or []), pairs(meta or [], "--meta"), wish)
    progress = render.ProgressBar()
    try:
        done = make_commit(repository, request, progress)
    finally:
        progress.close()
    for path in done.outside:
        render.note(f"{path} lies outside {repository.root}; recorded as {Path(path).name}")
    for text in done.notes:
        render.note(text)
    with repository.store.read() as txn:
        short = history.shorten(txn, done.commit_id)
        if json:
            found = commit_json(txn, done.commit_id, done.commit, refs.names_of(txn))
            extra = {"branch": done.branch, "opened_branch": done.opened, "unchanged": done.unchanged}
            render.json_object({"schema": "modelvault.commit/1", **found, **extra})
    if not json:
        _say(done, short)
    _hint(estimate(repository.store))


def _range(text: str) -> tuple[float, float]:
    low, colon, high = text.partition(":")
    try:
        return float(low), float(high if colon else low)
    except ValueError:
        raise UsageError(f"--range {text!a}: LOW:HIGH is wanted", hint="--range 0.0001:0.1") from None


def _say(done: Committed, short: str) -> None:
    raw, cost = done.commit.raw_bytes, done.payload
    gain = render.ratio(raw, cost.added_bytes)
    render.data(
        f"[{done.branch} {short}] {render.one_line(done.commit.subject)}  +{render.size(cost.added_bytes)}"
        f" ({render.size(raw)} raw, {gain}, {cost.mode_name})  depth {cost.depth}"
    )
    if cost.lossy is not None:
        render.note(
            f"lossy: checkout gives a stand-in that differs by at most {cost.lossy.max_abs:.3g}; keep the original"
            " if you may need it"
        )
    if done.opened:
        render.note(f"HEAD was detached: opened branch {done.branch} for this commit")
    if done.unchanged:
        render.note("every file is as in the parent; the commit was made all the same")
    elif raw >= _LITTLE_GAIN_BYTES and raw < cost.added_bytes * _LITTLE_GAIN and cost.deltas > cost.keyframes:
        render.note("little gained: nearly every bit changed since the parent, which is usual early in training")


def _hint(surplus: Surplus) -> None:
    """Say what to do about a vault of which much could go."""
    if surplus.is_mostly_forgotten:
        render.note(
            f"up to {render.size(surplus.forgotten_bytes)} of {render.size(surplus.file_bytes)} on disk belong to what"
            " was forgotten: modelvault gc frees it 14 days after that, with --grace 0s now"
        )
    elif surplus.is_mostly_free:
        render.note(
            f"{render.size(surplus.free_bytes)} of {render.size(surplus.file_bytes)} on disk are free for later"
            " commits; modelvault gc --compact gives them back to the file system"
        )


def checkout(
    revision: Annotated[str, typer.Argument(metavar="REV", help="Which commit.")],
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH", help="Only these files; HEAD stays.", show_default=False),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(
            "--into",
            metavar="DIR",
            help="Every word is a revision or a range A..B: each commit into DIR/ID; HEAD stays.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE|DIR|-", help="Write there; HEAD stays.", show_default=False),
    ] = None,
    force: Force = False,
    lock_timeout: LockTimeout = DEFAULT_LOCK_TIMEOUT,
    json: Json = False,
) -> None:
    """Write a commit's files to their recorded paths and move HEAD there.

    With --into several commits are restored at once, for little more than one takes if they lean on one another.
    """
    repository = here(lock_timeout)
    if into is not None:
        if output is not None:
            raise UsageError("--into and -o exclude each other")
        _checkout_many(repository, [revision, *(paths or ())], Path(into), force, json)
        return
    with repository.store.read() as txn:
        resolved = resolve(txn, revision, repository.config)
    if resolved.note:
        render.note(resolved.note)
    wanted = tuple(_in_vault(repository, path) for path in paths or ()) if output is None else tuple(paths or ())
    if output == "-":
        if json:
            raise UsageError("--json and -o - both want stdout")
        _say_lossy(_lossy(repository, resolved.commit_id))
        sys.stdout.flush()
        for data in stream(repository, resolved.commit_id, wanted):
            write_all(sys.stdout.fileno(), data)
        return
    progress = render.ProgressBar()
    try:
        done = restore_commit(
            repository,
            resolved,
            wanted,
            output=Path(output) if output is not None else None,
            is_directory=output is not None and output.endswith("/"),
            force=force,
            progress=progress,
        )
    finally:
        progress.close()
    _report(repository, resolved, done, json)


def _checkout_many(repository: Repository, revisions: list[str], directory: Path, force: bool, json: bool) -> None:
    with repository.store.read() as txn:
        wanted = resolve_each(txn, revisions, repository.config)
    if not wanted:
        raise UsageError(f"there is nothing in {' '.join(revisions)}", hint="A..B is what B has and A has not")
    progress = render.ProgressBar()
    try:
        found = checkout_many(repository, wanted, directory, force=force, progress=progress)
    finally:
        progress.close()
    if json:
        commits = [_restored_json(repository, done) for done in found]
        render.json_object({"schema": "modelvault.checkout-many/1", "directory": str(directory), "commits": commits})
        return
    for done in found:
        _say_restored(done)
        _say_lossy(_lossy(repository, done.commit_id))


def _restored_json(repository: Repository, done: Restored) -> dict[str, Any]:
    lossy = _lossy(repository, done.commit_id)
    return {
        "id": done.commit_id.hex(),
        "mode": str(lossy) if lossy is not None else "lossless",
        "written": [
            {"path": str(path), "size": entry.size, "sha256": entry.file_id.hex()} for path, entry in done.written
        ],
        "present": [str(path) for path in done.present],
    }


def _say_restored(done: Restored) -> None:
    for path, entry in done.written:
        render.data(f"{render.one_line(str(path))}  {render.size(entry.size)}  sha256 {entry.file_id.hex()[:16]} ok")
    for path in done.present:
        render.data(f"{render.one_line(str(path))}  unchanged")


def _in_vault(repository: Repository, path: str) -> str:
    """Return a path as the snapshot has it, given as the user sees it from the working directory."""
    root = os.path.realpath(repository.root)
    relative = os.path.relpath(Path(os.path.realpath(os.curdir), path), root)
    return path if relative.startswith("..") else relative


def _report(repository: Repository, resolved: Resolved, done: Restored, json: bool) -> None:
    with repository.store.read() as txn:
        short = history.shorten(txn, done.commit_id)
        subject = history.read_commit(txn, done.commit_id).subject
    lossy = _lossy(repository, done.commit_id)
    if json:
        found = _restored_json(repository, done)
        head = {"head_moved": done.moved, "branch": done.branch}
        render.json_object({"schema": "modelvault.checkout/1", **found, **head})
        return
    _say_restored(done)
    _say_lossy(lossy)
    if done.moved:
        where = f"on branch {resolved.branch}" if resolved.branch else "detached; a commit from here opens a branch"
        render.note(f"HEAD is now at {short} {render.one_line(subject)} ({where})")


def _lossy(repository: Repository, commit_id: CommitId) -> Lossy | None:
    try:
        with repository.store.read() as txn:
            return history.read_payload(txn, commit_id).lossy
    except CorruptError:
        return None  # fsck's to report; what was written is what the commit names


def _say_lossy(lossy: Lossy | None) -> None:
    if lossy is not None:
        state = ", and by its own bounds in optimizer state" if lossy.optimizer else ""
        render.note(f"{lossy}: a stand-in, which differs by at most {lossy.max_abs:.3g} from what was committed{state}")
