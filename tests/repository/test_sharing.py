"""Is what is equal stored once: across files, commits, branches and vault-wide?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from modelvault import codec
from modelvault.objects.ref import Head, Move
from modelvault.repository import abreast, bisect, refs
from modelvault.repository.repository import Repository

from .networks import Run, noise, torch_file
from .vaults import all_commits, commit, contents_of, files_of, fsck, table_bytes, tensor_records


def test_the_same_file_twice_costs_less_than_a_kilobyte(vault: Repository) -> None:
    data = Run({"w": 100_000, "b": 300}).file()
    commit(vault, data)
    before, records = sum(table_bytes(vault).values()), len(tensor_records(vault))
    again = commit(vault, data, "again")
    assert again.unchanged
    assert sum(table_bytes(vault).values()) - before < 1_000
    assert again.payload.added_bytes < 1_000
    assert len(tensor_records(vault)) == records


def test_a_tensor_is_stored_once_however_many_files_hold_it(vault: Repository) -> None:
    """A backbone is shared by a checkpoint with a new head, in another format's neighbourhood, under another name."""
    run = Run({"backbone.weight": 50_000, "head.weight": 20_000})
    commit(vault, {"one.pt": run.file("one"), "two.pt": run.file("two")})
    assert len(tensor_records(vault)) == 2
    other = Run({"x": 1}, seed=9)
    other.weights = {"module.backbone.weight": run.weights["backbone.weight"], "head.weight": noise_weights(20_000)}
    commit(vault, {"three.pt": other.file("three")})
    assert len(tensor_records(vault)) == 3
    fsck(vault)


def noise_weights(size: int) -> NDArray[np.float32]:
    return Run({"w": size}, seed=77).weights["w"]


def test_equal_tensors_in_one_file_are_stored_once(vault: Repository) -> None:
    weights = Run({"a": 40_000}).weights
    data = torch_file({"a": weights["a"], "b": weights["a"].copy(), "c": weights["a"].copy()})
    done = commit(vault, data)
    assert len(tensor_records(vault)) == 1
    assert files_of(vault, done.commit_id) == {"model.pt": data}


def test_branches_share(vault: Repository) -> None:
    run = Run({"w": 60_000, "v": 60_000})
    commit(vault, run.file(), "base")
    with vault.store.write() as txn:
        tip = refs.head_commit(txn)
        refs.move(txn, "branch", [Move("heads/other", tip)], head=Head("other"))
    run.weights["v"] = noise_weights(60_000)
    done = commit(vault, run.file(), "on the branch")
    assert done.branch == "other"
    assert len(tensor_records(vault)) == 3
    with vault.store.write() as txn:
        refs.move(txn, "switch", [], head=Head("main"))
    back = commit(vault, run.file(), "the same on main")
    assert len(tensor_records(vault)) == 3
    assert back.payload.added_bytes < 1_000


def test_equal_files_of_one_commit_are_stored_once(vault: Repository) -> None:
    data = {f"{number}.bin": noise(300_000, seed=number % 3) for number in range(9)}
    commit(vault, data)
    assert len(tensor_records(vault)) == 3


def test_tensors_under_16_kib_share_a_record_by_part_and_dtype(vault: Repository) -> None:
    sizes = {"big": 4_096, "almost": 4_095, **{f"layer{n}.bias": 100 + n for n in range(30)}}
    sizes |= {f"optimizer.state.{n}.exp_avg": 90 for n in range(10)}
    done = commit(vault, Run(sizes).file())
    found = contents_of(vault, done.commit_id)["model.pt"]
    assert found.segments == len(sizes)
    assert found.tensors == 3  # the big one, the small weights, the small optimizer state


def test_one_template_serves_a_run_and_a_renamed_root(vault: Repository) -> None:
    run = Run({"w": 20_000, **{f"b{n}": 10 for n in range(40)}})
    for number, data in enumerate(run.epochs(5)):
        commit(vault, data, f"epoch {number}")
    commit(vault, run.file("renamed"), "as long a name")
    with vault.store.read() as txn:
        assert txn.count("templates") == 1
    longer = run.file("another_much_longer_root")  # every offset in the archive's directory is another one
    assert files_of(vault, commit(vault, longer).commit_id) == {"model.pt": longer}


def test_a_value_in_the_pickle_costs_a_patch_and_no_template(vault: Repository) -> None:
    run = Run({"w": 20_000, **{f"layer{n}.bias": 10 for n in range(60)}})
    first = run.file()
    commit(vault, first)
    at = first.index(b"storage")  # a spelling only this made-up writer has: same length, other bytes
    changed = first[:at] + b"STORAGE" + first[at + 7 :]
    done = commit(vault, changed)
    assert files_of(vault, done.commit_id) == {"model.pt": changed}
    fsck(vault)


@pytest.mark.parametrize("shift", [1, 4096])
def test_shifted_content_of_a_small_opaque_file_is_patched(vault: Repository, shift: int) -> None:
    data = noise(50_000)
    commit(vault, {"notes.bin": data})
    before = sum(table_bytes(vault).values())
    shifted = noise(shift, seed=3) + data
    done = commit(vault, {"notes.bin": shifted})
    assert files_of(vault, done.commit_id) == {"notes.bin": shifted}
    assert sum(table_bytes(vault).values()) - before < 2_000 + shift


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of every chunk that is decoded."""
    found: list[int] = []
    true = codec.decode_chunk

    def counting(frame: bytes, size: int, *more: object) -> bytes:
        found.append(size)
        return true(frame, size, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(codec, "decode_chunk", counting)
    return found


def test_neighbours_are_restored_for_one_decoding_each(vault: Repository, tmp_path: Path, decodings: list[int]) -> None:
    """A chain of nine: one by one that is 45 decodings of each chunk."""
    run = Run({"w": 40_000})
    expected = list(run.epochs(9))
    for data in expected:
        commit(vault, data)
    assert max(record.depth for record in tensor_records(vault).values()) == 8
    commits = all_commits(vault)
    decodings.clear()
    done = abreast.checkout_many(vault, commits, tmp_path / "all")
    assert len(decodings) == 9
    assert {one.commit_id for one in done} == set(commits)
    assert {one.written[0][0].read_bytes() for one in done} == set(expected)
    abreast.checkout_many(vault, commits[:1], tmp_path / "one")
    assert len(decodings) == 18


def test_a_search_for_a_bad_commit_decodes_no_chunk_twice(vault: Repository, decodings: list[int]) -> None:
    made = [commit(vault, data) for data in Run({"w": 40_000}).epochs(12)]
    seen: list[bytes] = []

    def test(path: Path) -> bisect.Verdict:
        seen.append(path.read_bytes())
        return "good"

    judge = bisect.by_files(vault, (), test)
    decodings.clear()
    for one in (made[6], made[9], made[10], made[2]):
        assert judge(one.commit_id, one.commit) == "good"
    assert seen[3] == files_of(vault, made[2].commit_id)["model.pt"]
    del decodings[-3:]  # of what was looked at last
    assert len(decodings) == 11
