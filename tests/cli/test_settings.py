"""Does `config` show what is in force and why, and write files that are read again as they were meant?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from modelvault import planner
from modelvault.repository.config import MAX_DEPTH

from .conftest import Cli


def setting(cli: Cli, key: str) -> tuple[str, str]:
    """Return (value, origin) of one key."""
    found = cli.json("config", key)["settings"]
    assert [entry["key"] for entry in found] == [key]
    return found[0]["value"], found[0]["origin"]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The user's configuration file, which is not there yet; the fixture of `cli` says where it is."""
    return tmp_path / "config" / "modelvault" / "config.yaml"


@pytest.fixture(autouse=True)
def _no_git(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's git configuration matters here."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(cli.root.parent))


def test_where_the_author_comes_from(cli: Cli, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the five places goes before the next."""
    assert setting(cli, "author") == ("Ada <ada@example.org>", "environment")
    monkeypatch.delenv("MODELVAULT_AUTHOR")
    monkeypatch.setenv("LOGNAME", "grace")
    assert setting(cli, "author") == ("grace", "built in")
    git = cli.root / "gitconfig"
    git.write_text("[user]\n\tname = Git\n\temail = git@example.org\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(git))
    assert setting(cli, "author") == ("Git <git@example.org>", "git")
    cli.ok("config", "--user", "author", "User <user@example.org>")
    assert setting(cli, "author") == ("User <user@example.org>", "user")
    cli.ok("config", "author", "Vault <vault@example.org>")
    assert setting(cli, "author") == ("Vault <vault@example.org>", "vault")
    cli.commit("one")
    assert cli.json("show")["author"] == "Vault <vault@example.org>"
    cli.ok("config", "--unset", "author")
    cli.commit("two")
    assert cli.json("show")["author"] == "User <user@example.org>"
    assert own.is_file()


def test_which_way_a_metric_is_better(cli: Cli) -> None:
    assert setting(cli, "metrics.psnr") == ("max", "built in")
    assert setting(cli, "metrics.val_loss") == ("min", "built in")
    cli.ok("config", "--user", "metrics.psnr", "min")
    assert setting(cli, "metrics.psnr") == ("min", "user")
    low, high = cli.commit("low", None, "--metric", "psnr=1"), cli.commit("high", None, "--metric", "psnr=2")
    assert cli.json("show", "best:psnr")["id"] == low
    cli.ok("config", "metrics.psnr", "max")
    assert setting(cli, "metrics.psnr") == ("max", "vault")
    assert cli.json("show", "best:psnr")["id"] == high


def test_everything_in_force(cli: Cli, own: Path) -> None:
    assert cli.ok("config").splitlines() == [
        "author               Ada <ada@example.org>",
        "max_depth            16",
        "max_restore_seconds  no bound",
    ]
    cli.ok("config", "metrics.fid2", "max")
    cli.ok("config", "--user", "metrics.psnr", "max")
    cli.ok("config", "max_restore_seconds", "2.50")
    assert cli.ok("config").splitlines() == [
        "author               Ada <ada@example.org>",
        "max_depth            16",
        "max_restore_seconds  2.5",
        "metrics.fid2         max",
        "metrics.psnr         max",
    ]
    vault_file = f"vault {cli.root / '.modelvault' / 'config.yaml'}"
    assert [line.split("  ")[-1].strip() for line in cli.ok("config", "--show-origin").splitlines()] == [
        "environment MODELVAULT_AUTHOR",
        "built in",
        vault_file,
        vault_file,
        f"user {own}",
    ]
    assert cli.ok("config", "author") == "Ada <ada@example.org>\n"
    assert cli.ok("config", "--user") == "metrics.psnr  max\n"
    assert cli.ok("config", "--user", "metrics.psnr") == "max\n"
    assert "author is not set" in cli.fails(1, "config", "--user", "author")


@pytest.mark.parametrize(
    "author", ["no: map", "'quoted\"", "[x", "Åsa <å@example.org>", "#1", "null", "1.5", "x" * 300]
)
def test_what_was_set_is_read_again(cli: Cli, author: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELVAULT_AUTHOR")
    assert cli("config", "author", author) == (0, "", "")
    cli.ok("config", "metrics.no", "min")
    cli.ok("config", "metrics.a b: c", "max")
    assert setting(cli, "author") == (author, "vault")
    written = yaml.safe_load((cli.root / ".modelvault" / "config.yaml").read_text())
    assert written == {"author": author, "metrics": {"a b: c": "max", "no": "min"}}


def test_taking_settings_out(cli: Cli) -> None:
    file = cli.root / ".modelvault" / "config.yaml"
    fresh = file.read_text()
    cli.ok("config", "metrics.psnr", "min")
    cli.ok("config", "author", "Grace")
    assert [entry.name for entry in file.parent.iterdir() if entry.name.startswith(".")] == []
    cli.ok("config", "--unset", "metrics.psnr")
    assert yaml.safe_load(file.read_text()) == {"author": "Grace"}
    cli.ok("config", "--unset", "author")
    assert file.read_text() == fresh
    assert "is not set" in cli.fails(1, "config", "--unset", "author")
    assert "is not set" in cli.fails(1, "config", "--unset", "metrics.psnr", "--user")


def test_how_long_chains_may_be(cli: Cli, own: Path) -> None:
    assert setting(cli, "max_depth") == ("16", "built in")
    assert setting(cli, "max_restore_seconds") == ("no bound", "built in")
    cli.ok("config", "--user", "max_depth", "8")
    cli.ok("config", "--user", "max_restore_seconds", "30")
    assert setting(cli, "max_depth") == ("8", "user")
    cli.ok("config", "max_depth", "2")
    assert setting(cli, "max_depth") == ("2", "vault")
    assert setting(cli, "max_restore_seconds") == ("30", "user")
    written = yaml.safe_load((cli.root / ".modelvault" / "config.yaml").read_text())
    assert written == {"max_depth": 2}
    assert yaml.safe_load(own.read_text()) == {"max_depth": 8, "max_restore_seconds": 30.0}
    cli.ok("config", "--unset", "max_depth")
    assert setting(cli, "max_depth") == ("8", "user")
    assert "max_depth is not set" in cli.fails(1, "config", "--unset", "max_depth")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("max_depth: 17", "max_depth is no whole number from 0 to 16"),
        ("max_depth: 2.5", "max_depth is no whole number"),
        ("max_depth: true", "max_depth is no whole number"),
        ("max_depth: deep", "max_depth is no whole number"),
        ("max_restore_seconds: 0", "max_restore_seconds is no number above 0"),
        ("max_restore_seconds: .inf", "max_restore_seconds is no number above 0"),
        ("max_restore_seconds: [1]", "max_restore_seconds is no number above 0"),
    ],
)
def test_bounds_that_make_no_sense(cli: Cli, text: str, why: str) -> None:
    file = cli.root / ".modelvault" / "config.yaml"
    file.write_text(text + "\n")
    (cli.root / "m.pt").write_bytes(b"x")
    said = cli.fails(2, "commit", "m.pt", "-m", "one")
    assert f"{file}: {why}" in said
    assert len(said.splitlines()) <= 2


def test_the_longest_chain_is_the_planners() -> None:
    assert MAX_DEPTH == planner.MAX_DEPTH


def test_setting_what_something_stronger_covers_is_said(cli: Cli) -> None:
    assert "stays Ada <ada@example.org>: environment goes before" in cli("config", "author", "Grace").err


def test_a_linked_file_stays_a_link(cli: Cli, own: Path, tmp_path: Path) -> None:
    kept = tmp_path / "dotfiles.yaml"
    kept.write_text("metrics:\n  psnr: max\n")
    own.parent.mkdir(parents=True)
    own.symlink_to(kept)
    cli.ok("config", "--user", "author", "Grace")
    assert own.is_symlink()
    assert yaml.safe_load(kept.read_text()) == {"author": "Grace", "metrics": {"psnr": "max"}}


@pytest.mark.parametrize(
    "words",
    [
        ("colour", "red"), ("metrics.", "min"), ("metrics.psnr", "up"), ("author", " "), ("author", "a\nb"),
        ("--unset",), ("--unset", "author", "x"), ("metrics",), ("max_depth", "17"), ("max_depth", "x"),
        ("max_restore_seconds", "0"), ("max_restore_seconds", "nan"), ("max_restore_seconds", "inf"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_setting(cli: Cli, words: tuple[str, ...]) -> None:
    before = (cli.root / ".modelvault" / "config.yaml").read_bytes()
    cli.fails(2, "config", *words)
    assert (cli.root / ".modelvault" / "config.yaml").read_bytes() == before


def test_a_file_that_is_not_understood_is_left_alone(cli: Cli, own: Path) -> None:
    own.parent.mkdir(parents=True)
    own.write_text("colour: red\n")
    for words in (("config",), ("config", "--user", "author", "Grace"), ("log", "main")):
        assert f"{own}: unknown setting 'colour'" in cli.fails(2, *words)
    assert own.read_text() == "colour: red\n"


def test_without_a_vault(cli: Cli, own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    cli.fails(10, "config")
    cli.ok("config", "--user", "author", "Grace")
    assert cli.json("config", "--user", "author")["settings"] == [{"key": "author", "value": "Grace", "origin": "user"}]
    assert yaml.safe_load(own.read_text()) == {"author": "Grace"}
    cli.ok("config", "--user", "--unset", "author")
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    cli.ok("config", "--user", "author", "Hopper")
    assert (tmp_path / "home" / ".config" / "modelvault" / "config.yaml").is_file()
