"""`ls`, `cat` and `diff`: the tensors inside a commit's files."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from modelvault.cli import render
from modelvault.cli.options import Json
from modelvault.cli.vault import here
from modelvault.errors import UnknownRevisionError, UsageError
from modelvault.repository import history
from modelvault.repository.checkout import select
from modelvault.repository.diff import Distance, FileDiff, TensorDiff, diff_files
from modelvault.repository.export import Format, export
from modelvault.repository.inventory import FileTensor, Inventory, find, read_inventory
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
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if there are differences.")] = False,
    json: Json = False,
) -> None:
    """Compare two commits tensor by tensor: added, removed, reshaped, retyped, changed, and how far.

    Distances: the relative L2 norm of the difference, the cosine of the angle, the largest absolute difference, and the
    share of elements whose bits changed. NaN and infinities are counted and left out of them.
    """
    repository = here()
    with repository.store.read() as txn:
        first, second, file = _sides(repository, txn, before, after, file)
        for resolved in (first, second):
            if resolved.note:
                render.note(resolved.note)
        old, new = (
            history.kept_files(txn, side.commit_id, history.read_commit(txn, side.commit_id))
            for side in (first, second)
        )
        check_described(txn, first.commit_id, old)
        check_described(txn, second.commit_id, new)
        shown = f"{history.shorten(txn, first.commit_id)} or {history.shorten(txn, second.commit_id)}"
    if file is None:
        entries = old, new
    else:
        select(old + new, (file,), shown)  # in neither: an error
        entries = _below(old, file), _below(new, file)
    progress = render.ProgressBar()
    found: list[FileDiff] = []
    try:
        for item in diff_files(repository, *entries, measure=not name_only, progress=progress):
            found.append(item)
            if not json and item.state != "same":
                progress.close()
                _print_diff(item, top, stat=stat)
    finally:
        progress.close()
    differ = any(item.state != "same" for item in found)
    if json:
        render.json_object(
            {
                "schema": "modelvault.diff/1",
                "before": first.commit_id.hex(),
                "after": second.commit_id.hex(),
                "differ": differ,
                "files": [_diff_json(item, top, stat=stat) for item in found],
            }
        )
    if exit_code and differ:
        raise typer.Exit(1)


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


def _print_diff(found: FileDiff, top: int | None, *, stat: bool) -> None:
    old, new = found.before, found.after
    path = new.path if new else old.path if old else ""
    if old and new and old.path != new.path:
        path = f"{old.path} -> {new.path}"
    path = render.one_line(path)
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
    render.table([_row(item) for item in chosen], right=frozenset({4, 5, 6, 7}))
    if len(chosen) < len(found.tensors):
        render.data(f"  and {len(found.tensors) - len(chosen)} more")


def _most_moved(found: FileDiff, top: int | None) -> list[TensorDiff]:
    """Return the tensors to show: all in file order, or those that moved most, what has no distance first."""
    if top is None:
        return list(found.tensors)

    def distance(item: TensorDiff) -> float:
        measured = item.sums.relative_l2 if item.sums else None
        return math.inf if measured is None else measured

    return sorted(found.tensors, key=distance, reverse=True)[:top]


def _row(item: TensorDiff) -> tuple[str, ...]:
    old, new = item.before, item.after
    dtypes = dict.fromkeys(tensor.dtype.name.lower() for tensor in (old, new) if tensor)
    shapes = dict.fromkeys(shape_text(tensor.shape) for tensor in (old, new) if tensor)
    row = (f"  {item.state}", render.one_line(item.name), " -> ".join(dtypes), " -> ".join(shapes))
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
