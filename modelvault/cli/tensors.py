"""`ls`, `cat` and `diff`: the tensors inside a commit's files."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from modelvault.cli import render
from modelvault.cli.options import Json
from modelvault.cli.vault import here
from modelvault.errors import InputError, UnknownRevisionError, UsageError
from modelvault.ids import CommitId
from modelvault.repository import history
from modelvault.repository.checkout import select
from modelvault.repository.chunks import CACHE_BYTES, SHARED_BYTES
from modelvault.repository.diff import Distance, FileDiff, TensorDiff, diff_files
from modelvault.repository.export import Format, export
from modelvault.repository.inventory import FileTensor, Inventory, TensorReader, find, read_inventory
from modelvault.repository.repository import Repository
from modelvault.repository.retention import check_described
from modelvault.repository.revisions import Resolved, resolve, resolve_range
from modelvault.repository.worktree import write_all

if TYPE_CHECKING:
    from modelvault.objects.commit import FileEntry
    from modelvault.store.base import ReadTransaction

_WITH_COLON = ("step:", "best:", "id:")


def ls(
    revision: Annotated[str, typer.Argument(metavar="REV", help="Which commit.")] = "HEAD",
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="Only this file of it.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """List the tensors of a commit's files: name, dtype, shape, bytes and part."""
    repository = here()
    with repository.store.read() as txn:
        resolved = resolve(txn, revision, repository.config)
        if resolved.note:
            render.note(resolved.note)
        commit = history.read_commit(txn, resolved.commit_id)
        kept = history.kept_files(txn, resolved.commit_id, commit)
        entries = select(kept, (file,) if file else (), history.shorten(txn, resolved.commit_id))
        check_described(txn, resolved.commit_id, entries)
        found = [read_inventory(txn, entry) for entry in entries]
    if json:
        files = [_inventory_json(inventory) for inventory in found]
        render.json_object({"schema": "modelvault.ls/1", "id": resolved.commit_id.hex(), "files": files})
        return
    for place, inventory in enumerate(found):
        if place:
            render.data("")
        render.data(
            f"{render.one_line(inventory.entry.path)}  {render.size(inventory.entry.size)}  {inventory.format},"
            f" {len(inventory.tensors)} tensors"
        )
        rows = [
            (
                f"  {render.one_line(tensor.name)}",
                tensor.dtype.name.lower(),
                shape_text(tensor.shape),
                render.size(tensor.nbytes),
                f"{tensor.part}{', forgotten' if tensor.is_forgotten else ''}",
            )
            for tensor in inventory.tensors
        ]
        render.table(rows, right=frozenset({3}))


def cat(
    name: Annotated[
        str, typer.Argument(metavar="REV:TENSOR", help="Which tensor; REV:FILE:TENSOR if several files have it.")
    ],
    form: Annotated[
        Literal["npy", "raw", "json"],
        typer.Option("--format", help="An npy file, the bytes as they are stored, or a JSON object."),
    ] = "npy",
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Write one tensor to stdout. Only what it needs is decoded, and nothing is written before all of it is checked.

    numpy has no bfloat16 and no 8-bit floats: in an npy file these are float32, which holds every value of theirs.
    """
    chosen: Format = "json" if json else form
    if chosen != "json" and sys.stdout.isatty():
        raise UsageError("this would write bytes to a terminal", hint="modelvault cat ... > FILE, or --format json")
    revision, wanted = _split(name)
    repository = here()
    with repository.store.read() as txn:
        resolved = resolve(txn, revision, repository.config)
        if resolved.note:
            render.note(resolved.note)
        commit = history.read_commit(txn, resolved.commit_id)
        kept = history.kept_files(txn, resolved.commit_id, commit)
        check_described(txn, resolved.commit_id, kept)
        _, tensor = find([read_inventory(txn, entry) for entry in kept], wanted)
    sys.stdout.flush()
    for data in export(repository, tensor, chosen):
        write_all(sys.stdout.fileno(), data)


def _split(name: str) -> tuple[str, str]:
    """Return revision and tensor of `REV:TENSOR`; some revisions have a colon of their own.

    >>> _split("main:layer.weight"), _split("step:40:model.pt:layer.weight")
    (('main', 'layer.weight'), ('step:40', 'model.pt:layer.weight'))
    """
    start = name.find(":") + 1 if name.startswith(_WITH_COLON) else 0
    revision, colon, wanted = name[start:].partition(":")
    if not colon or not wanted:
        raise UsageError(f"{name!a}: REV:TENSOR is wanted", hint="for example HEAD:layer.weight; see modelvault ls")
    return name[:start] + revision or "HEAD", wanted


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="Which commit to begin at, or A..B.")],
    after: Annotated[
        str | None, typer.Argument(metavar="B", help="Which commit to end at; HEAD if left out.", show_default=False)
    ] = None,
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="Only this file of both.", show_default=False)
    ] = None,
    top: Annotated[
        int | None,
        typer.Option("--top", metavar="N", min=1, help="Only the N that moved most.", show_default=False),
    ] = None,
    stat: Annotated[bool, typer.Option("--stat", help="One line a file; no tensors.")] = False,
    name_only: Annotated[
        bool, typer.Option("--name-only", help="What became of each tensor; measure nothing.")
    ] = False,
    each: Annotated[
        bool, typer.Option("--each", help="Of a range A..B: every commit in it against its first parent, oldest first.")
    ] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if there are differences.")] = False,
    json: Json = False,
) -> None:
    """Compare two commits tensor by tensor: added, removed, reshaped, retyped, changed, and how far.

    Distances: the relative L2 norm of the difference, the cosine of the angle, the largest absolute difference, and the
    share of elements whose bits changed. NaN and infinities are counted and left out of them.
    """
    repository = here()
    with repository.store.read() as txn:
        if each:
            steps, file = _steps(repository, txn, before, after, file)
        else:
            first, second, file = _sides(repository, txn, before, after, file)
            for resolved in (first, second):
                if resolved.note:
                    render.note(resolved.note)
            steps = [_Step(first.commit_id, second.commit_id)]
            if file is not None:
                _check_there(txn, steps[0], file)
    reader = TensorReader(repository.store, cache_bytes=SHARED_BYTES if each else CACHE_BYTES)
    found: list[dict[str, Any]] = []
    differ = False
    for step in steps:
        if each and not json:
            with repository.store.read() as txn:
                subject = history.read_commit(txn, step.after).subject
                render.data(f"{history.shorten(txn, step.after)}  {render.one_line(subject)}")
        files = []
        for item in _compared(repository, reader, step, file, measure=not name_only):
            differ |= item.state != "same"
            if json:
                files.append(_diff_json(item, top, stat=stat))
            elif item.state != "same":
                _print_diff(item, top, stat=stat, indent="  " if each else "")
        found.append(
            {
                "before": step.before.hex(),
                "after": step.after.hex(),
                "differ": any(one["state"] != "same" for one in files),
                "files": files,
            }
        )
    if json:
        shown = (
            {"schema": "modelvault.diff-each/1", "steps": found} if each else {"schema": "modelvault.diff/1"} | found[0]
        )
        render.json_object(shown)
    if exit_code and differ:
        raise typer.Exit(1)


class _Step(NamedTuple):
    """Two commits to compare."""

    before: CommitId
    after: CommitId


def _check_there(txn: ReadTransaction, step: _Step, file: str) -> None:
    """Refuse a file that is on neither side."""
    entries = tuple(entry for side in step for entry in history.read_commit(txn, side).files)
    select(entries, (file,), " or ".join(history.shorten(txn, side) for side in step))


def _compared(
    repository: Repository, reader: TensorReader, step: _Step, file: str | None, *, measure: bool
) -> Iterator[FileDiff]:
    """Yield what became of each file, or of the one that is named, and draw how far it is."""
    with repository.store.read() as txn:
        old, new = (history.kept_files(txn, side, history.read_commit(txn, side)) for side in step)
        check_described(txn, step.before, old)
        check_described(txn, step.after, new)
        if file is not None:
            old, new = _below(old, file), _below(new, file)
    progress = render.ProgressBar()
    try:
        for item in diff_files(repository, old, new, measure=measure, reader=reader, progress=progress):
            progress.close()
            yield item
    finally:
        progress.close()


def _steps(
    repository: Repository, txn: ReadTransaction, span: str, second: str | None, file: str | None
) -> tuple[list[_Step], str | None]:
    """Return every commit of a range with its parent, oldest first, and the file, which may be the second word."""
    if ".." not in span or (second is not None and file is not None):
        raise UsageError("--each takes one range", hint="diff --each A..B [FILE]")
    selected = resolve_range(txn, span, repository.config)
    assert selected.exclude is not None  # a range has two ends
    excluded = history.ancestors(txn, selected.exclude)
    commits = list(history.topological(txn, [selected.include], excluded))
    if not commits:
        raise UsageError(f"there is nothing in {span}", hint="A..B is what B has and A has not")
    steps = [_Step(commit.parents[0], commit_id) for commit_id, commit in reversed(commits) if commit.parents]
    file = second if second is not None else file
    if file is not None and not any(_below(commit.files, file) for _, commit in commits):
        raise InputError(f"{file!a} is in no commit of {span}")
    return steps, file


def _sides(
    repository: Repository, txn: ReadTransaction, before: str, after: str | None, file: str | None
) -> tuple[Resolved, Resolved, str | None]:
    """Return both commits and the file; a second word that is no revision but a file of A means the file."""
    if after is None and ".." in before:
        selected = resolve_range(txn, before, repository.config)
        if selected.exclude is not None:
            return Resolved(selected.exclude), Resolved(selected.include), file
    first = resolve(txn, before, repository.config)
    try:
        return first, resolve(txn, after or "HEAD", repository.config), file
    except UnknownRevisionError:
        if after is None or file is not None or not _below(history.read_commit(txn, first.commit_id).files, after):
            raise
        return first, resolve(txn, "HEAD", repository.config), after


def _below(files: tuple[FileEntry, ...], path: str) -> tuple[FileEntry, ...]:
    return tuple(e for e in files if e.path == path or e.path.startswith(path.rstrip("/") + "/"))


def _print_diff(found: FileDiff, top: int | None, *, stat: bool, indent: str) -> None:
    old, new = found.before, found.after
    path = new.path if new else old.path if old else ""
    if old and new and old.path != new.path:
        path = f"{old.path} -> {new.path}"
    path = indent + render.one_line(path)
    if found.state != "changed":
        render.data(f"{path}  {found.state}, {len(found.tensors)} tensors")
        return
    line = f"{path}  {len(found.tensors)} of {len(found.tensors) + found.same} tensors differ"
    if found.total is not None and found.total.changed:
        line += f"; {distance_text(found.total)}"
    if found.other_bytes:
        line += "; bytes outside tensors differ"
    render.data(line)
    if stat:
        return
    chosen = _most_moved(found, top)
    render.table([_row(item, indent) for item in chosen], right=frozenset({4, 5, 6, 7}))
    if len(chosen) < len(found.tensors):
        render.data(f"{indent}  and {len(found.tensors) - len(chosen)} more")


def _most_moved(found: FileDiff, top: int | None) -> list[TensorDiff]:
    """Return the tensors to show: all in file order, or those that moved most, what has no distance first."""
    if top is None:
        return list(found.tensors)

    def distance(item: TensorDiff) -> float:
        measured = item.sums.relative_l2 if item.sums else None
        return math.inf if measured is None else measured

    return sorted(found.tensors, key=distance, reverse=True)[:top]


def _row(item: TensorDiff, indent: str) -> tuple[str, ...]:
    old, new = item.before, item.after
    dtypes = dict.fromkeys(tensor.dtype.name.lower() for tensor in (old, new) if tensor)
    shapes = dict.fromkeys(shape_text(tensor.shape) for tensor in (old, new) if tensor)
    row = (f"{indent}  {item.state}", render.one_line(item.name), " -> ".join(dtypes), " -> ".join(shapes))
    sums = item.sums
    if sums is None:
        return (*row, "", "", "", "")
    changed = f"{_share_text(sums)} changed"
    if sums.relative_l2 is None:
        return (*row, "", "", "", changed)
    cosine = f"cos {sums.cosine:.6f}" if sums.cosine is not None else ""
    return (*row, f"rel {sums.relative_l2:.3g}", cosine, f"max {sums.largest:.3g}", changed)


def _share_text(sums: Distance) -> str:
    return "<0.1%" if 0 < sums.changed_share < 0.0005 else f"{sums.changed_share:.1%}"


def distance_text(sums: Distance) -> str:
    """Return distances in words."""
    parts = [f"{_share_text(sums)} of elements changed"]
    if sums.relative_l2 is not None:
        parts.append(f"relative L2 {sums.relative_l2:.3g}")
        parts += [f"cosine {sums.cosine:.6f}"] if sums.cosine is not None else []
        parts.append(f"max {sums.largest:.3g}")
    if sums.not_finite:
        parts.append(f"{sums.not_finite} not finite")
    return ", ".join(parts)


def _diff_json(found: FileDiff, top: int | None, *, stat: bool) -> dict[str, Any]:
    return {
        "state": found.state,
        "before": found.before.path if found.before else None,
        "after": found.after.path if found.after else None,
        "tensors_differ": len(found.tensors),
        "tensors_same": found.same,
        "other_bytes_differ": found.other_bytes,
        "total": sums_json(found.total) if found.total else None,
        "tensors": [
            {
                "name": item.name,
                "state": item.state,
                "before": tensor_json(item.before) if item.before else None,
                "after": tensor_json(item.after) if item.after else None,
                "distance": sums_json(item.sums) if item.sums else None,
            }
            for item in (() if stat else _most_moved(found, top))
        ],
    }


def sums_json(sums: Distance) -> dict[str, Any]:
    """Return distances as a JSON object; null where nothing can be said."""
    relative, cosine = sums.relative_l2, sums.cosine
    return {
        "elements": sums.elements,
        "changed": sums.changed,
        "changed_share": sums.changed_share,
        "not_finite": sums.not_finite,
        "relative_l2": None if relative is None else render.json_number(relative),
        "cosine": None if cosine is None else render.json_number(cosine),
        "max_abs": render.json_number(sums.largest) if sums.measured else None,
    }


def shape_text(shape: tuple[int, ...]) -> str:
    """Return a shape as people write it.

    >>> shape_text((64, 3, 3)), shape_text(())
    ('64x3x3', 'scalar')
    """
    return "x".join(map(str, shape)) or "scalar"


def tensor_json(tensor: FileTensor) -> dict[str, Any]:
    """Return a tensor as a JSON object."""
    return {
        "name": tensor.name,
        "dtype": tensor.dtype.name,
        "shape": list(tensor.shape),
        "bytes": tensor.nbytes,
        "part": tensor.part,
        "forgotten": tensor.is_forgotten,
    }


def _inventory_json(inventory: Inventory) -> dict[str, Any]:
    return {
        "path": inventory.entry.path,
        "size": inventory.entry.size,
        "sha256": inventory.entry.file_id.hex(),
        "format": inventory.format,
        "tensors": [tensor_json(tensor) for tensor in inventory.tensors],
    }
