"""Does a model find the one it was made from, whatever it is called and wherever that was committed?"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from modelvault.ids import CommitId
from modelvault.objects.ref import Head, Move
from modelvault.repository import refs
from modelvault.repository.fsck import check
from modelvault.repository.gc import collect_garbage
from modelvault.repository.recode import encoded_bytes
from modelvault.repository.repack import Bounds, repack
from modelvault.repository.repository import Repository
from modelvault.repository.sketches import Mark

from .garbage import entries
from .networks import Run, safetensors_file
from .vaults import commit, files_of, fsck, tensor_records

SIZES = {"embed": 120_000, "attn": 40_000, "mlp": 60_000, "head": 9_000, "norm": 500}

Weights = dict[str, NDArray[np.float32]]


def base_weights(seed: int) -> Weights:
    return Run(SIZES, seed=seed).weights


def file_of(weights: Weights, dtype: str) -> bytes:
    """Return a safetensors file of the weights, as F32 or BF16."""
    if dtype == "F32":
        return safetensors_file({name: ("F32", values.tobytes()) for name, values in weights.items()})
    return safetensors_file(
        {
            name: ("BF16", ((values.view("<u4") + 0x8000) >> 16).astype("<u2").tobytes())
            for name, values in weights.items()
        }
    )


def fine_tunes(base: Weights, kind: str, count: int, generator: np.random.Generator) -> Iterator[Weights]:
    """Yield models made from one base: trained on whole, in part, by a low-rank update, or under other names."""
    for _ in range(count):
        relative = 10 ** generator.uniform(-4, -2)
        made: Weights = {}
        for place, (name, values) in enumerate(base.items()):
            if kind == "frozen" and place % 2:
                made[name] = values
                continue
            moved = generator.normal(0, 1, values.size)
            if kind == "lora" and values.size % 500 == 0:
                rows = values.size // 500
                moved = (generator.normal(0, 1, (rows, 2)) @ generator.normal(0, 1, (2, 500))).ravel()
            moved *= relative * 0.05 / moved.std()
            made[f"base_model.h.{name}" if kind == "renamed" else name] = (values + moved).astype("<f4")
        yield made


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_a_shuffled_family_of_twenty_and_three_bases(vault: Repository, dtype: str) -> None:
    """Nobody names a base: all are one path, one after the other. Each leans on its own family, near the best of it."""
    generator = np.random.default_rng(7)
    models: list[tuple[int, Weights]] = []
    for family in range(3):
        base = base_weights(family)
        models.append((family, base))
        for kind in ("whole", "frozen", "lora", "renamed"):
            for made in fine_tunes(base, kind, 2 if (family, kind) != (2, "whole") else 1, generator):
                models.append((family, made))
    del models[22 + 1 :]
    random.Random(3).shuffle(models)
    family_of: dict[int, int] = {}
    seen = set[tuple[int, int]]()
    for family, weights in models:
        commit(vault, {"model.safetensors": file_of(weights, dtype)})
        for number, record in tensor_records(vault).items():
            if number in family_of:
                continue
            family_of[number] = family
            if (family, record.nbytes) in seen and record.nbytes >= 4096:  # shorter ones are not worth the entries
                assert record.base, f"tensor {number} found nobody of its family"
                assert family_of[record.base] == family
            seen.add((family, record.nbytes))
    records = tensor_records(vault)
    stored = best = 0
    for number, record in records.items():
        stored += record.stored_bytes
        earlier = [
            one
            for one, other in records.items()
            if one < number and other.nbytes == record.nbytes and family_of[one] == family_of[number]
        ]
        best += min(encoded_bytes(vault.store, number, one) for one in [0, *earlier])
    assert stored <= 1.02 * best
    fsck(vault)


def test_a_fine_tune_finds_its_base_on_another_branch_in_another_file(vault: Repository) -> None:
    commit(vault, Run({"w": 60_000}, seed=5).file())
    first = tip(vault)
    switch(vault, "theirs", first)
    theirs = Run({"layers.0.weight": 50_000}, seed=6, rate=1e-3)
    commit(vault, {"them.pt": theirs.file()})
    switch(vault, "main", first)
    theirs.train()
    theirs.weights = {"another.name": theirs.weights["layers.0.weight"]}
    commit(vault, theirs.file())
    records = tensor_records(vault)
    assert (records[2].base, records[3].base) == (0, 2)
    fsck(vault)


def test_the_tip_of_another_branch_wins_where_the_parent_is_farther(vault: Repository) -> None:
    """Training went on elsewhere, and its result is committed here: there were five branches since."""
    run = Run({"w": 60_000}, rate=1e-2)
    commit(vault, run.file())
    first = tip(vault)
    switch(vault, "elsewhere", first)
    for _ in range(3):
        run.train()
        commit(vault, run.file())
    for seed in range(5):
        switch(vault, f"other-{seed}", first)
        commit(vault, Run({"w": 60_000}, seed=seed + 20).file())
    switch(vault, "main", first)
    run.train()
    commit(vault, run.file())
    records = tensor_records(vault)
    assert records[max(records)].base == 4


def test_unrelated_tensors_of_one_size_lean_on_nobody(vault: Repository) -> None:
    for seed in range(6):
        commit(vault, {f"{seed}.pt": Run({f"w{seed}": 40_000}, seed=seed).file()})
    assert all(record.base == 0 for record in tensor_records(vault).values())


def test_a_vault_without_the_table_is_written_to_as_ever(vault: Repository) -> None:
    """One that an earlier version made, or whose table somebody threw away."""
    run = Run({"w": 60_000})
    commit(vault, run.file())
    drop_sketches(vault)
    other = Run({"v": 60_000})  # the same weights under another name
    other.train()
    commit(vault, {"other.pt": other.file()})
    assert tensor_records(vault)[2].base == 0  # nothing to find it by
    third = Run({"u": 60_000})
    third.weights = {"u": other.weights["v"]}
    third.train()
    commit(vault, {"third.pt": third.file()})
    assert tensor_records(vault)[3].base == 2  # the table is filled again as commits come
    fsck(vault)


@pytest.mark.parametrize("later", [False, True])
def test_a_repack_enters_what_was_stored_before_there_were_sketches(vault: Repository, later: bool) -> None:
    """Whether or not something was committed since, which is in the table."""
    run = Run({"w": 60_000, "small": 300})
    for data in run.epochs(3):
        commit(vault, data)
    drop_sketches(vault)
    if later:
        commit(vault, {"other.pt": Run({"x": 50_000}, seed=4).file()})
    before = repack(vault, Bounds(), dry_run=True)
    assert before.recoded == 0
    repack(vault, Bounds())
    table = {key: value for key, value in entries(vault).items() if key[0] == "sketches"}
    fine_tune = Run({"another.name": 60_000}, seed=1)
    fine_tune.weights = {"another.name": run.weights["w"]}
    fine_tune.train()
    commit(vault, {"fine-tune.pt": fine_tune.file()})
    records = tensor_records(vault)
    assert records[max(records)].base in (1, 3)
    repack(vault, Bounds())
    after = {key: value for key, value in entries(vault).items() if key[0] == "sketches"}
    assert table.keys() == after.keys()
    fsck(vault)


def test_entries_go_with_the_tensors_they_lead_to(disk_vault: Repository) -> None:
    vault = disk_vault
    run = Run({"w": 60_000}, rate=1e-3)
    kept = commit(vault, run.file()).commit_id
    for _ in range(3):
        run.train()
        commit(vault, run.file())
    commit(vault, {"other.pt": Run({"w": 70_000}, seed=9).file()})
    reset(vault, kept)
    collect_garbage(vault, grace=0)
    assert set(tensor_records(vault)) == {1}
    marks = [Mark.from_bytes(value) for (table, _), value in entries(vault).items() if table == "sketches"]
    assert marks
    assert {number for mark in marks for number in mark} == {1}
    run.train()
    done = commit(vault, {"again.pt": Run({"w": 60_000}, rate=1e-3).file()})
    assert done.payload.keyframes == 0
    fsck(vault)


def test_fsck_names_entries_that_lead_nowhere_and_gc_takes_them_out(vault: Repository) -> None:
    commit(vault, Run({"w": 60_000}).file())
    with vault.store.write() as txn:
        txn.put("sketches", b"nobody", Mark(77, 78).to_bytes())
        txn.put("sketches", b"broken", b"\xff")
    (problem,) = check(vault).problems
    assert (problem.what, problem.commits) == ("table sketches", ())
    assert "2 entries" in problem.why
    commit(vault, Run({"v": 60_000}).file())  # and nobody stumbles over them
    collect_garbage(vault)
    fsck(vault)


def test_what_was_found_is_restored(vault: Repository) -> None:
    base = base_weights(1)
    files = [file_of(base, "BF16")]
    files += [file_of(made, "BF16") for made in fine_tunes(base, "renamed", 3, np.random.default_rng(1))]
    done = [commit(vault, {f"{place}.safetensors": data}) for place, data in enumerate(files)]
    for place, (made, data) in enumerate(zip(done, files, strict=True)):
        assert files_of(vault, made.commit_id) == {f"{place}.safetensors": data}


def tip(vault: Repository) -> CommitId:
    with vault.store.read() as txn:
        found = refs.head_commit(txn)
    assert found is not None
    return found


def switch(vault: Repository, branch: str, target: CommitId) -> None:
    """Move HEAD to a branch, which is made if it is not there."""
    with vault.store.write() as txn:
        there = refs.read_ref(txn, refs.BRANCHES + branch)
        refs.move(txn, "switch", [] if there else [Move(refs.BRANCHES + branch, target)], head=Head(branch))


def reset(vault: Repository, target: CommitId) -> None:
    with vault.store.write() as txn:
        refs.move(txn, "move", [Move("heads/main", target)])
        for key, _ in list(txn.scan("reflog")):
            txn.delete("reflog", key)


def drop_sketches(vault: Repository) -> None:
    with vault.store.write() as txn:
        for key, _ in list(txn.scan("sketches")):
            txn.delete("sketches", key)
