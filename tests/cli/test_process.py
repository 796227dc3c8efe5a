"""Does the command behave in a shell: light imports, pipes, terminals and interruptions?"""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.repository.networks import noise

from .conftest import Cli, environment, spawn

HEAVY = {"numpy", "torch", "zstandard", "safetensors"}


@pytest.mark.parametrize(
    "words",
    [
        ("log",), ("log", "--oneline"), ("log", "--graph", "-n", "3"), ("log", "--json"), ("log", "epoch-1..HEAD"),
        ("status",), ("status", "--json"), ("branch",), ("branch", "new"), ("tag",), ("tag", "v2"), ("report",),
        ("report", "--json"), ("switch", "main"), ("log", "--help"), ("version",),
        ("log", "--stat", "--oneline"), ("completion", "revisions"),
        ("help", "revisions"),
        ("reflog",), ("reflog", "--all", "--json"), ("undo",), ("config",), ("config", "author", "Grace"),
        ("forget", "--keep-last", "1"), ("forget", "-n", "--keep-best", "1:acc"), ("forget", "--undo"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_light_commands_stay_light(cli: Cli, words: tuple[str, ...]) -> None:
    cli.commit("epoch 1", noise(100_000), "--tag", "v1", "--metric", "acc=1")
    cli.commit("epoch 2", noise(100_000, seed=1))
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "modelvault", *words],
        cwd=cli.root,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = {line.rsplit("|", 1)[1].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "modelvault" in loaded
    assert not loaded & HEAVY
    if words[0] == "log" and "--help" not in words:
        assert not loaded & {"typer", "click", "pydantic", "yaml"}


THREADS = """
import os, sys
from modelvault.cli import main
code = main(sys.argv[1:])
import numpy
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor has one thread")
@pytest.mark.parametrize(("wanted", "threads"), [(None, 1), ("2", 2)])
def test_numpy_has_one_thread_if_the_user_says_nothing(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, wanted: str | None, threads: int
) -> None:
    if wanted is None:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", wanted)
    for words in (["status"], ["log"]):
        command = [sys.executable, "-c", THREADS, *words]
        done = subprocess.run(command, cwd=cli.root, env=environment(), capture_output=True, text=True, timeout=60)
        assert done.stdout.splitlines()[-1] == str(threads), done.stderr


@pytest.mark.parametrize("wanted", [None, "2"])
def test_programs_of_users_get_their_own_environment(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, wanted: str | None
) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    if wanted is not None:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", wanted)
    script = cli.root / "program"
    line = 'echo "${OPENBLAS_NUM_THREADS-none}" >> seen'
    script.write_text(f'#!/bin/sh\n{line}\necho 1\ntest -z "$2" || grep -q good "$2"\n')
    script.chmod(0o755)
    for words in (b"good", b"bad"):
        cli.commit(words.decode(), words)
    found = spawn(cli.root, "bisect", "HEAD~1", "HEAD", "--", str(script), "that", "{}")
    assert found.returncode == 0, found.stderr
    assert (cli.root / "seen").read_text().split() == 2 * [wanted or "none"]
    (cli.root / "seen").unlink()
    (cli.root / "model.pt").write_bytes(noise(10_000))
    found = spawn(cli.root, "commit", "model.pt", "-m", "noise", "--eval", str(script), "--max-drop", "0.1")
    assert found.returncode == 0, found.stderr
    assert set((cli.root / "seen").read_text().split()) == {wanted or "none"}


VERBS = ["log", "log --json", "log --graph", "log --oneline --all", "show"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_reader_that_has_enough_is_no_error(cli: Cli, verb: str) -> None:
    for number in range(3):
        cli.commit(f"epoch {number} " + "x" * 100_000)
    done = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "{sys.executable}" -m modelvault {verb} | head -c 1'],
        cwd=cli.root,
        env=environment(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def on_a_terminal(root: Path, *words: str) -> tuple[int, bytes]:
    """Run a command whose stderr is a terminal; return its exit code and what was drawn there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *words],
        cwd=root,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    drawn = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                data = os.read(ours, 65536)
            except OSError:
                break  # the other end was closed
            if not data:
                break
            drawn += data
    os.close(ours)
    return process.wait(timeout=30), drawn


SLOWLY = """
import sys, time
from modelvault.cli import main
from modelvault.repository import dissect

seconds = float(sys.argv.pop(1))
real = dissect.read_exactly

def slow(source, offset, length):
    time.sleep(seconds)
    return real(source, offset, length)

dissect.read_exactly = slow
sys.exit(main(sys.argv[1:]))
"""
"""A command on a slow disk."""


def test_progress_is_drawn_on_a_terminal_and_cleared(cli: Cli) -> None:
    cli.write("model.pt", noise(6 << 20))
    code, drawn = on_a_terminal(cli.root, "0.15", "commit", "model.pt", "-m", "slow")
    assert code == 0
    assert b"storing" in drawn and b"% " in drawn and b"/s" in drawn
    assert b"\n" not in drawn
    assert drawn.endswith(b"\r" + b" " * 78 + b"\r")


def test_nothing_is_drawn_within_the_first_second(cli: Cli) -> None:
    cli.write("model.pt", noise(1 << 20))
    assert on_a_terminal(cli.root, "0", "commit", "model.pt", "-m", "quick") == (0, b"")


def test_nothing_is_drawn_into_a_file(cli: Cli) -> None:
    cli.write("model.pt", noise(4 << 20))
    done = subprocess.run(
        [sys.executable, "-c", SLOWLY, "0.3", "commit", "model.pt", "-m", "slow"],
        cwd=cli.root,
        env=environment(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == b""


@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.5])
def test_ctrl_c_while_committing_leaves_nothing(cli: Cli, seconds: float) -> None:
    cli.commit("before")
    before = cli.json("log")
    cli.write("other.pt", noise(12 << 20))
    process = subprocess.Popen(
        [sys.executable, "-c", HEARS_CTRL_C + SAYS_WHEN + SLOWLY, "0.3", "commit", "other.pt", "-m", "never"],
        cwd=cli.root,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err == "modelvault: interrupted; nothing was left half-written\n"
    assert cli.json("log") == before
    assert cli.json("fsck")["problems"] == []
    assert list((cli.root / ".modelvault" / "sessions").iterdir()) == []


HEARS_CTRL_C = """
import signal

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a shell are started without it
"""

SAYS_WHEN = """
from modelvault.repository import commit

def begin(*arguments, real=commit.dissect):
    print("begun", flush=True)
    return real(*arguments)

commit.dissect = begin
"""
"""Say when reading begins: an interruption before that interrupts Python's own start."""


def test_output_that_cannot_show_every_letter_still_shows_the_line(cli: Cli) -> None:
    cli.commit("\u00e9poque \u4e2d 1")
    done = subprocess.run(
        [sys.executable, "-m", "modelvault", "log", "--oneline"],
        cwd=cli.root,
        env=environment(PYTHONIOENCODING="ascii"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\\xe9poque \\u4e2d 1" in done.stdout


def test_the_exit_code_reaches_the_shell(cli: Cli, tmp_path: Path) -> None:
    assert spawn(cli.root, "log").returncode == 0
    assert spawn(cli.root, "show", "nosuch").returncode == 13
    assert spawn(tmp_path, "log").returncode == 10
    assert spawn(cli.root).returncode in (0, 2)
