"""Which files does a directory stand for, and under which paths: links, loops, places outside?"""

from __future__ import annotations

from pathlib import Path

import pytest

from modelvault.errors import InputError, NameRefusedError
from modelvault.repository.collect import collect


def recorded(root: Path, *paths: Path) -> list[str]:
    return [item.path for item in collect(root, paths)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "run"
    for path in ("ckpt/weights.bin", "ckpt/rank0/optim.bin", ".modelvault/data", "ckpt/.git/config"):
        file = place / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    return place


def test_a_directory_is_all_below_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ["ckpt/rank0/optim.bin", "ckpt/weights.bin"]
    assert recorded(root, root) == recorded(root, root / "ckpt") == expected
    monkeypatch.chdir(root / "ckpt" / "rank0")
    assert recorded(root, Path("..")) == expected
    assert recorded(root, Path()) == ["ckpt/rank0/optim.bin"]
    assert recorded(root, Path("../weights.bin"), Path("..")) == ["ckpt/weights.bin", "ckpt/rank0/optim.bin"]


def test_the_git_file_of_a_worktree_is_no_more_taken_than_the_directory(root: Path) -> None:
    (root / "ckpt" / "rank0" / ".git").write_text("gitdir: elsewhere")
    assert recorded(root, root / "ckpt") == ["ckpt/rank0/optim.bin", "ckpt/weights.bin"]


def test_links_into_a_cache_are_files_where_they_stand(root: Path, tmp_path: Path) -> None:
    blob = tmp_path / "cache" / "blobs" / "0a1b"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"weights")
    snapshot = root / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(blob)
    found = list(collect(root, [root / "snapshots"]))
    assert [(item.path, item.outside) for item in found] == [("snapshots/main/model.safetensors", False)]


def test_links_to_directories_are_followed(root: Path, tmp_path: Path) -> None:
    (root / "last").symlink_to("ckpt")
    assert recorded(root, root / "last") == ["last/rank0/optim.bin", "last/weights.bin"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a").write_bytes(b"")
    (root / "ckpt" / "linked").symlink_to(elsewhere)
    assert "ckpt/linked/a" in recorded(root, root)


def test_a_link_that_leads_back_is_refused_by_name(root: Path) -> None:
    (root / "ckpt" / "again").symlink_to("..")
    with pytest.raises(InputError, match=r"ckpt/again.* is a link to a directory that it stands in"):
        recorded(root, root)


def test_a_link_in_a_circle_and_a_dangling_one_are_left_to_the_reader(root: Path) -> None:
    (root / "ckpt" / "circle").symlink_to("circle")
    (root / "ckpt" / "dangling").symlink_to("nowhere")
    assert {"ckpt/circle", "ckpt/dangling"} <= set(recorded(root, root))


def test_what_lies_outside_is_recorded_by_its_own_name(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "a").write_bytes(b"")
    found = list(collect(root, [outside, outside / "deep" / "a"]))
    assert [(item.path, item.outside) for item in found] == [("elsewhere/deep/a", True), ("a", True)]


def test_one_path_for_two_files_is_refused(root: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_bytes(b"")
    with pytest.raises(InputError, match="would both be recorded as 'a'"):
        recorded(root, tmp_path / "one" / "a", tmp_path / "two" / "a")


def test_nothing_is_an_error(root: Path) -> None:
    (root / "empty").mkdir()
    with pytest.raises(InputError, match="no file in"):
        recorded(root, root / "empty")


def test_a_name_that_no_vault_may_hold(root: Path) -> None:
    (root / "ckpt" / "a\nb").write_bytes(b"")
    with pytest.raises(NameRefusedError):
        recorded(root, root)
