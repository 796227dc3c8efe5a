"""Is a file that changes while it is read refused, and never committed in a state it never had?"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from modelvault.checkpoint import FileSource
from modelvault.errors import FileChangedError
from modelvault.repository import commit as commit_module
from modelvault.repository.repository import Repository

from .networks import Run
from .vaults import all_commits, commit, files_of, fsck, new_vault

Change = Callable[[int, int], None]
"""Changes an open file, given its descriptor and length."""


def flip_in_a_tensor(descriptor: int, size: int) -> None:
    _flip(descriptor, size // 2)


def flip_in_the_skeleton(descriptor: int, size: int) -> None:
    _flip(descriptor, size - 60)


def _flip(descriptor: int, at: int) -> None:
    byte = os.pread(descriptor, 1, at)[0]
    _write(descriptor, bytes((byte ^ 0x10,)), at)


def _write(descriptor: int, data: bytes, at: int) -> None:
    again = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY)
    try:
        os.pwrite(again, data, at)
    finally:
        os.close(again)


def append(descriptor: int, size: int) -> None:
    _write(descriptor, b"more", size)


def truncate(descriptor: int, size: int) -> None:
    os.truncate(f"/proc/self/fd/{descriptor}", size - 100)


CHANGES: list[Change] = [flip_in_a_tensor, flip_in_the_skeleton, append, truncate]


def changed_at(moment: int, change: Change, *, hidden: bool) -> tuple[type[FileSource], list[bool]]:
    """Return a source whose file changes after a number of reads, and a list that is filled when it has."""
    done: list[bool] = []

    class Changing(FileSource):
        reads = 0

        def read(self, offset: int, length: int) -> bytes:
            data = super().read(offset, length)
            if Changing.reads == moment and not done:
                done.append(True)
                descriptor = self._descriptor
                before = os.fstat(descriptor)
                change(descriptor, before.st_size)
                if hidden:
                    os.utime(f"/proc/self/fd/{descriptor}", ns=(before.st_atime_ns, before.st_mtime_ns))
            Changing.reads += 1
            return data

    return Changing, done


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_while_it_is_read_is_refused(change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Run({"w": 30_000, "b": 100}).file()
    moment, happened = 0, True
    while happened:
        repository = new_vault(tmp_path / str(moment), "memory")
        source, done = changed_at(moment, change, hidden=False)
        with monkeypatch.context() as patch:
            patch.setattr(commit_module, "FileSource", source)
            try:
                commit(repository, original)
            except FileChangedError as error:
                assert "model.pt" in error.message
                assert "nothing was committed" in error.message
                assert done
                assert all_commits(repository) == []
            else:
                assert not done  # only if the file was read fewer times than that
        happened = bool(done)
        moment += 1
    assert moment > 10


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_hides_its_time_makes_no_mixture(
    change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock is no proof: what is committed is what the file was before, or what it is after."""
    original = Run({"w": 30_000, "b": 100}).file()
    moment, happened, refused = 0, True, 0
    while happened:
        repository = new_vault(tmp_path / str(moment), "memory")
        source, done = changed_at(moment, change, hidden=True)
        with monkeypatch.context() as patch:
            patch.setattr(commit_module, "FileSource", source)
            try:
                made = commit(repository, original)
            except FileChangedError:
                refused += 1
                assert all_commits(repository) == []
            else:
                after = (repository.root / "model.pt").read_bytes()
                assert files_of(repository, made.commit_id)["model.pt"] in (original, after)
        happened = bool(done)
        moment += 1
    assert refused


def test_what_is_refused_can_be_committed_when_it_rests(
    disk_vault: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Run({"w": 30_000}).file()
    source, done = changed_at(3, flip_in_a_tensor, hidden=False)
    with monkeypatch.context() as patch:
        patch.setattr(commit_module, "FileSource", source)
        with pytest.raises(FileChangedError):
            commit(disk_vault, data)
    assert done
    made = commit(disk_vault, data)
    assert files_of(disk_vault, made.commit_id) == {"model.pt": data}
    assert made.commit.parents == ()
    fsck(disk_vault)
