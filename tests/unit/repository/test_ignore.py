"""Are the rules git's? Where git is installed it is asked; a table of its documented cases always holds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelvault.errors import InputError
from modelvault.repository.collect import collect
from modelvault.repository.ignore import FILE_NAME, Ignore, parse_rules

PATHS = (
    "a",
    "b.tmp",
    "logs/a",
    "logs/b.tmp",
    "logs/old/a",
    "x/logs/a",
    "x/y/b.tmp",
    "x/y/a",
    "x/a b",
    "x/#a",
    "x/!a",
    "x/[a]",
    "x/a-b",
    "x/B",
    "x/7",
    "keep/b.tmp",
)


def ignored(patterns: str, path: str, *, is_directory: bool = False) -> bool:
    return Ignore((("", parse_rules(patterns)),)).ignores(path, is_directory=is_directory)


@pytest.mark.parametrize(
    ("patterns", "path", "expected"),
    [
        ("*.tmp", "x/y/b.tmp", True),
        ("/*.tmp", "x/b.tmp", False),
        ("/*.tmp", "b.tmp", True),
        ("x/*.tmp", "x/y/b.tmp", False),
        ("x/**/*.tmp", "x/y/z/b.tmp", True),
        ("x/**/b.tmp", "x/b.tmp", True),
        ("**/y/b.tmp", "x/y/b.tmp", True),
        ("x/**", "x", False),
        ("x/**", "x/y/a", True),
        ("a**b", "axxb", True),
        ("a**b", "ax/xb", False),
        ("*.tmp\n!keep.tmp", "keep.tmp", False),
        ("!keep.tmp\n*.tmp", "keep.tmp", True),
        ("# *.tmp", "b.tmp", False),
        (r"\#a", "#a", True),
        (r"\!a", "!a", True),
        ("a  ", "a", True),
        ("a\\ ", "a ", True),
        ("[a-c]1", "b1", True),
        ("[!a-c]1", "b1", False),
        ("[!a-c]1", "d1", True),
        ("[]]1", "]1", True),
        ("[a", "[a", False),
        ("a\\", "a", False),
        ("[z-a]", "b", False),
        ("[[:digit:]]x", "7x", True),
        ("x?y", "x/y", False),
        ("x[/]y", "x/y", False),
        ("a.b", "axb", False),
        ("/", "a", False),
        ("logs/", "logs", False),
    ],
)
def test_documented_cases(patterns: str, path: str, expected: bool) -> None:
    assert ignored(patterns, path) == expected


def test_a_slash_at_the_end_means_directories() -> None:
    assert ignored("logs/", "x/logs", is_directory=True)
    assert ignored("logs", "x/logs", is_directory=True)


def tree(root: Path) -> None:
    for path in PATHS:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")


def taken(root: Path) -> set[str]:
    try:
        return {item.path for item in collect(root, [root]) if item.on_disk.name not in (FILE_NAME, ".gitignore")}
    except InputError as error:
        assert error.message.startswith("no file in")
        return set()


def git(root: Path, *words: str) -> str:
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    return subprocess.run(["git", *words], cwd=root, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_takes_the_same_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("git")
    tree(root)
    git(root, "init", "-q")
    pieces = ["a", "b", "*", "**", "?", "/", "x", "y", "logs", ".tmp", "[ab]", "[!a]", "[A-Z7]", "\\#", " ", "-"]
    lines = st.builds(
        lambda sign, parts: sign + "".join(parts),
        st.sampled_from(["", "", "", "!", "#"]),
        st.lists(st.sampled_from(pieces), min_size=1, max_size=5),
    )
    # In `a**/b` git takes the literal `a` off first and then reads `**/` as if it stood at the beginning, against its
    # own documentation, which calls such asterisks regular ones. We follow the documentation.
    lines = lines.filter(lambda line: not re.search(r"[^/!]\*\*+(/|$)", line))
    texts = st.lists(lines, max_size=5).map("\n".join)

    @settings(max_examples=80, database=None)
    @given(texts, texts)
    def compare(above: str, below: str) -> None:
        for directory, text in ((root, above), (root / "x", below)):
            (directory / ".gitignore").write_text(text)
            (directory / FILE_NAME).write_text(text)
        listed = git(root, "-c", "core.quotePath=off", "ls-files", "-z", "-o", "--exclude-per-directory=.gitignore")
        assert taken(root) == {
            path for path in listed.split("\0") if Path(path).name not in ("", ".gitignore", FILE_NAME)
        }

    compare()


def test_a_file_further_down_decides_first(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / FILE_NAME).write_text("*.tmp\nlogs/\n")
    (tmp_path / "keep" / FILE_NAME).write_text("!b.tmp\n")
    found = taken(tmp_path)
    assert {path for path in found if path.endswith(".tmp")} == {"keep/b.tmp"}
    assert not [path for path in found if "logs/" in path]


def test_rules_above_a_named_directory_count_and_names_win(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / FILE_NAME).write_text("*.tmp\nlogs/\n")
    assert {item.path for item in collect(tmp_path, [tmp_path / "x"])} == {
        path for path in PATHS if path.startswith("x/") and "logs" not in path and not path.endswith(".tmp")
    }
    assert [item.path for item in collect(tmp_path, [tmp_path / "b.tmp"])] == ["b.tmp"]
    assert {item.path for item in collect(tmp_path, [tmp_path / "logs"])} == {"logs/a", "logs/old/a"}


def test_rules_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(InputError, match=f"cannot read .*{FILE_NAME}"):
        list(collect(tmp_path, [tmp_path]))
