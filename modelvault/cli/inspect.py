"""`show` and `fsck`: what a commit is made of, and whether everything can be read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from modelvault.cli import render
from modelvault.cli.commit_text import commit_json, date, forgotten, local_date
from modelvault.cli.options import Json
from modelvault.cli.vault import here
from modelvault.errors import CorruptError
from modelvault.objects.commit import FileEntry
from modelvault.objects.lossy import Lossy
from modelvault.repository import history, refs
from modelvault.repository.contents import FileContents, read_contents
from modelvault.repository.fsck import Findings, check
from modelvault.repository.restoring import RestoreCost, restore_cost
from modelvault.repository.retention import is_held
from modelvault.repository.revisions import resolve


def show(
    revision: Annotated[str, typer.Argument(metavar="REV", help="Which commit.")] = "HEAD",
    cost: Annotated[
        bool, typer.Option("--cost", help="Say what restoring it takes: which commits it leans on, bytes, time.")
    ] = False,
    json: Json = False,
) -> None:
    """Show one commit: what was said and measured, its files, and how their tensors are kept."""
    repository = here()
    with repository.store.read() as txn:
        resolved = resolve(txn, revision, repository.config)
        if resolved.note:
            render.note(resolved.note)
        commit = history.read_commit(txn, resolved.commit_id)
        names = refs.names_of(txn)
        payload = history.read_payload(txn, resolved.commit_id)
        kept = history.kept_files(txn, resolved.commit_id, commit)
        # Once all of a file is forgotten, a gc may have taken even what it was made of.
        contents = [
            read_contents(txn, entry) if not all(payload.forgotten) or is_held(txn, entry.file_id) else entry
            for entry in kept
        ]
        restoring = restore_cost(txn, resolved.commit_id) if cost else None
        if json:
            found = commit_json(txn, resolved.commit_id, commit, names)
            found["files"] = [
                said | _contents_json(content) | {"sha256": said["sha256"]}
                for said, content in zip(found["files"], contents, strict=True)
            ]
            said = {"cost": _cost_json(restoring)} if restoring is not None else {}
            render.json_object({"schema": "modelvault.show/1", **found, **said})
            return
        parents = [history.shorten(txn, parent) for parent in commit.parents]
    decoration = f" ({', '.join(names[resolved.commit_id])})" if resolved.commit_id in names else ""
    render.data(f"commit {resolved.commit_id.hex()}{decoration}")
    render.data(f"Parent: {', '.join(parents) or 'none'}")
    render.data(f"Author: {render.one_line(commit.author)}")
    render.data(f"Date:   {date(commit.time_ms, commit.offset_min)}")
    if commit.step is not None:
        render.data(f"Step:   {commit.step}")
    for name, value in commit.metrics.items():
        render.data(f"Metric: {render.one_line(name)} {value:g}")
    for name, text in commit.meta.items():
        render.data(f"Meta:   {render.one_line(name)}={render.one_line(text)}")
    raw = commit.raw_bytes
    if lost := forgotten(payload):
        render.data(f"Kept:   {lost} on {local_date(max(payload.forgotten))}")
    else:
        render.data(
            f"Kept:   {payload.mode_name}, {render.size(payload.added_bytes)} added for {render.size(raw)} raw"
            f" ({render.ratio(raw, payload.added_bytes)}), {payload.keyframes} keyframes, {payload.deltas} deltas,"
            f" depth {payload.depth}"
        )
    if payload.lossy is not None:
        render.lines(_lossy(payload.lossy))
    render.data("")
    for line in commit.message.splitlines():
        render.data(f"    {render.one_line(line)}".rstrip())
    for entry, content in zip(commit.files, contents, strict=True):
        render.data("")
        render.data(f"{render.one_line(entry.path)}  {render.size(entry.size)}  sha256 {entry.file_id.hex()}")
        stored = content if isinstance(content, FileEntry) else content.entry
        if stored.file_id != entry.file_id:
            render.data(f"  checkout gives a stand-in for it: sha256 {stored.file_id.hex()}")
        if not isinstance(content, FileEntry):
            render.data(
                f"  {content.format}: {content.understood_share:.1%} of the bytes understood as tensors,"
                f" {content.segments} ranges in {content.tensors} stored tensors, depth {content.depth}"
            )
    if restoring is not None:
        render.data("")
        render.data(
            f"Restoring it reads {render.size(restoring.read_bytes)}, decodes {render.size(restoring.decoded_bytes)}"
            f" and takes about {restoring.seconds:.2g} s; depth {restoring.depth}"
        )
        render.table(list(_chain(restoring)), right=frozenset({0, 1, 2, 3}))


def _chain(restoring: RestoreCost) -> Iterator[tuple[str, ...]]:
    """Yield a row for each commit that a restore leans on."""
    yield "tensors", "read", "decoded", "depth", "of commit"
    for link in restoring.links:
        of = f"{link.short}  {render.one_line(link.subject)}" if link.commit_id else "(none that is kept)"
        yield str(link.tensors), render.size(link.read_bytes), render.size(link.decoded_bytes), str(link.depth), of


def _cost_json(restoring: RestoreCost) -> dict[str, Any]:
    return {
        "read_bytes": restoring.read_bytes,
        "decoded_bytes": restoring.decoded_bytes,
        "work": restoring.work,
        "seconds": restoring.seconds,
        "depth": restoring.depth,
        "chain": [
            {
                "commit": link.commit_id.hex() if link.commit_id is not None else None,
                "tensors": link.tensors,
                "read_bytes": link.read_bytes,
                "decoded_bytes": link.decoded_bytes,
                "depth": link.depth,
            }
            for link in restoring.links
        ],
    }


def _lossy(lossy: Lossy) -> Iterator[str]:
    """Yield what is to be said of a lossy commit: its bound, what was measured, and how the bound was found."""
    limit = f"|a - a'| <= {math.log1p(lossy.eps):.6g}" if lossy.is_absolute else f"|a - a'| <= {lossy.eps:g} |a|"
    vectors = f"within {lossy.vectors:g} of their magnitude" if lossy.vectors else "exact"
    yield (
        f"Bound:  {limit} for every number; largest difference {lossy.max_abs:.6g},"
        f" {lossy.max_rel:.6g} of a magnitude; {lossy.changed} numbers differ; one-dimensional tensors {vectors}"
    )
    if lossy.optimizer:
        yield (
            f"        but for optimizer state, which is within {lossy.optimizer:g} of a unit: a second moment's"
            " magnitude, its root for the first one, a momentum buffer's root mean square"
        )
    if lossy.evaluator:
        yield (
            f"Tried:  {render.one_line(lossy.evaluator)}: {lossy.original_metric:g} for the original, at most"
            f" {lossy.max_drop:.4g} of it lost; score = {lossy.alpha:g} ratio + {1 - lossy.alpha:g} metric"
        )
        for trial in lossy.trials:
            chosen = "  chosen" if trial.eps == lossy.eps else ""
            yield (
                f"        {trial.eps:<9.4g} {trial.ratio:8.2f}x lossy  metric {trial.metric:<9.6g}"
                f" score {trial.score:.3f}{chosen}"
            )


def _contents_json(content: FileContents | FileEntry) -> dict[str, Any]:
    """Return a file as JSON shows it; of one whose recipe is gone only what the commit says."""
    entry = content if isinstance(content, FileEntry) else content.entry
    said = {
        "path": entry.path,
        "size": entry.size,
        "executable": entry.executable,
        "sha256": entry.file_id.hex(),
    }
    if isinstance(content, FileEntry):
        return said
    return said | {
        "format": content.format,
        "understood_share": render.json_number(content.understood_share),
        "ranges": content.segments,
        "tensors": content.tensors,
        "stored_bytes": content.stored_bytes,
        "depth": content.depth,
    }


def fsck(
    quick: Annotated[bool, typer.Option("--quick", help="Check records only; decode no tensor.")] = False,
    json: Json = False,
) -> None:
    """Prove every object readable; name each damaged one and the commits it hurts."""
    repository = here()
    progress = render.ProgressBar()
    try:
        found = check(repository, quick=quick, progress=progress)
    finally:
        progress.close()
    with repository.store.read() as txn:
        problems = [
            {"object": what, "problem": why, "commits": [commit_id.hex() for commit_id in commits]}
            for what, why, commits in found.problems
        ]
        shorts = {c: history.shorten(txn, c) for problem in found.problems for c in problem.commits}
    if json:
        render.json_object(
            {
                "schema": "modelvault.fsck/1",
                "commits": found.commits,
                "files": found.files,
                "tensors": found.tensors,
                "bytes_decoded": found.bytes_decoded,
                "quick": quick,
                "problems": problems,
            }
        )
    else:
        for what, why, commits in found.problems:
            hurt = f"; hurts {', '.join(shorts[c] for c in commits)}" if commits else ""
            render.data(render.one_line(f"{what}: {why}{hurt}"))
        render.data(_summary(found, quick))
    if found.problems:
        count = len(found.problems)
        is_unneeded = all(what.startswith("tensor ") and not commits for what, _, commits in found.problems)
        raise CorruptError(
            f"{count} damaged object{'s' if count > 1 else ''} found",
            hint="no commit needs them: modelvault gc" if is_unneeded else "restore the vault from a copy",
        )


def _summary(found: Findings, quick: bool) -> str:
    decoded = "no tensor decoded" if quick else f"{render.size(found.bytes_decoded)} decoded"
    verdict = f"{len(found.problems)} damaged" if found.problems else "all good"
    return f"checked {found.commits} commits, {found.files} files, {found.tensors} tensors, {decoded}: {verdict}"
