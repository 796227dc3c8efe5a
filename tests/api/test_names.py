"""Can branches, tags, HEAD and the tensors of a commit be dealt with from Python?"""

from __future__ import annotations

import pytest

import modelvault
from modelvault import errors
from tests.repository.networks import torch_file
from tests.repository.test_lossy import Network


@pytest.fixture
def made(vault: modelvault.Vault) -> list[str]:
    """Two commits on main; their ids."""
    network, ids = Network(), []
    for epoch in range(2):
        (vault.root / "model.pt").write_bytes(network.file())
        ids.append(vault.commit(vault.root / "model.pt", message=f"epoch {epoch}").id)
        network.train()
    return ids


def test_branches_and_tags(vault: modelvault.Vault, made: list[str]) -> None:
    vault.branch("side", "HEAD~1")
    vault.tag("best")
    assert vault.branches() == {"main": made[1], "side": made[0]}
    assert vault.tags() == {"best": made[1]}
    with pytest.raises(errors.UsageError, match="exists already"):
        vault.tag("best", "side")
    vault.tag("best", "side", force=True)
    assert vault.tags() == {"best": made[0]}
    vault.tag("best", delete=True)
    assert vault.tags() == {}
    with pytest.raises(errors.UsageError, match="HEAD is on"):
        vault.branch("main", delete=True)
    with pytest.raises(errors.UnknownRevisionError):
        vault.branch("third", "nowhere")
    with pytest.raises(errors.UsageError):
        vault.branch("no..name")


def test_a_branch_that_alone_holds_commits(vault: modelvault.Vault, made: list[str]) -> None:
    vault.switch("side", create=True)
    (vault.root / "model.pt").write_bytes(b"other")
    third = vault.commit(vault.root / "model.pt", message="epoch 2").id
    vault.switch("main")
    with pytest.raises(errors.WouldLoseDataError):
        vault.branch("side", delete=True)
    vault.branch("side", delete=True, force=True)
    assert vault.branches() == {"main": made[1]}
    assert vault.undo() == "branch side"
    assert vault.branches() == {"main": made[1], "side": third}
    with pytest.raises(errors.UsageError, match="there is no branch"):
        vault.switch("nowhere")


def test_the_tensors_of_a_commit(vault: modelvault.Vault, made: list[str]) -> None:
    found = {tensor.name: tensor for tensor in vault.ls("epoch-0")}
    assert found["fc.weight"] == ("model.pt", "fc.weight", "F32", (96, 64), 24_576, "weights", False)
    assert found["optimizer.state.0.exp_avg"].part == "optimizer"
    (vault.root / "other.pt").write_bytes(torch_file({}))
    vault.commit([vault.root / "model.pt", vault.root / "other.pt"], message="two files")
    assert {tensor.path for tensor in vault.ls(path="model.pt")} == {"model.pt"}
    with pytest.raises(errors.InputError):
        vault.ls(path="nothing.pt")
    vault.forget("epoch-0", parts=["optimizer"])
    vault.gc(grace=0)
    assert {t.name for t in vault.ls("epoch-0") if t.forgotten} == {"optimizer.state.0.exp_avg"}


def test_nothing_to_take_back(vault: modelvault.Vault) -> None:
    with pytest.raises(errors.InputError):
        vault.undo()
