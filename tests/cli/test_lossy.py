"""Does the command line round only when it is told to, and say so wherever it prints a ratio?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.repository.test_lossy import Network

from .conftest import Cli


@pytest.fixture
def run(cli: Cli) -> Cli:
    """A vault, and a network that is not committed yet."""
    (cli.root / "model.pt").write_bytes(Network().file())
    return cli


def test_every_ratio_says_lossy(run: Cli) -> None:
    assert "lossy abs 0.001)" in run.ok("commit", "model.pt", "-m", "one", "--lossy", "0.001")
    assert "x lossy abs 0.001" in run.ok("log")
    assert "x lossy abs 0.001" in run.ok("log", "--oneline")
    assert "x lossy abs 0.001)" in run.ok("log", "--stat")
    shown = run.ok("show")
    assert "Kept:   lossy abs 0.001, " in shown
    assert "|a - a'| <= 0.0009995" in shown
    assert "checkout gives a stand-in for it: sha256 " in shown
    assert "x lossy abs 0.001" in run.ok("report")
    run.ok("commit", "model.pt", "-m", "two")
    assert "1 commit lossless, 1 commit lossy abs 0.001" in run.ok("report")
    for verb, names in (("log", ("lossless", "lossy abs 0.001")), ("show", ("lossless",))):
        found = run.json(verb)
        assert tuple(commit["mode"] for commit in found.get("commits", [found])) == names
    lossy = run.json("show", "HEAD~1")["lossy"]
    assert (lossy["bound"], lossy["eps"], lossy["evaluator"]) == ("abs", 0.001, "")
    assert "lossless" not in run.ok("show", "HEAD~1")


def test_checkout_gives_the_same_stand_in_each_time(run: Cli) -> None:
    run.ok("commit", "model.pt", "-m", "one", "--lossy", "0.01", "--bound", "rel", "--vectors", "0.01")
    written = [run.json("checkout", "HEAD", "-o", name)["written"][0]["sha256"] for name in ("a.pt", "b.pt")]
    assert written[0] == written[1] == run.json("show")["files"][0]["stand_in_sha256"]
    assert (run.root / "a.pt").read_bytes() == (run.root / "b.pt").read_bytes()
    assert "in no commit" in run.fails(16, "checkout", "HEAD")
    run.ok("fsck")
    assert "exact" in run.ok("identify", "a.pt")
    assert run.json("diff", "HEAD", "HEAD")["files"] is not None
    run.ok("ls")


def test_an_evaluator_finds_the_bound(run: Cli) -> None:
    evaluate = run.root / "evaluate"
    evaluate.write_text("#!/bin/sh\nwc -c < $1\n")
    evaluate.chmod(0o755)
    words = ("commit", "model.pt", "-m", "one", "--eval", str(evaluate), "--max-drop", "0", "--range", "0.001:0.01")
    found = run.json(*words)
    assert len(found["lossy"]["trials"]) == 5
    assert found["mode"] == "lossy abs 0.01"
    assert "chosen" in run.ok("show")


@pytest.mark.parametrize(
    "words",
    [
        ("--lossy", "0"),
        ("--lossy", "2"),
        ("--lossy", "much"),
        ("--bound", "rel"),
        ("--vectors", "0.1"),
        ("--lossy", "0.1", "--bound", "l2"),
        ("--eval", "true"),
        ("--max-drop", "0.1"),
        ("--lossy", "0.1", "--exact"),
        ("--eval", "true", "--max-drop", "0.1", "--range", "0.1:0.01"),
        ("--eval", "true", "--max-drop", "0.1", "--range", "wide"),
        ("--eval", "'", "--max-drop", "0.1"),
        ("--eval", "", "--max-drop", "0.1"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(run: Cli, words: tuple[str, ...]) -> None:
    run.fails(2, "commit", "model.pt", "-m", "one", *words)
    assert run.json("log")["commits"] == []


def test_an_evaluator_that_fails_is_one_line_and_no_commit(run: Cli) -> None:
    error = run.fails(1, "commit", "model.pt", "-m", "one", "--eval", "false", "--max-drop", "0.1")
    assert "exit code 1" in error
    assert run.json("log")["commits"] == []


def test_a_policy_rounds_until_a_commit_says_otherwise(run: Cli) -> None:
    settings = Path(".modelvault") / "config.yaml"
    settings.write_text("lossy:\n  eps: 0.002\n  bound: rel\n")
    assert "lossy rel 0.002)" in run.ok("commit", "model.pt", "-m", "one")
    assert "lossless)" in run.ok("commit", "model.pt", "-m", "two", "--exact")
    assert "lossy rel 0.004)" in run.ok("commit", "model.pt", "-m", "three", "--lossy", "0.004")
    assert "rel 0.002" in run.ok("config")
    run.ok("config", "metrics.psnr", "max")
    assert "lossy rel 0.002)" in run.ok("commit", "model.pt", "-m", "four"), "setting something else keeps it"
    run.fails(2, "config", "lossy.eps", "0.1")
    for wrong in (
        "lossy: 0.1",
        "lossy: {bound: abs}",
        "lossy: {eps: 0}",
        "lossy: {eps: 0.1, bound: l2}",
        "lossy: {eps: x}",
    ):
        settings.write_text(wrong)
        run.fails(2, "commit", "model.pt", "-m", "five")
    settings.unlink()
    assert len(run.json("log")["commits"]) == 4
