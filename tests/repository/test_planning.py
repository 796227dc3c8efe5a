"""Is the reference chosen by what it saves: the parent, the root of its chain, or a tensor stored elsewhere?"""

from __future__ import annotations

from pathlib import Path

from modelvault import wire
from modelvault.objects.ref import Head, Move
from modelvault.objects.tensor import TensorRecord
from modelvault.repository import refs
from modelvault.repository.candidates import bare_name
from modelvault.repository.repository import Repository

from .networks import Run, noise
from .vaults import commit, fsck, new_vault, tensor_records

SIZES = {"w": 40_000}


def newest(repository: Repository) -> tuple[int, int]:
    """Return the newest tensor's number and that of its reference."""
    records = tensor_records(repository)
    number = max(records)
    return number, records[number].base


def test_the_parent_wins_while_training_goes_on(vault: Repository) -> None:
    run = Run(SIZES, rate=1e-2)
    for epoch, data in enumerate(run.epochs(4)):
        commit(vault, data)
        assert newest(vault) == (epoch + 1, epoch)


def test_the_root_of_the_chain_wins_after_a_step_back(vault: Repository) -> None:
    """Training diverged and began again near the first checkpoint."""
    run = Run(SIZES, rate=1e-6)
    start = run.weights["w"]
    commit(vault, run.file())
    run.train()
    near_the_start = run.file()
    other = Run(SIZES, rate=0.5)
    other.weights = {"w": start}
    for _ in range(2):
        other.train()
        commit(vault, other.file())
    assert newest(vault) == (3, 2)
    commit(vault, near_the_start)
    assert newest(vault) == (4, 1)


def test_what_was_stored_elsewhere_wins_where_the_parent_is_far(vault: Repository) -> None:
    """A model fine-tuned on another branch, in another file, wrapped by another trainer."""
    ours, theirs = Run(SIZES, seed=1), Run(SIZES, seed=2, rate=1e-6)
    commit(vault, ours.file())
    with vault.store.write() as txn:
        tip = refs.head_commit(txn)
        refs.move(txn, "branch", [Move("heads/theirs", tip)], head=Head("theirs"))
    theirs.weights = {"module.w": theirs.weights["w"]}
    commit(vault, {"other.pt": theirs.file()})
    assert newest(vault)[1] in (0, 1)
    with vault.store.write() as txn:
        refs.move(txn, "switch", [], head=Head("main"))
    theirs.train()
    theirs.weights = {"w": theirs.weights["module.w"]}
    commit(vault, theirs.file())
    assert newest(vault) == (3, 2)
    fsck(vault)


def test_unrelated_bytes_of_the_same_name_become_keyframes(vault: Repository) -> None:
    commit(vault, {"a.bin": noise(300_000, seed=1)})
    commit(vault, {"a.bin": noise(300_000, seed=2)})
    number, base = newest(vault)
    assert base == 0
    assert tensor_records(vault)[number].depth == 0


def test_another_length_is_no_reference(vault: Repository) -> None:
    commit(vault, Run({"w": 40_000}).file())
    commit(vault, Run({"w": 40_001}).file())
    assert newest(vault) == (2, 0)


def test_the_same_history_makes_the_same_plan(tmp_path: Path) -> None:
    plans = []
    for name in ("one", "two"):
        repository = new_vault(tmp_path / name, "memory")
        for data in Run(SIZES).epochs(5):
            commit(repository, data)
        plans.append(tensor_records(repository))
    assert plans[0] == plans[1]


def test_a_reference_whose_record_is_damaged_is_passed_over(vault: Repository) -> None:
    """New work is saved even if the parent's tensor record is gone."""
    run = Run(SIZES)
    commit(vault, run.file())
    with vault.store.write() as txn:
        txn.put("tensors", wire.sortable(1), b"not a record")
    run.train()
    done = commit(vault, run.file())
    assert tensor_record(vault, 2).base == 0
    assert done.payload.keyframes == 1


def test_a_reference_whose_frames_are_damaged_is_passed_over(vault: Repository) -> None:
    run = Run(SIZES)
    commit(vault, run.file())
    with vault.store.write() as txn:
        txn.put("packs", wire.sortable(1), b"not a pack")
    run.train()
    done = commit(vault, run.file())
    assert tensor_record(vault, 2).base == 0
    assert done.payload.keyframes == 1


def tensor_record(repository: Repository, number: int) -> TensorRecord:
    with repository.store.read() as txn:
        data = txn.get("tensors", wire.sortable(number))
    assert data is not None
    return TensorRecord.from_bytes(data)


def test_wrappers_are_no_part_of_a_name() -> None:
    assert bare_name("model.module._orig_mod.layer1.weight") == "layer1.weight"
    assert bare_name("model") == "model"
    assert bare_name("layer.model.weight") == "layer.model.weight"
