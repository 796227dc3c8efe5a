"""What `log` prints. Light: neither numpy nor torch is imported, and not typer either (see `quick`)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from modelvault.cli import render
from modelvault.cli.vault import here
from modelvault.errors import UnknownRevisionError, UsageError
from modelvault.ids import CommitId
from modelvault.objects.commit import Commit
from modelvault.objects.lossy import BOUNDS, Lossy
from modelvault.objects.payload import Payload
from modelvault.objects.recipe import PARTS
from modelvault.repository import history, refs
from modelvault.repository.repository import Repository

if TYPE_CHECKING:
    from modelvault.repository.selection import Selection
    from modelvault.store.base import ReadTransaction


def show_log(
    revision: str | None = None,
    *,
    oneline: bool = False,
    graph: bool = False,
    all_: bool = False,
    limit: int | None = None,
    json: bool = False,
    stat: bool = False,
    selection: Selection | None = None,
) -> None:
    """Print commits, newest first unless the selection has an order of its own."""
    if graph and (stat or selection is not None):
        raise UsageError("--graph goes with none of --stat, --grep, --metric and --sort")
    repository = here()
    with repository.store.read() as txn:
        commits = _select(repository, txn, revision, all_, in_graph_order=graph)
        if selection is not None:
            commits = selection.apply(commits, repository.config)
        names = refs.names_of(txn)
        if json:
            _print_json(txn, commits, names, limit, stat=stat)
        elif graph:
            _print_graph(txn, commits, names, limit, oneline)
        else:
            for count, (commit_id, commit) in enumerate(commits):
                if limit is not None and count >= limit:
                    break
                if oneline:
                    render.data(one_line(txn, commit_id, commit, names))
                else:
                    render.lines(_paragraph(txn, commit_id, commit, names, is_first=count == 0))
                if stat:
                    if not oneline:
                        render.data("")
                    render.lines(_stat(txn, commit_id, commit))


def _select(
    repository: Repository, txn: ReadTransaction, revision: str | None, all_: bool, *, in_graph_order: bool
) -> Iterator[tuple[CommitId, Commit]]:
    walk = history.topological if in_graph_order else history.walk
    starts: list[CommitId] = []
    exclude: set[CommitId] = set()
    if revision is not None:
        from modelvault.repository.revisions import resolve_range

        selected = resolve_range(txn, revision, repository.config)
        starts.append(selected.include)
        if selected.exclude is not None:
            exclude = history.ancestors(txn, selected.exclude)
    else:
        tip = refs.head_commit(txn)
        if tip is None and not all_:
            branch = refs.read_head(txn).branch
            if not refs.list_refs(txn, refs.BRANCHES):
                return iter(())  # an empty vault has an empty log
            raise UnknownRevisionError(f"branch {branch} has no commits yet", hint="modelvault log --all")
        starts += [tip] if tip is not None else []
    if all_:
        for prefix in (refs.BRANCHES, refs.TAGS):
            starts += refs.list_refs(txn, prefix).values()
    return walk(txn, starts, exclude)


def one_line(txn: ReadTransaction, commit_id: CommitId, commit: Commit, names: dict[CommitId, list[str]]) -> str:
    """Return a commit as one line."""
    payload = history.read_payload(txn, commit_id)
    cells = [history.shorten(txn, commit_id)]
    if commit_id in names:
        cells.append(f"({', '.join(names[commit_id])})")
    cells.append(render.one_line(commit.subject))
    if commit.step is not None:
        cells.append(f" step {commit.step}")
    cells += [f" {render.one_line(name)} {value:g}" for name, value in commit.metrics.items()]
    cells.append(f" {_cost(commit, payload)}")
    return " ".join(cells)


def forgotten(payload: Payload) -> str:
    """Return `forgotten`, or which parts are, or "" for a commit that keeps all of its bytes."""
    names = [name for name, moment in zip(PARTS, payload.forgotten, strict=True) if moment]
    if len(names) == len(PARTS):
        return "forgotten"
    return f"{', '.join(names)} forgotten" if names else ""


def _cost(commit: Commit, payload: Payload) -> str:
    if lost := forgotten(payload):
        return lost
    raw, ratio = commit.raw_bytes, render.ratio(commit.raw_bytes, payload.added_bytes)
    return (
        f"+{render.size(payload.added_bytes)} of {render.size(raw)}  {ratio} {payload.mode_name}  depth {payload.depth}"
    )


def _paragraph(
    txn: ReadTransaction,
    commit_id: CommitId,
    commit: Commit,
    names: dict[CommitId, list[str]],
    *,
    is_first: bool,
) -> Iterator[str]:
    if not is_first:
        yield ""
    decoration = f" ({', '.join(names[commit_id])})" if commit_id in names else ""
    yield f"commit {commit_id.hex()}{decoration}"
    yield f"Author: {render.one_line(commit.author)}"
    yield f"Date:   {date(commit.time_ms, commit.offset_min)}"
    if commit.step is not None:
        yield f"Step:   {commit.step}"
    if commit.metrics:
        yield "Metric: " + ", ".join(f"{render.one_line(name)} {value:g}" for name, value in commit.metrics.items())
    for name, text in commit.meta.items():
        yield f"Meta:   {render.one_line(name)}={render.one_line(text)}"
    for entry in commit.files[:10]:
        yield f"File:   {render.one_line(entry.path)}  {render.size(entry.size)}"
    if len(commit.files) > 10:
        yield f"        and {len(commit.files) - 10} more"
    yield f"Cost:   {_cost(commit, history.read_payload(txn, commit_id))}"
    yield ""
    for line in commit.message.splitlines():
        yield f"    {render.one_line(line)}".rstrip()


def _stat(txn: ReadTransaction, commit_id: CommitId, commit: Commit) -> Iterator[str]:
    """Yield a line for each file that is not as in the first parent."""
    from modelvault.repository.changes import read_changes

    mode = history.read_payload(txn, commit_id).mode_name
    changes = [change for change in read_changes(txn, commit_id, commit) if change.state != "same"]
    for change in changes:
        line = f" {change.state:<8} {render.one_line(change.path)}  {render.size(change.size)}"
        if change.state != "removed":
            line += f"  {change.new} of {change.tensors} stored tensors new"
        if change.new:
            ratio = render.ratio(change.new_bytes, change.stored_bytes)
            line += f", {render.size(change.new_bytes)} in {render.size(change.stored_bytes)} ({ratio} {mode})"
        yield line
    if not changes:
        yield " every file is as in the parent"


def _stat_json(txn: ReadTransaction, commit_id: CommitId, commit: Commit) -> list[dict[str, Any]]:
    from modelvault.repository.changes import read_changes

    return [
        {
            "path": change.path,
            "state": change.state,
            "size": change.size,
            "tensors": change.tensors,
            "new_tensors": change.new,
            "new_bytes": change.new_bytes,
            "stored_bytes": change.stored_bytes,
        }
        for change in read_changes(txn, commit_id, commit)
    ]


def date(time_ms: int, offset_min: int) -> str:
    """Return a moment as its author's clock showed it."""
    moment = time.gmtime(time_ms // 1000 + offset_min * 60)
    sign, minutes = ("-" if offset_min < 0 else "+"), abs(offset_min)
    return time.strftime("%Y-%m-%d %H:%M:%S", moment) + f" {sign}{minutes // 60:02}{minutes % 60:02}"


def local_date(time_ms: int) -> str:
    """Return a moment as the clock here shows it."""
    return date(time_ms, (time.localtime(time_ms // 1000).tm_gmtoff or 0) // 60)


def iso_date(time_ms: int) -> str:
    """Return a moment in UTC as ISO 8601 with milliseconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time_ms // 1000)) + f".{time_ms % 1000:03}Z"


def commit_json(
    txn: ReadTransaction, commit_id: CommitId, commit: Commit, names: dict[CommitId, list[str]]
) -> dict[str, Any]:
    """Return a commit as JSON shows it."""
    payload = history.read_payload(txn, commit_id)
    return {
        "id": commit_id.hex(),
        "short": history.shorten(txn, commit_id),
        "parents": [parent.hex() for parent in commit.parents],
        "refs": names.get(commit_id, []),
        "author": commit.author,
        "time": iso_date(commit.time_ms),
        "offset_minutes": commit.offset_min,
        "subject": commit.subject,
        "message": commit.message,
        "step": commit.step,
        "metrics": {name: render.json_number(value) for name, value in commit.metrics.items()},
        "meta": dict(commit.meta),
        "files": [
            {"path": e.path, "size": e.size, "executable": e.executable, "sha256": e.file_id.hex()}
            | ({"stand_in_sha256": kept.file_id.hex()} if kept.file_id != e.file_id else {})
            for e, kept in zip(commit.files, history.stood_in(commit, payload), strict=True)
        ],
        "mode": payload.mode_name,
        "raw_bytes": commit.raw_bytes,
        "added_bytes": payload.added_bytes,
        "keyframes": payload.keyframes,
        "deltas": payload.deltas,
        "depth": payload.depth,
        "forgotten": {name: iso_date(moment) for name, moment in zip(PARTS, payload.forgotten, strict=True) if moment},
    } | ({"lossy": lossy_json(payload.lossy)} if payload.lossy is not None else {})


def lossy_json(lossy: Lossy) -> dict[str, Any]:
    """Return what is lossy as JSON shows it."""
    return {
        "bound": BOUNDS[lossy.bound],
        "eps": lossy.eps,
        "vectors": lossy.vectors,
        "optimizer": lossy.optimizer,
        "max_abs": lossy.max_abs,
        "max_rel": lossy.max_rel,
        "changed": lossy.changed,
        "evaluator": lossy.evaluator,
        "original_metric": render.json_number(lossy.original_metric),
        "max_drop": lossy.max_drop,
        "alpha": lossy.alpha,
        "trials": [trial._asdict() for trial in lossy.trials],
    }


def _print_json(
    txn: ReadTransaction,
    commits: Iterable[tuple[CommitId, Commit]],
    names: dict[CommitId, list[str]],
    limit: int | None,
    *,
    stat: bool,
) -> None:
    found = (
        commit_json(txn, commit_id, commit, names) | ({"stat": _stat_json(txn, commit_id, commit)} if stat else {})
        for commit_id, commit in itertools.islice(commits, limit)
    )
    render.json_list({"schema": "modelvault.log/1"}, "commits", found)


def _print_graph(
    txn: ReadTransaction,
    commits: Iterable[tuple[CommitId, Commit]],
    names: dict[CommitId, list[str]],
    limit: int | None,
    oneline: bool,
) -> None:
    from modelvault.cli.graph import draw

    known = dict(commits)
    shown = 0
    for text, node in draw((commit_id, commit.parents) for commit_id, commit in known.items()):
        if node is None:
            render.data(text)
            continue
        if limit is not None and shown >= limit:
            break
        shown += 1
        if oneline:
            render.data(f"{text} {one_line(txn, node, known[node], names)}")
            continue
        stem = text.replace("*", "|")
        for place, line in enumerate(_paragraph(txn, node, known[node], names, is_first=True)):
            render.data(f"{text if place == 0 else stem} {line}".rstrip())
        render.data(stem)
