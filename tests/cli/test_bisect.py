"""Does `bisect` find the commit where a command fails or a metric falls, as users of git expect it?"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .conftest import Cli, spawn

CHECK = "import sys; sys.exit(float(open(sys.argv[1]).read()) >= 7)"
"""A model is good as long as it says less than 7."""


@pytest.fixture
def ten(cli: Cli) -> list[str]:
    """Ten commits, whose accuracy rises and falls from the seventh on."""
    found = []
    for number in range(1, 11):
        accuracy = 0.5 + number / 20 if number < 7 else 0.6 - number / 100
        found.append(cli.commit(f"epoch {number}", str(number).encode(), "--metric", f"acc={accuracy}"))
    return found


def test_a_command_says_which_is_bad(cli: Cli, ten: list[str]) -> None:
    result = cli("bisect", "epoch-1", "epoch-10", "--", sys.executable, "-c", CHECK, "{}")
    assert result.code == 0, result.err
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[-1][:2] == ["first", "bad"] and ten[6].startswith(lines[-1][2]) and lines[-1][3:] == ["epoch", "7"]
    assert len(lines) - 1 <= 4
    for verdict, _, _, number in lines[:-1]:
        assert verdict == ("good" if int(number) < 7 else "bad")
    assert (cli.root / "model.pt").read_bytes() == b"10"  # neither files nor HEAD moved
    assert cli.json("status")["head"] == ten[9]


def test_json_and_the_path_as_last_word(cli: Cli, ten: list[str]) -> None:
    words = ("bisect", "epoch-1", "HEAD", "--json", "--", sys.executable, "-c", "print('noise');" + CHECK)
    found = spawn(cli.root, *words)
    assert found.stderr.count("noise") == found.stdout.count("verdict")
    result = cli("bisect", "epoch-1", "HEAD", "--json", "--", sys.executable, "-c", CHECK)
    assert (result.code, result.out) == (0, found.stdout)
    assert f'"first_bad":"{ten[6]}"' in result.out.replace(" ", "")


def test_a_metric_needs_no_file(cli: Cli, ten: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelvault.repository.bisect.restore", lambda *_, **__: pytest.fail("a file was restored"))
    found = cli.json("bisect", "epoch-2", "epoch-10", "--metric", "acc>=0.6")
    assert (found["first_bad"], found["suspects"]) == (ten[6], [ten[6]])
    assert {item["verdict"] for item in found["tested"]} == {"good", "bad"}


def test_what_cannot_be_told_is_skipped(cli: Cli, ten: list[str]) -> None:
    program = "import sys; n = int(open(sys.argv[1]).read()); sys.exit(125 if 5 <= n <= 8 else n > 4)"
    result = cli("bisect", "epoch-1", "epoch-10", "--", sys.executable, "-c", program)
    assert result.code == 1
    assert result.out.splitlines()[-6].startswith("one of these")
    assert [line.split()[-1] for line in result.out.splitlines()[-5:]] == ["5", "6", "7", "8", "9"]
    cli.ok("forget", "epoch-5", "epoch-6")
    assert cli.json("bisect", "epoch-1", "epoch-10", "--metric", "acc>=0.6")["first_bad"] == ten[6]
    result = cli("bisect", "epoch-1", "epoch-10", "--json", "--", sys.executable, "-c", CHECK)
    assert result.code == 1 and ten[4] in result.out and ten[5] in result.out and ten[6] in result.out


def test_one_file_of_several(cli: Cli) -> None:
    commits = []
    for number in (1, 2, 3):
        cli.write("a.txt", str(5 + number).encode())
        cli.write("deep/b.txt", b"always the same")
        commits.append(cli.json("commit", "a.txt", "deep", "-m", f"{number}")["id"])
    program = "import pathlib, sys; sys.exit(pathlib.Path(sys.argv[1], 'a.txt').read_text() >= '7')"
    for words in (["--", sys.executable, "-c", program], ["--file", "a.txt", "--", sys.executable, "-c", CHECK]):
        assert f"first bad  {commits[1][:8]}" in cli.ok("bisect", commits[0], commits[2], *words)


def test_a_test_that_is_wrong_is_noticed(cli: Cli, ten: list[str]) -> None:
    for program, which in (("exit(1)", f"{ten[0][:8]} was said to be good"), ("exit(0)", "was said to be bad")):
        said = cli("bisect", "epoch-1", "epoch-10", "--", sys.executable, "-c", program)
        assert said.code == 1 and which in said.err
    said = cli("bisect", "epoch-1", "epoch-10", "--", sys.executable, "-c", "exit(200)")
    assert said.code == 1 and "exit code 200" in said.err
    said = cli("bisect", "epoch-1", "epoch-10", "--", sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    assert said.code == 1 and "signal 9" in said.err
    said = cli("bisect", "epoch-1", "epoch-10", "--", str(Path("no") / "such" / "program"))
    assert said.code == 1 and "no/such/program" in said.err


def test_lines_that_make_no_sense(cli: Cli, ten: list[str]) -> None:
    assert "descend" in cli.fails(2, "bisect", "epoch-10", "epoch-1", "--metric", "acc>0")
    assert "descend" in cli.fails(2, "bisect", "epoch-1", "epoch-1", "--metric", "acc>0")
    cli.fails(2, "bisect", "epoch-1", "epoch-10")
    cli.fails(2, "bisect", "epoch-1", "epoch-10", "--metric", "acc>0", "--", "true")
    cli.fails(2, "bisect", "epoch-1", "epoch-10", "--metric", "acc")
    cli.fails(13, "bisect", "no-such", "epoch-10", "--", "true")
