"""Can what the command line does to old commits be done from Python: forget, bring back, collect, compare, check?"""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

import modelvault
from modelvault import errors
from modelvault.repository.repository import open_repository
from tests.repository.networks import Run, torch_file

BOTH = {"model.weight": 30_000, "optimizer.state.0.exp_avg": 30_000}


@pytest.fixture
def line(vault: modelvault.Vault) -> list[bytes]:
    """Six epochs with a metric that is best in the middle; the files, oldest first."""
    run = Run(BOTH)
    files = list(run.epochs(6))
    for epoch, data in enumerate(files):
        (vault.root / "model.pt").write_bytes(data)
        accuracy = [0.1, 0.2, 0.9, 0.4, 0.3, 0.2][epoch]
        vault.commit(vault.root / "model.pt", message=f"epoch {epoch}", metrics={"acc": accuracy})
    return files


def subjects(commits: tuple[modelvault.CommitInfo, ...]) -> list[str]:
    return [info.subject for info in commits]


def test_rules_keep_what_they_name(vault: modelvault.Vault, line: list[bytes], tmp_path: Path) -> None:
    foretold = vault.forget(keep_last=2, keep_best={"acc": 1}, dry_run=True)
    assert subjects(foretold.forgotten) == ["epoch 3", "epoch 1", "epoch 0"]
    assert [(info.subject, why) for info, why in foretold.kept] == [
        ("epoch 5", ("tip of main", "last 2")),
        ("epoch 4", ("last 2",)),
        ("epoch 2", ("best acc",)),
    ]
    vault.checkout("epoch-0", tmp_path / "still.pt")
    assert vault.forget(keep_last=2, keep_best={"acc": 1}) == foretold
    with pytest.raises(errors.ForgottenError):
        vault.checkout("epoch-0", tmp_path / "gone.pt")
    assert len(list(vault.log())) == 6


def test_what_was_forgotten_comes_back_until_a_gc(vault: modelvault.Vault, line: list[bytes], tmp_path: Path) -> None:
    vault.forget("epoch-0", "epoch-1")
    assert subjects(vault.bring_back("epoch-1")) == ["epoch 1"]
    with pytest.raises(errors.InputError, match="not forgotten"):
        vault.bring_back("epoch-1")
    vault.checkout("epoch-1", tmp_path / "back.pt")
    assert (tmp_path / "back.pt").read_bytes() == line[1]
    vault.gc(grace=0)
    with pytest.raises(errors.InputError, match="gone"):
        vault.bring_back("epoch-0")
    assert vault.bring_back() == ()


def test_a_gc_is_foretold(vault: modelvault.Vault, line: list[bytes]) -> None:
    vault.forget(keep_last=1)
    assert vault.gc().tensors == 0  # all too young
    foretold = vault.gc(grace=0, compact=True, dry_run=True)
    before = open_repository(vault.root).store.disk_bytes()
    done = vault.gc(grace=0, compact=True)
    assert before - done.disk_bytes == done.reclaimable_bytes
    assert foretold.reclaimable_bytes == pytest.approx(done.reclaimable_bytes, rel=0.01)
    assert vault.report().census.forgotten == 5
    assert vault.fsck() == []


def test_a_part_goes_alone(vault: modelvault.Vault, line: list[bytes]) -> None:
    forgotten = vault.forget("epoch-3", parts=["optimizer"]).forgotten
    assert subjects(forgotten) == ["epoch 3"]
    vault.gc(grace=0)
    changes = vault.diff("epoch-3", "epoch-5")
    assert {change.name: change.state for change in changes} == {
        "model.weight": "changed",
        "optimizer.state.0.exp_avg": "forgotten",
    }


@pytest.mark.parametrize(
    "call",
    [
        lambda vault: vault.forget(),
        lambda vault: vault.forget("epoch-1", keep_last=1),
        lambda vault: vault.forget("epoch-1", all_branches=True),
        lambda vault: vault.forget(keep_best={"loss": 1}),
        lambda vault: vault.forget(keep_last=1, parts=["head"]),
    ],
)
def test_calls_that_make_no_sense(vault: modelvault.Vault, line: list[bytes], call: object) -> None:
    assert callable(call)
    with pytest.raises(errors.UsageError):
        call(vault)


def test_differences_are_told(vault: modelvault.Vault, line: list[bytes]) -> None:
    assert vault.diff("epoch-1", "epoch-1") == []
    near, far = vault.diff("epoch-0", "epoch-1"), vault.diff("epoch-0")
    assert [change.name for change in near] == list(BOTH)
    assert near[0].relative_l2 is not None and far[0].relative_l2 is not None
    assert 0 < near[0].relative_l2 < far[0].relative_l2 < 0.01
    assert near[0].dtypes == ("F32", "F32") and near[0].shapes == ((30_000,), (30_000,))
    (vault.root / "model.pt").write_bytes(torch_file({"other": Run(BOTH).weights["model.weight"]}))
    vault.commit(vault.root / "model.pt", message="another")
    assert {change.name: change.state for change in vault.diff("epoch-5", measure=False)} == {
        "other": "added",
        "model.weight": "removed",
        "optimizer.state.0.exp_avg": "removed",
    }


def test_a_file_is_found(vault: modelvault.Vault, line: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "found.pt").write_bytes(line[2])
    found = vault.identify(tmp_path / "found.pt")
    assert found is not None and found.how == "exact"
    assert [(info.subject, path) for info, path in found.commits] == [("epoch 2", "model.pt")]
    run = Run(BOTH)
    run.train()
    run.weights["model.weight"][:10] = 0
    (tmp_path / "near.pt").write_bytes(run.file())
    assert vault.identify(tmp_path / "near.pt") is None
    near = vault.identify(tmp_path / "near.pt", nearest=True)
    assert near is not None and near.how == "nearest"
    assert near.commits[0][0].subject == "epoch 1"
    assert near.relative_l2 is not None and not math.isnan(near.relative_l2)


def test_damage_is_named(vault: modelvault.Vault, line: list[bytes]) -> None:
    repository = open_repository(vault.root)
    with repository.store.write() as txn:
        for key, value in list(txn.scan("packs"))[-1:]:
            txn.put("packs", key, value[:-1] + bytes((value[-1] ^ 1,)))
    assert vault.fsck(quick=True) == []
    (found,) = vault.fsck()
    assert found.what.startswith("tensor ")
    assert found.commits == (next(vault.log()).id,)


def test_forgetting_is_light(vault: modelvault.Vault, line: list[bytes]) -> None:
    program = (
        f"import sys, modelvault\nvault = modelvault.open({str(vault.root)!r})\n"
        "vault.forget(keep_last=2, dry_run=True)\nvault.report()\nlist(vault.log())\n"
        "print(sorted({'numpy', 'torch', 'typer'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
