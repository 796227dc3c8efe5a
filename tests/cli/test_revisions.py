"""Does every way to name a commit name the right one, and does a name that could be two say so?"""

from __future__ import annotations

import re

import pytest

from modelvault import ids
from modelvault.ids import CommitId

from .conftest import Cli


def where(cli: Cli, revision: str) -> str:
    found = cli.json("show", revision)["id"]
    assert isinstance(found, str)
    return found


@pytest.fixture
def line(cli: Cli) -> list[str]:
    """Four commits, oldest first."""
    return [cli.commit(f"Epoch {n}", None, "--step", str(n * 100)) for n in range(4)]


def test_head_and_its_ancestors(cli: Cli, line: list[str]) -> None:
    for revision in ("HEAD", "@", "main", "latest", "HEAD~0", "HEAD^0", "@~0", "main^0", "HEAD@{0}", "@@{0}", "@{0}"):
        assert where(cli, revision) == line[3], revision
    for revision in ("HEAD~", "HEAD^", "@~1", "HEAD^1", "main~1", "HEAD@{1}", "@{1}", "main@{1}", "latest~1"):
        assert where(cli, revision) == line[2], revision
    for revision in ("HEAD~3", "HEAD^^^", "HEAD~1^~1", "@{3}", "main@{3}"):
        assert where(cli, revision) == line[0], revision
    for revision in ("HEAD~4", "HEAD^2", "HEAD~0^2", "HEAD@{9}", "nosuch@{0}", "HEAD~99999999999999999999"):
        cli.fails(13, "show", revision)


def test_ids(cli: Cli, line: list[str]) -> None:
    for length in (4, 5, 8, 31, 64):
        prefix = line[1][:length]
        if sum(other.startswith(prefix) for other in line) == 1:
            assert where(cli, prefix) == where(cli, f"id:{prefix}") == line[1]
    assert where(cli, line[1][:8] + "~1") == line[0]
    cli.fails(2, "show", "id:12g4")
    cli.fails(2, "show", "id:abc")
    assert "begins with 00000000000000" in cli.fails(13, "show", "id:00000000000000")


def test_a_prefix_of_several_ids_lists_them(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ids that share eight digits are not found in a test's time: here all ids begin alike."""
    real = ids.commit_id
    monkeypatch.setattr(ids, "commit_id", lambda data: CommitId(b"\xab" * 5 + real(data)[5:]))
    first, second = cli.commit("one"), cli.commit("two")
    result = cli("show", "abab")
    assert result.code == 13
    head, *candidates = result.err.splitlines()
    assert head.startswith("modelvault: abab names 2 commits")
    shorts = [line.split()[0] for line in candidates]
    assert sorted(shorts) == sorted([first[:12], second[:12]])
    assert where(cli, shorts[0]) == next(found for found in (first, second) if found.startswith(shorts[0]))


def test_refs_go_before_everything_else(cli: Cli, line: list[str]) -> None:
    """A tag named like an id or a slug is meant when its name is typed."""
    cli.ok("tag", "epoch-1", "HEAD~3")
    assert where(cli, "epoch-1") == line[0]
    cli.ok("tag", line[2][:8], "HEAD~3")
    assert where(cli, line[2][:8]) == line[0]
    assert where(cli, "id:" + line[2][:8]) == line[2]
    cli.ok("branch", "v1", "HEAD~1")
    cli.ok("tag", "v1", "HEAD~2")
    assert where(cli, "v1") == line[2]


def test_ranges(cli: Cli, line: list[str]) -> None:
    def shown(text: str) -> list[str]:
        return [commit["id"] for commit in cli.json("log", text)["commits"]]

    assert shown("HEAD~2..HEAD") == [line[3], line[2]]
    assert shown("HEAD~2..") == [line[3], line[2]]
    assert shown("..HEAD~2") == []
    assert shown("epoch-0..epoch-2") == [line[2], line[1]]
    assert shown("HEAD~1") == line[2::-1]
    cli.fails(13, "log", "nosuch..HEAD")
    cli.fails(13, "log", "HEAD..nosuch")


def test_steps(cli: Cli, line: list[str]) -> None:
    assert where(cli, "step:200") == line[2]
    again = cli.commit("resumed", None, "--step", "200")
    assert where(cli, "step:200") == again
    assert where(cli, "step:200~1") == line[3]
    assert "step 7" in cli.fails(13, "show", "step:7")
    cli.fails(2, "show", "step:many")


def test_the_best_of_a_metric(cli: Cli) -> None:
    made = [
        cli.commit(f"n{number}", None, "--metric", f"acc={acc}", "--metric", f"val_loss={loss}", "--metric", "psnr=1")
        for number, (acc, loss) in enumerate([(0.9, 0.3), (0.9, 0.1), ("nan", "nan"), (0.7, 0.2)])
    ]
    assert where(cli, "best:acc") == made[1]  # the newest wins a tie
    assert where(cli, "best:val_loss") == made[1]  # the lowest of a loss
    assert where(cli, "best:psnr") == made[3]
    shown = cli("checkout", "best:acc", "-o", "out.pt")
    assert f"best:acc is the highest: 0.9 in {made[1][:8]}" in shown.err
    assert "best:val_loss is the lowest: 0.1" in cli("checkout", "best:val_loss", "-o", "out.pt").err
    assert "acc, psnr, val_loss" in cli.fails(13, "show", "best:f1")


@pytest.mark.parametrize("name", ["loss", "train/loss", "wer", "perplexity", "val_error", "rmse", "FID"])
def test_less_is_better_for_losses_and_errors(cli: Cli, name: str) -> None:
    low = cli.commit("low", None, "--metric", f"{name}=1")
    cli.commit("high", None, "--metric", f"{name}=2")
    assert where(cli, f"best:{name}") == low


def test_the_configuration_says_which_way_is_better(cli: Cli) -> None:
    low = cli.commit("low", None, "--metric", "score=1", "--metric", "loss_scale=1")
    high = cli.commit("high", None, "--metric", "score=2", "--metric", "loss_scale=2")
    assert (where(cli, "best:score"), where(cli, "best:loss_scale")) == (high, low)
    (cli.root / ".modelvault" / "config.yaml").write_text("metrics:\n  score: min\n  loss_scale: max\n")
    assert (where(cli, "best:score"), where(cli, "best:loss_scale")) == (low, high)


def test_best_means_the_current_branch(cli: Cli) -> None:
    here = cli.commit("here", None, "--metric", "acc=0.5")
    cli.ok("switch", "-c", "trial")
    there = cli.commit("there", None, "--metric", "acc=0.9", "--step", "3")
    assert where(cli, "best:acc") == there
    cli.ok("switch", "main")
    assert where(cli, "best:acc") == here
    cli.fails(13, "show", "step:3")


def test_slugs(cli: Cli, line: list[str]) -> None:
    assert where(cli, "epoch-2") == line[2]
    assert where(cli, "epoch-2~1") == line[1]
    fancy = cli.commit("LR/10: \u00c9poque n\u00b0 5 (v1.2)!")
    assert where(cli, "lr-10-\u00e9poque-n-5-v1.2") == fancy
    assert "did you mean epoch-2" in cli.fails(13, "show", "epoch2")
    cli.fails(13, "show", "Epoch 2")
    cli.fails(13, "show", "")


def test_the_nearest_slug_of_the_current_branch_wins(cli: Cli) -> None:
    first, second = cli.commit("same"), cli.commit("same", b"other")
    assert where(cli, "same") == second
    assert where(cli, "HEAD~1") == first


def test_a_slug_elsewhere_is_found_if_it_is_the_only_one(cli: Cli) -> None:
    cli.commit("base")
    cli.ok("switch", "-c", "trial")
    there = cli.commit("tried")
    cli.ok("switch", "main")
    assert where(cli, "tried") == there
    cli.ok("switch", "-c", "other")
    again = cli.commit("tried", b"again")
    assert where(cli, "tried") == again
    cli.ok("switch", "main")
    result = cli("show", "tried")
    assert result.code == 13
    first, *candidates = result.err.splitlines()
    assert first.startswith("modelvault: tried names 2 commits")
    assert sorted(candidates) == sorted([f"  {there[:8]}  tried", f"  {again[:8]}  tried"])


def test_deep_histories_are_walked_without_recursion(cli: Cli) -> None:
    for _ in range(30):
        cli.commit("again")
    assert where(cli, "HEAD~29")
    assert len(cli.json("log")["commits"]) == 30


def test_commits_from_a_detached_head_open_a_branch(cli: Cli, line: list[str]) -> None:
    result = cli("checkout", line[1][:8])
    assert result.code == 0
    assert f"HEAD is now at {line[1][:8]} Epoch 1 (detached" in result.err
    status = cli.json("status")
    assert (status["detached"], status["head"]) == (True, line[1])
    assert where(cli, "latest") == line[3]
    cli.write("model.pt", b"something else")
    result = cli("commit", "model.pt", "-m", "on the side")
    assert re.fullmatch(r"\[epoch-1-branch [0-9a-f]{8}\] on the side .*\n", result.out)
    assert result.err == "modelvault: HEAD was detached: opened branch epoch-1-branch for this commit\n"
    assert where(cli, "epoch-1-branch~1") == line[1]
    assert where(cli, "main") == line[3]
    cli.ok("checkout", line[1][:8])
    found = cli.json("commit", "model.pt", "-m", "once more")
    assert (found["branch"], found["opened_branch"]) == ("epoch-1-branch-2", True)
    cli.ok("checkout", "main")
    assert cli.json("status")["detached"] is False
