"""Does what the documentation tells people to type do what it says?

Blocks of one page run one after the other in a directory of their own, where a small checkpoint `model.pt` lies:
`python` blocks as programs, and of `console` and `sh` blocks the lines that begin with `$ `. Blocks marked
`python torch` run in tests marked torch. Blocks in other languages are only to be looked at.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .pages import PAGES, ROOT, Block, blocks, name_of

MODEL = ROOT / "tests" / "fixtures" / "torch-2.13" / "state-dict.pt"
LANGUAGES = {"python", "console", "sh"}
ONLY_LOOKED_AT = {"text", "yaml", "vector", "packed"}


def runnable(page: Path, *, torch: bool) -> list[Block]:
    return [
        block
        for block in blocks(page)
        if block.words and block.words[0] in LANGUAGES and torch == ("torch" in block.words)
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page, torch=False)], ids=name_of)
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    run(page, runnable(page, torch=False), tmp_path)


@pytest.mark.torch
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page, torch=True)], ids=name_of)
def test_blocks_with_torch_run(page: Path, tmp_path: Path) -> None:
    run(page, runnable(page, torch=True), tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_block_is_in_an_unknown_language(page: Path) -> None:
    for block in blocks(page):
        assert not block.words or block.words[0] in LANGUAGES | ONLY_LOOKED_AT, f"{name_of(page)}:{block.line}"
        assert set(block.words[1:]) <= {"torch"}, f"{name_of(page)}:{block.line}"


@pytest.mark.parametrize(
    "page", ["README.md", "docs/how-to/python.md", "docs/how-to/recover.md", "docs/how-to/retention.md"]
)
def test_pages_that_promise_blocks_have_some(page: str) -> None:
    assert runnable(ROOT / page, torch=False)


def run(page: Path, wanted: list[Block], directory: Path) -> None:
    work = directory / "work"
    for place in (work, directory / "home", directory / "bin"):
        place.mkdir()
    shutil.copy(MODEL, work / "model.pt")
    command = directory / "bin" / "modelvault"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m modelvault "$@"\n')
    command.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODELVAULT_")}
    environment |= {
        "HOME": str(directory / "home"),
        "XDG_CONFIG_HOME": str(directory / "home" / ".config"),
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "MODELVAULT_AUTHOR": "Ada <ada@example.org>",
    }
    for block in wanted:
        if block.words[0] == "python":
            jobs = [[sys.executable, "-c", block.text]]
        else:
            typed = [line[2:] for line in block.text.splitlines() if line.startswith("$ ")]
            assert typed, f"{name_of(page)}:{block.line} has no line that begins with `$ `"
            jobs = [["bash", "-c", line] for line in typed]
        for job in jobs:
            done = subprocess.run(
                job, cwd=work, env=environment, capture_output=True, text=True, timeout=300, check=False
            )
            assert done.returncode == 0, f"{name_of(page)}:{block.line}: {job[-1]}\n{done.stdout}{done.stderr}"
