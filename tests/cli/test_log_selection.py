"""Does `log` find and order commits by what they say and measured, and tell what each one stored?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelvault.errors import UsageError
from modelvault.repository.selection import Condition

from .terminal import done, run, weights, write


@pytest.fixture
def history(vault: Path) -> Path:
    """Four commits with accuracies 0.1, 0.9, 0.5 and nan; the last one has a loss too."""
    for epoch, accuracy in enumerate(("0.1", "0.9", "0.5", "nan"), 1):
        write("model.safetensors", weights(epoch, large=40_000 + 100 * (epoch % 3)))
        more = ["--metric", "val_loss=2"] if epoch == 4 else []
        message = f"epoch {epoch}\n\n{'warm-up' if epoch == 1 else 'cosine'}"
        done("commit", "model.safetensors", "-m", message, "--step", f"{epoch}0", "--metric", f"acc={accuracy}", *more)
    return vault


def epochs(*words: str) -> list[int]:
    found = run("log", "--json", *words)
    assert found.code == 0, found.err
    return [int(commit["subject"][-1]) for commit in found.json["commits"]]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--grep", "warm"], [1]),
        (["--grep", "^epoch [23]"], [3, 2]),
        (["--metric", "acc>=0.5"], [3, 2]),
        (["--metric", "acc > 0.5"], [2]),
        (["--metric", "acc!=0.5"], [2, 1]),
        (["--metric", "acc<0.9", "--metric", "acc>0.2"], [3]),
        (["--metric", "absent>0"], []),
        (["--sort", "acc"], [2, 3, 1, 4]),
        (["--sort", "acc", "-n", "1"], [2]),
        (["--sort", "val_loss", "-n", "1"], [4]),
        (["--sort", "step"], [4, 3, 2, 1]),
        (["--sort", "time"], [4, 3, 2, 1]),
        (["--sort", "size", "-n", "1"], [2]),
        (["HEAD~3..HEAD~1", "--grep", "epoch"], [3, 2]),
    ],
)
def test_commits_are_selected(history: Path, words: list[str], expected: list[int]) -> None:
    assert epochs(*words) == expected


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--grep", "("], "no regular expression"),
        (["--metric", "acc"], "--metric 'val_acc>=0.9'"),
        (["--metric", "acc>=high"], "no condition"),
        (["--sort", "absent"], "one of time, step, size, acc, val_loss"),
        (["--graph", "--grep", "epoch"], "--graph"),
    ],
)
def test_what_makes_no_sense_is_said(history: Path, words: list[str], text: str) -> None:
    said = run("log", *words)
    assert (said.code, said.out) == (2, "")
    assert text in said.err


def test_a_condition_may_have_any_name() -> None:
    assert Condition.parse("val/acc@5<=-1e-3") == ("val/acc@5", "<=", -0.001)
    with pytest.raises(UsageError):
        Condition.parse(">=1")


def test_stat_tells_what_each_commit_stored(vault: Path) -> None:
    first = weights()
    write("a", first)
    write("b", {"x": np.ones(3, "f4")})
    done("commit", "a", "b", "-m", "one")
    write("a", first | {"layer.bias": np.zeros(100, "f4")})
    done("commit", "a", "-m", "two")
    done("commit", "a", "-m", "three")
    lines = [line.split() for line in done("log", "--oneline", "--stat").splitlines()]
    assert lines[1] == ["every", "file", "is", "as", "in", "the", "parent"]
    assert lines[3][:10] == ["changed", "a", "161.1", "KB", "1", "of", "3", "stored", "tensors", "new,"]
    assert lines[4][:2] == ["removed", "b"]
    assert [line[:2] for line in lines[6:]] == [["added", "a"], ["added", "b"]]
    stat = run("log", "--json", "--stat").json["commits"][1]["stat"]
    assert [(file["path"], file["state"], file["new_tensors"]) for file in stat] == [
        ("a", "changed", 1),
        ("b", "removed", 0),
    ]
    assert "stat" not in run("log", "--json").json["commits"][0]
    assert " changed  a" in done("log", "--stat")
