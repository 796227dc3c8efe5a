"""Can commits be rounded from Python, new ones and old ones?"""

from __future__ import annotations

from pathlib import Path

import pytest

import modelvault
from modelvault import errors
from tests.repository.test_lossy import Network


@pytest.fixture
def files(vault: modelvault.Vault) -> list[bytes]:
    """Four exact commits; their files, oldest first."""
    network, made = Network(), []
    for epoch in range(4):
        made.append(network.file())
        (vault.root / "model.pt").write_bytes(made[-1])
        vault.commit(vault.root / "model.pt", message=f"epoch {epoch}")
        network.train()
    return made


def test_old_commits_become_lossy(vault: modelvault.Vault, files: list[bytes], tmp_path: Path) -> None:
    before = list(vault.log())
    told = vault.repack_lossy("HEAD~3..HEAD", lossy=0.001, dry_run=True)
    assert [info.mode for info in vault.log()] == ["lossless"] * 4
    assert [info.subject for info in told.commits] == ["epoch 1", "epoch 2", "epoch 3"]
    done = vault.repack_lossy(lossy=0.002, bound="rel", vectors=0.002)
    assert [info.subject for info in done.commits] == ["epoch 0", "epoch 1", "epoch 2"]
    assert {info.mode for info in done.commits} == {"lossy rel 0.002"}
    assert [(info.subject, why) for info, why in done.kept] == [("epoch 3", "tip of main")]
    assert done.after < done.before
    assert [info.id for info in vault.log()] == [info.id for info in before]
    vault.checkout("epoch-0", tmp_path / "old.pt")
    vault.checkout("epoch-3", tmp_path / "new.pt")
    assert (tmp_path / "old.pt").read_bytes() != files[0]
    assert (tmp_path / "new.pt").read_bytes() == files[3]
    with pytest.raises(errors.UsageError):
        vault.repack_lossy(lossy=0.0)
    assert [info.subject for info in vault.undo_lossy("epoch-0")] == ["epoch 0"]
    vault.checkout("epoch-0", tmp_path / "old.pt", force=True)
    assert (tmp_path / "old.pt").read_bytes() == files[0]
    vault.gc()
    with pytest.raises(errors.InputError, match="gone"):
        vault.undo_lossy("epoch-1")
    assert vault.undo_lossy() == ()


def test_commits_go_to_another_vault_and_onto_a_file(
    vault: modelvault.Vault, files: list[bytes], tmp_path: Path
) -> None:
    vault.bundle("epoch-1", tmp_path / "first.mvb")
    done = vault.bundle("epoch-1..main", tmp_path / "rest.mvb", only_tip=True)
    assert done.mode == "lossless"
    assert done.nbytes == (tmp_path / "rest.mvb").stat().st_size < done.raw_bytes
    other = modelvault.open(tmp_path / "other", create=True)
    other.unbundle(tmp_path / "first.mvb", branch="main")
    assert other.unbundle(tmp_path / "rest.mvb").moved[0][0] == "heads/main"
    assert [info.id for info in other.log()] == [info.id for info in vault.log()]
    other.checkout("main", tmp_path / "there.pt")
    assert (tmp_path / "there.pt").read_bytes() == files[3]
    (tmp_path / "old.pt").write_bytes(files[1])
    made = modelvault.apply_bundle(tmp_path / "rest.mvb", tmp_path / "old.pt", tmp_path / "new.pt")
    assert made == next(vault.log()).id
    assert (tmp_path / "new.pt").read_bytes() == files[3]
    with pytest.raises(errors.WouldLoseDataError):
        vault.bundle("main", tmp_path / "rest.mvb")
