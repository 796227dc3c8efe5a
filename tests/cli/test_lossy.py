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
    shown = run.ok("config", "--show-origin")
    assert [line.split()[:3] for line in shown.splitlines() if line.startswith("lossy")] == [
        ["lossy.bound", "rel", "vault"],
        ["lossy.eps", "0.002", "vault"],
    ]
    assert run.json("config", "lossy.eps")["settings"] == [{"key": "lossy.eps", "value": "0.002", "origin": "vault"}]
    assert run.ok("config", "lossy.optimizer") == "not set\n"
    run.ok("config", "metrics.psnr", "max")
    assert "lossy rel 0.002)" in run.ok("commit", "model.pt", "-m", "four"), "setting something else keeps it"
    run.fails(2, "config", "lossy.eps", "0.1")
    for wrong in (
        "lossy: 0.1",
        "lossy: {eps: 0.1, epsilon: 0.1}",
        "lossy: {eps: 0.1, vectors: 2}",
        "lossy: {eps: 0.1, optimizer: -1}",
        "lossy: {eps: 0.1, optimizer: yes}",
        "lossy: {eval: ./judge}",
        "lossy: {eps: 0.1, max_drop: 0.1}",
        "lossy: {eval: '', max_drop: 0.1}",
        "lossy: {eval: [a], max_drop: 0.1}",
        "lossy: {eval: a, max_drop: 0.1, alpha: 2}",
        "lossy: {eval: a, max_drop: .nan}",
        "lossy: {eval: a, max_drop: .inf}",
        "lossy: {eval: a, max_drop: 0.1, range: 0.1}",
        "lossy: {eval: a, max_drop: 0.1, range: [0.1]}",
        "lossy: {eval: a, max_drop: 0.1, range: [0.1, 0.01]}",
        "lossy: {eval: a, max_drop: 0.1, range: [0, 0.01]}",
        "lossy: {eval: a, max_drop: 0.1, eval_timeout: soon}",
        "lossy: {bound: abs}",
        "lossy: {eps: 0}",
        "lossy: {eps: 0.1, bound: l2}",
        "lossy: {eps: x}",
    ):
        settings.write_text(wrong)
        run.fails(2, "commit", "model.pt", "-m", "five")
    settings.unlink()
    assert len(run.json("log")["commits"]) == 4


def three(run: Cli) -> None:
    network = Network()
    for epoch in range(3):
        (run.root / "model.pt").write_bytes(network.file())
        run.ok("commit", "model.pt", "-m", f"epoch {epoch}")
        network.train()


def test_repack_rounds_old_commits_only_when_that_is_meant(run: Cli) -> None:
    three(run)
    before = run.json("log")["commits"]
    error = run.fails(16, "repack", "--lossy", "0.001")
    assert "2 commits" in error and "--yes-lossy" in error
    shown = run.ok("repack", "--lossy", "0.001", "-n")
    assert "lossy abs 0.001: differs by at most 0.000" in shown
    assert "tip of main" in shown
    assert "about" in shown
    assert run.json("log")["commits"] == before, "neither changed anything"
    told = run.json("repack", "--lossy", "0.001", "-n")
    done = run.json("repack", "--lossy", "0.001", "--yes-lossy")
    assert (told["dry_run"], done["dry_run"]) == (True, False)
    assert [one["lossy"] for one in told["commits"]] == [one["lossy"] for one in done["commits"]]
    assert done["after"]["stored_bytes"] < done["before"]["stored_bytes"]
    after = run.json("log")["commits"]
    assert [commit["id"] for commit in after] == [commit["id"] for commit in before]
    assert [commit["mode"] for commit in after] == ["lossless", "lossy abs 0.001", "lossy abs 0.001"]
    assert run.ok("log").count("x lossy abs 0.001") == 2
    assert "2 commits lossy abs 0.001" in run.ok("report")
    assert "Kept:   lossy abs 0.001, " in run.ok("show", "HEAD~1")
    written = run("checkout", "HEAD~1", "-o", "old.pt")
    assert written.code == 0 and "lossy abs 0.001: a stand-in" in written.err
    assert "stand-in" in run("checkout", "HEAD~1", "-o", "-").err
    assert "stand-in" not in run("checkout", "HEAD", "-o", "new.pt").err
    digest = run.json("checkout", "HEAD~1", "-o", "again.pt")
    run.ok("gc", "--compact", "--grace", "0s")
    run.ok("repack")
    run.ok("gc", "--compact", "--grace", "0s")
    assert run.json("checkout", "HEAD~1", "-o", "third.pt")["written"][0]["sha256"] == digest["written"][0]["sha256"]
    run.ok("fsck")
    again = run("repack", "--lossy", "0.01")
    assert again.code == 0, "nothing would be lost, so nothing must be confirmed"
    assert "already" in again.out and "nothing to round" in again.err


def test_repack_rounds_what_is_named(run: Cli) -> None:
    three(run)
    run.ok("repack", "--lossy", "0.01", "--bound", "rel", "--yes-lossy", "HEAD", "epoch-0")
    modes = [commit["mode"] for commit in run.json("log")["commits"]]
    assert modes == ["lossy rel 0.01", "lossless", "lossy rel 0.01"]


@pytest.mark.parametrize(
    "words",
    [
        ("HEAD",),
        ("--bound", "rel"),
        ("--vectors", "0.1"),
        ("--yes-lossy",),
        ("--lossy", "0"),
        ("--lossy", "0.1", "--max-depth", "3"),
        ("--lossy", "0.1", "--effort", "max"),
    ],
)
def test_a_repack_that_makes_no_sense_is_a_usage_error(run: Cli, words: tuple[str, ...]) -> None:
    run.ok("commit", "model.pt", "-m", "one")
    run.fails(2, "repack", *words)


def test_a_policy_has_the_bound_found(run: Cli) -> None:
    evaluate = run.root / "evaluate"
    evaluate.write_text("#!/bin/sh\nwc -c < $1\n")
    evaluate.chmod(0o755)
    settings = Path(".modelvault") / "config.yaml"
    settings.write_text(
        f"lossy:\n  eval: {evaluate}\n  max_drop: 0\n  alpha: 0.9\n  range: [0.001, 0.01]\n  eval_timeout: 60\n"
        "  vectors: 0.001\n  optimizer: 0.125\n"
    )
    lossy = run.json("commit", "model.pt", "-m", "one")["lossy"]
    assert (lossy["eps"], lossy["vectors"], lossy["optimizer"], lossy["alpha"]) == (0.01, 0.001, 0.125, 0.9)
    assert [trial["eps"] for trial in lossy["trials"]][::4] == [0.001, 0.01]
    assert lossy["evaluator"] == str(evaluate)
    shown = run.ok("show")
    assert "but for optimizer state, which is within 0.125 of a unit" in shown
    lossy = run.json("commit", "model.pt", "-m", "two", "--lossy", "0.002", "--optimizer", "0")["lossy"]
    assert (lossy["eps"], lossy["optimizer"], lossy["evaluator"]) == (0.002, 0, ""), "what is said goes before"
    assert run.json("commit", "model.pt", "-m", "three", "--exact")["mode"] == "lossless"
    found = {entry["key"]: entry["value"] for entry in run.json("config")["settings"]}
    assert found["lossy.range"] == "[0.001, 0.01]"
    assert found["lossy.max_drop"] == "0"
    run.ok("config", "metrics.psnr", "max")
    assert run.json("commit", "model.pt", "-m", "four")["lossy"]["alpha"] == 0.9, "written and read again"
    evaluate.write_text("#!/bin/sh\nexit 3\n")
    assert "exit code 3" in run.fails(1, "commit", "model.pt", "-m", "five")
    assert len(run.json("log")["commits"]) == 4


def test_the_papers_formula_is_there_on_request(run: Cli) -> None:
    three(run)
    network = Network(5)
    (run.root / "model.pt").write_bytes(network.file())
    assert "lossy paper 0.001)" in run.ok("commit", "model.pt", "-m", "paper", "--lossy", "0.001", "--bound", "paper")
    assert "|a - a'| <= 0.0009995" in run.ok("show")
    assert run.json("show")["lossy"]["bound"] == "paper"
    run.fails(2, "repack", "--lossy", "0.001", "--bound", "paper", "--yes-lossy")


def test_a_lossy_repack_is_taken_back_until_a_gc(run: Cli) -> None:
    three(run)
    run.ok("repack", "--lossy", "0.001", "--yes-lossy")
    assert "would make 2 commits exact again" in run("repack", "--undo-lossy", "-n").err
    assert run.json("log")["commits"][1]["mode"] == "lossy abs 0.001"
    assert "exact" in run.ok("repack", "--undo-lossy", "epoch-0")
    assert [commit["mode"] for commit in run.json("log")["commits"]] == ["lossless", "lossy abs 0.001", "lossless"]
    run.ok("gc")
    assert "the exact bytes of model.pt are gone" in run.fails(1, "repack", "--undo-lossy", "epoch-1")
    found = run.json("repack", "--undo-lossy")
    assert [commit["reason"] for commit in found["commits"]] == ["the exact bytes of model.pt are gone"]
    run.fails(2, "repack", "--undo-lossy", "--lossy", "0.1")
    run.ok("fsck")
