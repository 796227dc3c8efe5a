"""Does checkout write what was asked, where it was asked, and never over what no commit holds?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .conftest import Cli, spawn


@pytest.fixture
def two(cli: Cli) -> list[str]:
    """Two commits of two files each, oldest first."""
    commits = []
    for name in ("one", "two"):
        cli.write("model.pt", f"model {name}".encode())
        cli.write("sub/notes.txt", f"notes {name}".encode())
        commits.append(cli.json("commit", "model.pt", "sub", "-m", name)["id"])
    return commits


def test_files_go_to_their_places_and_head_moves(cli: Cli, two: list[str]) -> None:
    result = cli("checkout", "one")
    assert result.code == 0
    assert [line.split("  ")[0] for line in result.out.splitlines()] == [
        f"{cli.root}/model.pt",
        f"{cli.root}/sub/notes.txt",
    ]
    assert all(line.endswith(" ok") for line in result.out.splitlines())
    assert (cli.root / "model.pt").read_bytes() == b"model one"
    assert (cli.root / "sub" / "notes.txt").read_bytes() == b"notes one"
    assert cli.json("status")["head"] == two[0]


def test_what_is_right_already_is_left_alone(cli: Cli, two: list[str]) -> None:
    before = (cli.root / "model.pt").stat()
    result = cli("checkout", "two")
    assert [line.endswith("  unchanged") for line in result.out.splitlines()] == [True, True]
    after = (cli.root / "model.pt").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_json(cli: Cli, two: list[str]) -> None:
    found = cli.json("checkout", "one")
    assert set(found) == {"schema", "id", "mode", "written", "present", "head_moved", "branch"}
    assert (found["id"], found["head_moved"], found["branch"]) == (two[0], True, None)
    assert [set(written) for written in found["written"]] == [{"path", "size", "sha256"}] * 2
    assert cli.json("checkout", "main")["branch"] == "main"


def test_bytes_that_no_commit_holds_are_not_overwritten(cli: Cli, two: list[str]) -> None:
    cli.write("model.pt", b"hours of training")
    error = cli.fails(16, "checkout", "one")
    assert "model.pt" in error and "--force" in error
    assert (cli.root / "model.pt").read_bytes() == b"hours of training"
    assert (cli.root / "sub" / "notes.txt").read_bytes() == b"notes two"
    assert cli.json("status")["head"] == two[1]
    cli.ok("checkout", "one", "--force")
    assert (cli.root / "model.pt").read_bytes() == b"model one"


def test_bytes_of_another_commit_may_be_overwritten(cli: Cli, two: list[str]) -> None:
    cli.write("sub/notes.txt", b"model one")
    cli.ok("checkout", "two")
    assert (cli.root / "sub" / "notes.txt").read_bytes() == b"notes two"


def test_paths_are_written_and_head_stays(cli: Cli, two: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    result = cli("checkout", "one", "sub")
    assert (result.code, result.err) == (0, "")
    assert (cli.root / "sub" / "notes.txt").read_bytes() == b"notes one"
    assert (cli.root / "model.pt").read_bytes() == b"model two"
    assert cli.json("status")["head"] == two[1]
    monkeypatch.chdir(cli.root / "sub")
    cli.ok("checkout", "two", "notes.txt")
    assert (cli.root / "sub" / "notes.txt").read_bytes() == b"notes two"
    cli.ok("checkout", "one", "../model.pt")
    assert (cli.root / "model.pt").read_bytes() == b"model one"
    assert "nosuch" in cli.fails(1, "checkout", "one", "nosuch")
    cli.fails(1, "checkout", "one", "../../outside")


def test_output_to_a_file_or_a_directory(cli: Cli, two: list[str], tmp_path: Path) -> None:
    cli.ok("checkout", "one", "model.pt", "-o", str(tmp_path / "restored.pt"))
    assert (tmp_path / "restored.pt").read_bytes() == b"model one"
    cli.ok("checkout", "one", "-o", str(tmp_path / "all"))
    assert (tmp_path / "all" / "sub" / "notes.txt").read_bytes() == b"notes one"
    cli.ok("checkout", "one", "model.pt", "-o", str(tmp_path / "new") + "/")
    assert (tmp_path / "new" / "model.pt").read_bytes() == b"model one"
    assert cli.json("status")["head"] == two[1]
    cli.fails(2, "checkout", "one", "-o", str(tmp_path / "restored.pt"))
    cli.fails(1, "checkout", "one", "model.pt", "-o", str(tmp_path / "no" / "such" / "place.pt"))
    (tmp_path / "precious").write_bytes(b"precious")
    cli.fails(16, "checkout", "one", "model.pt", "-o", str(tmp_path / "precious"))
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_output_to_a_stream(cli: Cli, two: list[str]) -> None:
    assert cli.ok("checkout", "one", "model.pt", "-o", "-") == "model one"
    done = spawn(cli.root, "checkout", "one", "sub/notes.txt", "-o", "-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "notes one", "")
    assert "2 files" in cli.fails(2, "checkout", "one", "-o", "-")
    cli.fails(2, "checkout", "one", "model.pt", "-o", "-", "--json")


@pytest.mark.parametrize("relative", [False, True])
def test_a_planted_link_leads_nowhere(cli: Cli, two: list[str], tmp_path: Path, relative: bool) -> None:
    """Somebody put a link where the vault knows a directory."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (cli.root / "sub" / "notes.txt").unlink()
    (cli.root / "sub").rmdir()
    (cli.root / "sub").symlink_to("../outside" if relative else outside)
    error = cli.fails(1, "checkout", "one")
    assert "a link or a file is in the way" in error
    assert list(outside.iterdir()) == []
    assert (cli.root / "model.pt").read_bytes() == b"model two"
    assert sorted(path.name for path in cli.root.iterdir()) == [".modelvault", "model.pt", "sub"]


def test_a_link_in_place_of_a_file_is_replaced_and_not_followed(cli: Cli, two: list[str], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"model two")
    (cli.root / "model.pt").unlink()
    (cli.root / "model.pt").symlink_to(tmp_path / "elsewhere")
    cli.ok("checkout", "one")
    assert not (cli.root / "model.pt").is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == b"model two"


def test_a_dangling_link_in_place_of_a_file_is_replaced(cli: Cli, two: list[str], tmp_path: Path) -> None:
    (cli.root / "model.pt").unlink()
    (cli.root / "model.pt").symlink_to(tmp_path / "nowhere")
    cli.ok("checkout", "one")
    assert (cli.root / "model.pt").read_bytes() == b"model one"
    assert not (tmp_path / "nowhere").exists()


def test_a_directory_or_a_pipe_in_place_of_a_file_is_refused(cli: Cli, two: list[str]) -> None:
    (cli.root / "model.pt").unlink()
    (cli.root / "model.pt").mkdir()
    assert "is a directory" in cli.fails(1, "checkout", "one", "--force")
    (cli.root / "model.pt").rmdir()
    os.mkfifo(cli.root / "model.pt")
    assert "a pipe" in cli.fails(1, "checkout", "one")


def test_a_missing_directory_is_made_again(cli: Cli, two: list[str]) -> None:
    (cli.root / "sub" / "notes.txt").unlink()
    (cli.root / "sub").rmdir()
    cli.ok("checkout", "two")
    assert (cli.root / "sub" / "notes.txt").read_bytes() == b"notes two"


def test_nothing_temporary_is_left(cli: Cli, two: list[str]) -> None:
    cli.ok("checkout", "one")
    names = {path.name for path in cli.root.rglob("*") if ".modelvault" not in path.parts}
    assert names == {"model.pt", "sub", "notes.txt"}


def test_several_commits_go_into_a_directory_of_their_own(cli: Cli, two: list[str]) -> None:
    result = cli.ok("checkout", "one", "two", "--into", "both")
    assert sum(line.endswith(" ok") for line in result.splitlines()) == 4
    for commit, name in zip(two, ("one", "two"), strict=True):
        (place,) = [path for path in (cli.root / "both").iterdir() if commit.startswith(path.name)]
        assert (place / "model.pt").read_bytes() == f"model {name}".encode()
        assert (place / "sub" / "notes.txt").read_bytes() == f"notes {name}".encode()
    assert cli.json("status")["head"] == two[1]
    found = cli.json("checkout", "one..two", "--into", "both")
    assert [(one["id"], len(one["present"])) for one in found["commits"]] == [(two[1], 2)]
    (written,) = (cli.root / "both").glob(f"{two[1][:4]}*/model.pt")
    written.write_bytes(b"hours of training")
    cli.fails(16, "checkout", "one", "two", "--into", "both")
    assert written.read_bytes() == b"hours of training"


def test_several_commits_have_one_place(cli: Cli, two: list[str]) -> None:
    assert "-o" in cli.fails(2, "checkout", "one", "--into", "there", "-o", "here")
    assert "nothing" in cli.fails(2, "checkout", "two..one", "--into", "there")
    cli.fails(13, "checkout", "one", "no-such", "--into", "there")
    cli.write("file", b"in the way")
    assert "file" in cli.fails(2, "checkout", "one", "--into", "file")
    assert not (cli.root / "there").exists()
