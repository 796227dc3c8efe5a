"""The command line as tests use it: in this process, or in one of its own where that matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from modelvault.cli import main

PROJECT = Path(__file__).parents[2]


class Result(NamedTuple):
    """What one run gave."""

    code: int
    out: str
    err: str


class Cli:
    """Runs commands in this process, in the working directory."""

    def __init__(self, capfd: pytest.CaptureFixture[str], root: Path) -> None:
        self._capfd = capfd
        self.root = root

    def __call__(self, *words: str) -> Result:
        """Run one command."""
        self._capfd.readouterr()
        code = main(list(words))
        return Result(code, *self._capfd.readouterr())

    def ok(self, *words: str) -> str:
        """Run a command that must succeed; return what it printed."""
        result = self(*words)
        assert result.code == 0, result.err
        return result.out

    def json(self, *words: str) -> dict[str, Any]:
        """Run a command that must print one JSON object."""
        loaded = json.loads(self.ok(*words, "--json"))
        assert isinstance(loaded, dict)
        assert loaded["schema"].startswith("modelvault.")
        return loaded

    def fails(self, code: int, *words: str) -> str:
        """Run a command that must fail; return its one line."""
        result = self(*words)
        assert result.code == code, result
        assert_is_one_error(result.err)
        assert result.out == ""
        return result.err

    def write(self, name: str, data: bytes) -> str:
        """Write a file below the root; return its name."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return name

    def commit(self, message: str, data: bytes | None = None, *words: str) -> str:
        """Write `model.pt` and commit it; return the commit's id."""
        self.write("model.pt", message.encode() if data is None else data)
        found = self.json("commit", "model.pt", "-m", message, *words)["id"]
        assert isinstance(found, str)
        return found


def assert_is_one_error(text: str) -> None:
    """Check that an error is one line of ours."""
    assert text.startswith("modelvault: "), text
    assert text.count("\n") == 1 and text.endswith("\n"), text
    assert "Traceback" not in text


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """An empty vault, with the working directory at its root."""
    root = tmp_path / "run"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv("MODELVAULT_AUTHOR", "Ada <ada@example.org>")
    monkeypatch.delenv("MODELVAULT_DIR", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert main(["init"]) == 0
    return Cli(capfd, root)


@pytest.fixture
def vault(cli: Cli) -> Path:
    """The root of an empty vault, which is the working directory; `terminal` has what runs commands in it."""
    return cli.root


Spawn = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(**extra: str) -> Mapping[str, str]:
    """Return what a process of its own needs to find the package under test."""
    return {**os.environ, "PYTHONPATH": str(PROJECT), "MODELVAULT_AUTHOR": "Ada", **extra}


def spawn(root: Path, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "modelvault", *words],
        cwd=root,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **options,
    )
