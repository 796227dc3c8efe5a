"""`plan` and `repack`: the whole history stored anew, or what that would give."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import typer

from modelvault.cli import render
from modelvault.cli.lossy_repack import turn_exact, turn_lossy
from modelvault.cli.options import BoundKind, Eps, Json, LockTimeout, OptimizerShare, Vectors
from modelvault.cli.vault import here
from modelvault.errors import UsageError
from modelvault.repository.config import Config
from modelvault.repository.cost import seconds
from modelvault.repository.kept import State
from modelvault.repository.lossy import Said, lossy_request
from modelvault.repository.repack import Bounds, Repacked
from modelvault.repository.repack import repack as run_repack
from modelvault.repository.repository import DEFAULT_LOCK_TIMEOUT, Repository

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}

MaxDepth = Annotated[
    int | None,
    typer.Option("--max-depth", metavar="N", help="Longest chain of references: 0 to 16.", show_default=False),
]
MaxRestore = Annotated[
    float | None,
    typer.Option(
        "--max-restore", metavar="SECONDS", help="Most that decoding one commit may take.", show_default=False
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget", metavar="BYTES", help="Spend so much (64M, 1.5G) to make restoring cheap.", show_default=False
    ),
]
Effort = Annotated[
    Literal["normal", "max"],
    typer.Option("--effort", help="max: measure more; let weights follow the optimizer's state too."),
]
Tips = Annotated[bool, typer.Option("--keyframe-tips", help="Keep the newest of every line as a keyframe.")]


def plan(
    max_depth: MaxDepth = None,
    max_restore: MaxRestore = None,
    budget: Budget = None,
    effort: Effort = "normal",
    keyframe_tips: Tips = False,
    json: Json = False,
) -> None:
    """Show what repack would do, and what that would cost and save. Nothing is changed."""
    repository = here(DEFAULT_LOCK_TIMEOUT)
    bounds = _bounds(repository.config, max_depth, max_restore, budget, effort, keyframe_tips)
    _run("plan", repository, bounds, True, json)


def repack(
    revisions: Annotated[
        list[str] | None,
        typer.Argument(metavar="REV", help="With --lossy: these commits, or ranges A..B.", show_default=False),
    ] = None,
    max_depth: MaxDepth = None,
    max_restore: MaxRestore = None,
    budget: Budget = None,
    effort: Effort = "normal",
    keyframe_tips: Tips = False,
    lossy: Eps = None,
    bound: BoundKind = None,
    vectors: Vectors = None,
    optimizer: OptimizerShare = None,
    yes_lossy: Annotated[bool, typer.Option("--yes-lossy", help="Give up the exact bytes of these commits.")] = False,
    undo_lossy: Annotated[
        bool, typer.Option("--undo-lossy", help="Make REV, or all lossy commits, exact again where no gc was yet.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Change nothing; say what would happen.")] = False,
    lock_timeout: LockTimeout = DEFAULT_LOCK_TIMEOUT,
    json: Json = False,
) -> None:
    """Store the whole history anew: the same commits in less space, or in shorter chains. No id changes.

    With --lossy, commits that are exact become lossy instead: those named, or without REV those of the current branch
    that are no branch's tip, not tagged, and not where HEAD is. Their exact bytes go with the next gc.
    """
    if undo_lossy:
        if lossy is not None or yes_lossy or (bound, vectors, optimizer) != (None, None, None):
            raise UsageError("--undo-lossy takes commits and nothing else", hint="repack --undo-lossy REV")
        turn_exact(here(lock_timeout), revisions or [], dry_run=dry_run, json=json)
        return
    if lossy is not None:
        if (max_depth, max_restore, budget, effort, keyframe_tips) != (None, None, None, "normal", False):
            raise UsageError("--lossy goes with no bounds of a plan", hint="repack once more without it")
        repository = here(lock_timeout)
        wish = lossy_request(repository.config.lossy, Said(lossy, bound, vectors, optimizer))
        assert wish is not None
        turn_lossy(repository, revisions or [], wish, is_meant=yes_lossy, dry_run=dry_run, json=json)
        return
    if revisions or yes_lossy or (bound, vectors, optimizer) != (None, None, None):
        raise UsageError(
            "REV, --bound, --vectors, --optimizer and --yes-lossy go with --lossy", hint="repack --lossy 0.001 REV"
        )
    repository = here(lock_timeout)
    bounds = _bounds(repository.config, max_depth, max_restore, budget, effort, keyframe_tips)
    _run("repack", repository, bounds, dry_run, json)


def _bounds(
    policy: Config,
    max_depth: int | None,
    max_restore: float | None,
    budget: str | None,
    effort: str,
    keyframe_tips: bool,
) -> Bounds:
    """Return what was asked for; where nothing was, what the vault's configuration says."""
    if max_restore is not None and not 0 < max_restore < float("inf"):
        raise UsageError(f"--max-restore {max_restore:g}: a number of seconds above 0 is wanted")
    return Bounds(
        max_depth=policy.longest_chain if max_depth is None else max_depth,
        max_restore=policy.max_restore_seconds if max_restore is None else max_restore,
        budget=None if budget is None else parse_size(budget),
        keyframe_tips=keyframe_tips,
        thorough=effort == "max",
    )


def parse_size(text: str) -> int:
    """Return the bytes that `64M`, `1.5G`, `1000000` stand for; K is 1024.

    >>> parse_size("1.5K")
    1536
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)([KMGT]?)(?:iB|B)?", text, re.ASCII)
    if not match:
        raise UsageError(f"--budget {text!a}: a number of bytes is wanted", hint="for example 64M or 1.5G")
    return int(float(match.group(1)) * 2 ** _UNITS[match.group(2)])


def _run(verb: str, repository: Repository, bounds: Bounds, dry_run: bool, json: bool) -> None:
    progress = render.ProgressBar()
    try:
        done = run_repack(repository, bounds, dry_run=dry_run, progress=progress)
    finally:
        progress.close()
    if json:
        render.json_object(_json(verb, done, dry_run))
        return
    if not done.tensors:
        render.data("nothing to plan yet")
        return
    after = "would be" if dry_run else "after"
    before, now = done.before, done.after
    render.table(
        [
            ("", "before", after),
            ("frames", render.size(before.nbytes), render.size(now.nbytes)),
            (
                "depth",
                f"mean {before.depth_mean:.1f}, max {before.depth_max}",
                f"mean {now.depth_mean:.1f}, max {now.depth_max}",
            ),
            ("decoding one version", _time(before), _time(now)),
        ]
    )
    render.data(
        f"{done.versions} versions, {done.edges} ways to store them measured; no plan without second references takes"
        f" less than about {render.size(done.bound)}"
    )
    if done.undone:
        render.data("it took more than before in the end, so everything was coded back")
    elif not done.recoded:
        render.data("nothing to gain: everything stays as it is")
    else:
        render.data(f"{done.recoded} of {done.tensors} tensors {'would be' if dry_run else 'were'} coded anew")


def _time(state: State) -> str:
    return f"mean {seconds(round(state.work_mean)):.2g} s, max {seconds(state.work_max):.2g} s"


def _json(verb: str, done: Repacked, dry_run: bool) -> dict[str, Any]:
    def state(one: State) -> dict[str, Any]:
        return {
            "stored_bytes": one.nbytes,
            "depth": {"mean": one.depth_mean, "max": one.depth_max},
            "work": {"mean": one.work_mean, "max": one.work_max},
            "seconds": {"mean": seconds(round(one.work_mean)), "max": seconds(one.work_max)},
        }

    return {
        "schema": f"modelvault.{verb}/1",
        "dry_run": dry_run,
        "before": state(done.before),
        "after": state(done.after),
        "tensors": done.tensors,
        "recoded": done.recoded,
        "versions": done.versions,
        "edges": done.edges,
        "bound_bytes": done.bound,
        "undone": done.undone,
    }
