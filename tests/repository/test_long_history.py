"""Is a history of a hundred thousand commits read and collected in bounded memory?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelvault.repository.repository import Repository

from . import long_history
from .garbage import forget
from .vaults import all_commits

LIMIT = 320 << 20
"""Bytes of private memory that a command may ask for, the interpreter's 60 MB among them. A set of the 2.4 million
tensors' numbers alone would take 230 MB."""

PROGRAM = """\
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, ({limit}, {limit}))
from modelvault.cli import main
sys.exit(main(sys.argv[1:]))
"""


def said(repository: Repository, *words: str) -> str:
    """Run a command in a process that may not have more memory, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(limit=LIMIT), *words],
        cwd=repository.root,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("count", [300, pytest.param(100_000, marks=pytest.mark.slow)])
def test_it_is_read_and_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setenv("MODELVAULT_AUTHOR", "Ada")
    repository = long_history.make(tmp_path, count)
    line = all_commits(repository)
    assert len(line) == count
    assert len(said(repository, "log", "--oneline").splitlines()) == count
    assert said(repository, "log", "--json").count('"short"') == count
    assert json.loads(said(repository, "report", "--json"))["commits"] == count
    # The ends of chains: nothing was encoded that could be coded anew.
    ends = [line[-1 - number] for number in range(count - 200, count) if number % 17 == 16]
    forget(repository, ends)
    foretold = json.loads(said(repository, "gc", "-n", "--grace", "0s", "--json"))
    done = json.loads(said(repository, "gc", "--grace", "0s", "--json"))
    assert done["tensors"] == foretold["tensors"] == len(ends) * long_history.TENSORS
    assert done["freed_bytes"] == foretold["freed_bytes"]
    assert json.loads(said(repository, "report", "--json"))["forgotten"] == len(ends)
