"""Do the scripts offer verbs, then revisions and files, and leave `mv` to files? bash is always there to be asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from modelvault.cli.commands import COMMANDS
from modelvault.cli.completion import Shell, script

from .terminal import done, run, weights, write

ROOT = Path(__file__).parents[2]

ASK = """\
{preparation}
{script}
COMP_WORDS=({words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
{function}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def tagged(vault: Path, tmp_path: Path) -> Path:
    """A vault with a branch, a tag and two commits, and `modelvault` on PATH."""
    for epoch in (1, 2):
        write("model.safetensors", weights(epoch))
        done("commit", "model.safetensors", "-m", f"epoch {epoch}", "--tag", f"v{epoch}")
    program = tmp_path / "bin" / "modelvault"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m modelvault "$@"\n')
    program.chmod(0o755)
    return vault


def offered(words: str, *, function: str = "_modelvault", preparation: str = "") -> list[str]:
    text = ASK.format(preparation=preparation, script=script("bash"), words=words, function=function)
    environment = os.environ | {"PATH": f"{Path.cwd().parent / 'bin'}:{os.environ['PATH']}"}
    found = subprocess.run(["bash", "--norc", "-c", text], capture_output=True, text=True, check=True, env=environment)
    assert "syntax error" not in found.stderr
    return found.stdout.split()


def test_the_first_word_is_a_verb(tagged: Path) -> None:
    assert set(offered("modelvault ''")) == set(COMMANDS)
    assert offered("modelvault check") == ["checkout"]
    assert offered("modelvault -C .. check") == ["checkout"]
    assert offered("modelvault model") == []


def test_then_come_revisions(tagged: Path) -> None:
    assert offered("modelvault checkout ''") == ["HEAD", "latest", "main", "v1", "v2", "epoch-2", "epoch-1"]
    assert offered("modelvault diff v1 ep") == ["epoch-2", "epoch-1"]
    assert offered("modelvault commit ''") == []  # files, by default
    assert offered("modelvault help exi") == ["exit-codes"]
    assert offered("modelvault completion z") == ["zsh"]


def test_mv_falls_back_to_files(tagged: Path) -> None:
    def mv(words: str) -> list[str]:
        return offered(words, function="_modelvault_mv")

    assert mv("mv mod") == []
    assert mv("mv check") == ["checkout"]
    assert mv("mv model.safetensors ep") == []
    assert mv("mv checkout ep") == ["epoch-2", "epoch-1"]
    (tagged / "checkout").write_text("a file of that name")
    assert mv("mv checkout ep") == []


@pytest.mark.parametrize(
    ("preparation", "expected"),
    [("", False), ("mv() { modelvault; }", True), ("mv() { command mv; }", False)],
)
def test_mv_is_completed_only_where_it_is_ours(tagged: Path, preparation: str, expected: bool) -> None:
    found = offered("modelvault x", function="complete -p mv || true", preparation=preparation)
    assert bool(found) == expected


def test_revisions_without_a_vault_are_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODELVAULT_DIR", raising=False)
    assert run("completion", "revisions") == (0, "", "")


@pytest.mark.parametrize("shell", get_args(Shell))
def test_the_script_is_sound(shell: Shell) -> None:
    text = script(shell)
    assert "@" not in text.replace("$@", "").replace("[@]", "")
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    check = [shell, "--no-execute"] if shell == "fish" else [shell, "-n"]
    subprocess.run(check, input=text, text=True, check=True)
    assert done("completion", shell) == text


def test_revisions_load_nothing_heavy(tagged: Path) -> None:
    program = (
        "import sys\nfrom modelvault.cli import main\nmain(['completion', 'revisions'])\n"
        "print({'numpy', 'torch'} & set(sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.splitlines()[-1] == "set()"
