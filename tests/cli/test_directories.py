"""Do checkpoints that are directories go in and come out whole?"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .terminal import done, run, weights, write


def content(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def sharded(vault: Path) -> dict[str, bytes]:
    """A directory as DeepSpeed writes it, with one file that is not wanted; committed."""
    for rank in range(2):
        place = vault / "ckpt" / "global_step10"
        place.mkdir(parents=True, exist_ok=True)
        write(place / f"rank_{rank}_optim_states.safetensors", weights(rank))
    (vault / "ckpt" / "latest").write_text("global_step10")
    (vault / "ckpt" / "zero_to_fp32.py").write_text("print()\n")
    (vault / "ckpt" / "zero_to_fp32.py").chmod(0o755)
    expected = content(vault / "ckpt")
    (vault / "ckpt" / "train.log").write_text("loss 2\n")
    (vault / ".modelvaultignore").write_text("*.log\n")
    done("commit", "ckpt", "-m", "step 10")
    return expected


def test_a_directory_comes_back_at_its_place(vault: Path, sharded: dict[str, bytes]) -> None:
    shutil.rmtree(vault / "ckpt")
    done("checkout", "HEAD")
    assert content(vault / "ckpt") == sharded
    assert (vault / "ckpt" / "zero_to_fp32.py").stat().st_mode & 0o100


def test_a_directory_comes_back_elsewhere(vault: Path, sharded: dict[str, bytes]) -> None:
    done("checkout", "HEAD", "-o", "out")
    assert content(vault / "out" / "ckpt") == sharded
    (vault / "into").mkdir()
    (vault / "into" / "mine").write_text("kept")
    done("checkout", "HEAD", "-o", "into")
    assert content(vault / "into" / "ckpt") == sharded
    assert (vault / "into" / "mine").read_text() == "kept"


def test_a_slash_at_the_end_asks_for_a_directory(vault: Path, sharded: dict[str, bytes]) -> None:
    done("checkout", "HEAD", "ckpt/latest", "-o", "out/")
    assert content(vault / "out") == {"ckpt/latest": b"global_step10"}
    said = run("checkout", "HEAD", "-o", ".modelvaultignore/")
    assert (said.code, "a directory is wanted" in said.err) == (2, True)


def test_nothing_is_left_of_a_checkout_that_fails(vault: Path, sharded: dict[str, bytes]) -> None:
    before = set(vault.iterdir())
    assert run("checkout", "HEAD", "-o", "no/such/place").code == 1
    assert set(vault.iterdir()) == before


def test_links_into_a_cache_are_committed_as_files(vault: Path, tmp_path: Path) -> None:
    blob = tmp_path / "hub" / "blobs" / "0a1b"
    snapshot = tmp_path / "hub" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    blob.parent.mkdir()
    write(blob, weights())
    (snapshot / "model.safetensors").symlink_to("../../blobs/0a1b")
    done("commit", str(snapshot), "-m", "base model")
    done("checkout", "HEAD", "-o", "out/")
    assert content(vault / "out") == {"main/model.safetensors": blob.read_bytes()}
    assert not (vault / "out" / "main" / "model.safetensors").is_symlink()


@pytest.mark.parametrize(("target", "why"), [("nowhere", "dangling link"), ("circle", "Too many levels")])
def test_a_link_that_leads_nowhere_is_refused_by_name(vault: Path, target: str, why: str) -> None:
    (vault / "ckpt").mkdir()
    (vault / "ckpt" / "circle").symlink_to(target)
    said = run("commit", "ckpt", "-m", "one")
    assert said.code == 1
    assert "ckpt/circle" in said.err
    assert why in said.err
