"""Are files and directories there whole or not at all?"""

from __future__ import annotations

import errno
import os
import resource
import stat
import threading
from pathlib import Path

import pytest

from modelvault.errors import InputError
from modelvault.repository import worktree
from modelvault.repository.worktree import Pieces, Publisher


def pieces(*data: bytes) -> Pieces:
    yield from data


def seen(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_a_new_directory_appears_with_everything_in_it(tmp_path: Path) -> None:
    with Publisher() as publisher:
        for path in ("ckpt/a", "ckpt/deep/er/b", "ckpt/deep/c", "d"):
            publisher.prepare_in_tree(tmp_path, path, pieces(path.encode()), len(path), False)
        assert not (tmp_path / "ckpt").exists()
        assert not (tmp_path / "d").exists()
        publisher.publish()
    assert seen(tmp_path) == {"ckpt/a", "ckpt/deep/er/b", "ckpt/deep/c", "d"}
    assert (tmp_path / "ckpt" / "deep" / "er" / "b").read_text() == "ckpt/deep/er/b"


def test_whoever_looks_sees_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rename and sync that publishing makes: between any two, the directory is absent or complete."""
    states: set[frozenset[str]] = set()
    calls = {name: getattr(os, name) for name in ("replace", "fsync")}

    def looked(name: str) -> None:
        def call(*words: object, **options: object) -> None:
            states.add(frozenset(seen(tmp_path / "ckpt")) if (tmp_path / "ckpt").exists() else frozenset())
            calls[name](*words, **options)

        monkeypatch.setattr(os, name, call)

    for name in calls:
        looked(name)
    with Publisher() as publisher:
        for number in range(5):
            publisher.prepare_in_tree(tmp_path, f"ckpt/{number}/file", pieces(b"x"), 1, False)
        publisher.publish()
    assert states == {frozenset(), frozenset(f"{number}/file" for number in range(5))}


def test_nothing_is_left_when_something_fails(tmp_path: Path) -> None:
    def broken() -> Pieces:
        yield b"half"
        raise InputError("damaged")

    with pytest.raises(InputError, match="damaged"), Publisher() as publisher:
        publisher.prepare_in_tree(tmp_path, "ckpt/deep/a", pieces(b"x"), 1, False)
        publisher.prepare_in_tree(tmp_path, "ckpt/b", broken(), 8, False)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_appeared_meanwhile_stays(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot put 'ckpt' into place"), Publisher() as publisher:
        publisher.prepare_in_tree(tmp_path, "ckpt/a", pieces(b"x"), 1, False)
        (tmp_path / "ckpt").mkdir()
        (tmp_path / "ckpt" / "theirs").write_text("kept")
        publisher.publish()
    assert seen(tmp_path) == {"ckpt/theirs"}


def test_into_an_existing_directory_files_are_renamed_last(tmp_path: Path) -> None:
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt" / "a").write_text("old")
    with Publisher() as publisher:
        publisher.prepare_in_tree(tmp_path, "ckpt/a", pieces(b"new"), 3, False)
        publisher.prepare_in_tree(tmp_path, "ckpt/new/b", pieces(b"new"), 3, True)
        assert (tmp_path / "ckpt" / "a").read_text() == "old"
        publisher.publish()
    assert (tmp_path / "ckpt" / "a").read_text() == "new"
    assert os.access(tmp_path / "ckpt" / "new" / "b", os.X_OK)


def test_links_on_the_way_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    root = tmp_path / "root"
    root.mkdir()
    (root / "ckpt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="a link or a file is in the way"), Publisher() as publisher:
        publisher.prepare_in_tree(root, "ckpt/a", pieces(b"x"), 1, False)
    assert seen(tmp_path / "elsewhere") == set()


def test_many_files_need_few_descriptors(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        with Publisher() as publisher:
            for number in range(300):
                publisher.prepare_in_tree(tmp_path, f"ckpt/rank/{number}", pieces(b"x"), 1, False)
            publisher.publish()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(seen(tmp_path)) == 300


def test_a_long_file_is_synced_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another thread, each time that so much is there; the file's end waits for that and is synced too."""
    synced = list[tuple[str, int]]()
    calls = {name: getattr(os, name) for name in ("fdatasync", "fsync")}

    def noted(name: str) -> None:
        def call(descriptor: int) -> None:
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                synced.append((name, threading.get_ident()))
            calls[name](descriptor)

        monkeypatch.setattr(os, name, call)

    for name in calls:
        noted(name)
    monkeypatch.setattr(worktree, "_SYNC_BYTES", 3_000)
    with Publisher() as publisher:
        publisher.prepare_in_tree(tmp_path, "long", pieces(*[bytes(1_000)] * 10), 10_000, False)
        assert [name for name, _ in synced] == ["fdatasync"] * 3 + ["fsync"]
        assert len({thread for _, thread in synced[:3]} | {threading.get_ident()}) == 2
        assert synced[3][1] == threading.get_ident()
        publisher.publish()
    assert (tmp_path / "long").read_bytes() == bytes(10_000)


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_an_error_of_any_sync_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    """The system tells it once: the sync at the end succeeds after one that failed."""
    count = 0

    def sync(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == failing:
            raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(worktree, "_SYNC_BYTES", 3_000)
    with pytest.raises(InputError, match=r"cannot write '.*long': input/output error"), Publisher() as publisher:
        publisher.prepare_in_tree(tmp_path, "long", pieces(*[bytes(1_000)] * 10), 10_000, False)
    assert list(tmp_path.iterdir()) == []
