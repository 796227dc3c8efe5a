"""Which commits a damaged object hurts: those whose files need it, directly or through a chain."""

from __future__ import annotations

from collections.abc import Set

from modelvault import wire
from modelvault.errors import CorruptError
from modelvault.ids import CommitId, FileId
from modelvault.objects.commit import Commit
from modelvault.objects.recipe import Recipe
from modelvault.objects.tensor import TensorRecord
from modelvault.repository import history
from modelvault.store.base import ReadTransaction


def dependents(txn: ReadTransaction, tensors: Set[int]) -> set[int]:
    """Return these tensors and all whose chains lead through one of them."""
    children: dict[int, list[int]] = {}
    for key, value in txn.scan("tensors"):
        try:
            references = TensorRecord.from_bytes(value).references
        except CorruptError:
            continue
        for reference in references:
            children.setdefault(reference, []).append(wire.read_sortable(key))
    hurt, todo = set(tensors), list(tensors)
    while todo:
        for child in children.get(todo.pop(), ()):
            if child not in hurt:
                hurt.add(child)
                todo.append(child)
    return hurt


def files_hurt_by(txn: ReadTransaction, tensors: Set[int], templates: Set[int] = frozenset()) -> set[FileId]:
    """Return the files whose recipes need one of these tensors or templates."""
    hurt = dependents(txn, tensors) if tensors else set()
    files = set()
    for key, value in txn.scan("recipes"):
        try:
            recipe = Recipe.from_bytes(value, key)
        except CorruptError:
            continue
        if recipe.template in templates or not hurt.isdisjoint(recipe.tensors):
            files.add(FileId(key))
    return files


def commits_hurt_by(txn: ReadTransaction, tensors: Set[int], files: Set[FileId]) -> list[CommitId]:
    """Return the commits that need one of these tensors or files, newest first."""
    hurt = files | (files_hurt_by(txn, tensors) if tensors else set())
    found: list[tuple[int, CommitId]] = []
    for key, value in txn.scan("commits"):
        try:
            commit = Commit.from_bytes(value)
        except CorruptError:
            continue
        if any(entry.file_id in hurt for entry in history.kept_files(txn, CommitId(key), commit)):
            found.append((commit.time_ms, CommitId(key)))
    return [commit_id for _, commit_id in sorted(found, reverse=True)]
