"""Does a repack keep every bound and every byte, change no id, and end no worse than it began?"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelvault import wire
from modelvault.errors import UsageError
from modelvault.objects.ref import Head, Move
from modelvault.objects.tensor import TensorRecord
from modelvault.repository import packs, recode, refs, version_samples
from modelvault.repository import repack as module
from modelvault.repository.cost import seconds
from modelvault.repository.gc import collect_garbage
from modelvault.repository.liveness import Cutoff, mark
from modelvault.repository.repack import Bounds, Repacked, repack
from modelvault.repository.repository import Repository
from modelvault.repository.versions import find_lines, find_versions
from modelvault.tensors import DType

from .garbage import assert_restores, assert_tidy, entries, forget
from .networks import Run, noise, safetensors_file, torch_file
from .vaults import all_commits, commit, files_of, fsck, new_vault, tensor_records

SIZES = {"layer1.weight": 30_000, "layer2.weight": 20_000, "norm.weight": 64}


def grown(repository: Repository, epochs: int = 12, **options: float) -> Run:
    run = Run(SIZES, rate=options.get("rate", 1e-3))
    for data in run.epochs(epochs):
        commit(repository, data)
    return run


def checked(repository: Repository, bounds: Bounds) -> Repacked:
    """Repack, and see that nothing but the encoding changed, that the bounds hold, and that once is enough."""
    expected = {commit_id: files_of(repository, commit_id) for commit_id in all_commits(repository)}
    before = entries(repository)
    done = repack(repository, bounds)
    after = entries(repository)
    changed = {"tensors", "packs", "stats", "meta"}
    assert {k: v for k, v in before.items() if k[0] not in changed} == {
        k: v for k, v in after.items() if k[0] not in changed
    }
    assert [key for key in before if key[0] == "tensors"] == [key for key in after if key[0] == "tensors"]
    assert_restores(repository, expected)
    assert_tidy(repository, swept=False)
    assert max(record.depth for record in tensor_records(repository).values()) <= bounds.max_depth
    stored = sum(record.stored_bytes for record in tensor_records(repository).values())
    assert stored == done.after.nbytes
    packed = sum(len(value) for (table, _), value in after.items() if table == "packs")
    assert packed <= stored * 8 / 7 + 1
    again = repack(repository, bounds)
    assert again.recoded == 0
    assert entries(repository) == after
    return done


@pytest.mark.parametrize("depth", [0, 1, 3, 16])
def test_a_bound_on_depth_is_kept_and_costs_bytes(vault: Repository, depth: int) -> None:
    grown(vault)
    done = checked(vault, Bounds(max_depth=depth))
    assert done.after.depth_max <= depth
    assert (done.after.nbytes > done.before.nbytes) == (depth < 11)


def test_a_looser_bound_gives_the_bytes_back(vault: Repository) -> None:
    grown(vault)
    start = repack(vault, Bounds()).after.nbytes
    shallow = checked(vault, Bounds(max_depth=1)).after.nbytes
    deep = checked(vault, Bounds()).after.nbytes
    assert deep < shallow and deep <= start * 1.02


def test_what_a_looser_bound_saves_the_disk_gets_back(tmp_path: Path) -> None:
    vault = new_vault(tmp_path)
    grown(vault)
    repack(vault, Bounds(max_depth=0))
    before = vault.store.disk_bytes()
    done = repack(vault, Bounds())
    saved = done.before.nbytes - done.after.nbytes
    assert saved > 200_000
    # Where the file system takes no holes, nothing comes back, and nothing more is taken than while it worked.
    assert not vault.store.gives_back() or before - vault.store.disk_bytes() > saved * 0.9 - 10 * 4096


def test_a_bound_on_time_is_kept(vault: Repository) -> None:
    grown(vault)
    free = repack(vault, Bounds()).after
    done = checked(vault, Bounds(max_restore=seconds(free.work_max) / 2))
    assert done.after.work_max <= free.work_max / 2
    assert done.after.depth_max < free.depth_max


def test_a_budget_buys_shorter_chains(vault: Repository) -> None:
    grown(vault, 9)
    least = repack(vault, Bounds()).after
    done = checked(vault, Bounds(budget=int(least.nbytes * 1.3)))
    assert done.after.nbytes <= least.nbytes * 1.3
    assert done.after.work_mean < least.work_mean * 0.8


def test_what_a_budget_bought_stays_bought(vault: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file takes more than its share of a budget and the other less, since samples were wrong."""
    measure = version_samples.VersionSamples.measure

    def misled(samples: version_samples.VersionSamples, number: int, *references: Sequence[int]) -> int:
        return round(measure(samples, number, *references) * (0.96 if number % 2 else 1.04))

    monkeypatch.setattr(version_samples.VersionSamples, "measure", misled)
    runs = [Run({f"{size}.weight": size}).epochs(7) for size in (30_000, 40_000)]
    for epochs in zip(*runs, strict=True):
        commit(vault, {f"{at}.pt": data for at, data in enumerate(epochs)})
    least = repack(vault, Bounds()).after
    for share in (1.05, 1.2):
        checked(vault, Bounds(budget=int(least.nbytes * share)))


def test_after_any_bound_another_is_kept_and_once_is_enough(vault: Repository) -> None:
    """Each begins where the one before it ended."""
    grown(vault, 8)
    free = repack(vault, Bounds()).after
    for bounds in (
        Bounds(max_depth=1),
        Bounds(max_restore=seconds(free.work_max) / 2),
        Bounds(budget=int(free.nbytes * 1.2)),
        Bounds(max_depth=3),
        Bounds(budget=int(free.nbytes * 1.1), max_depth=4),
    ):
        done = checked(vault, bounds).after
        assert bounds.budget is None or done.nbytes <= bounds.budget
        assert bounds.max_restore is None or seconds(done.work_max) <= bounds.max_restore


def test_on_the_way_little_more_is_stored_than_before(vault: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was given up goes while others are still being coded, not in the end."""
    batch = 300_000
    monkeypatch.setattr(module, "BATCH_BYTES", batch)
    grown(vault)
    before = packed(vault)
    most = 0

    def look(step: str, done: int, total: int) -> None:
        nonlocal most
        most = max(most, packed(vault))

    after = repack(vault, Bounds(max_depth=1), progress=look).after.nbytes
    assert before < after
    assert most <= after * 1.05 + 2 * batch < before + after


def packed(repository: Repository) -> int:
    """Return the bytes of all packs."""
    return sum(len(value) for (table, _), value in entries(repository).items() if table == "packs")


def test_tips_can_be_keyframes(vault: Repository) -> None:
    grown(vault, 6)
    checked(vault, Bounds(keyframe_tips=True))
    newest = max(tensor_records(vault).items())[1]
    assert newest.base == 0 and newest.depth == 0


def test_a_family_whose_base_came_last_is_put_around_it(vault: Repository) -> None:
    """Fine-tunes, committed before what they were made from."""
    base = Run(SIZES, rate=1e-4)
    start = base.weights
    for number in range(4):
        tuned = Run(SIZES, seed=number + 1, rate=1e-4)
        tuned.weights = dict(start)
        tuned.train()
        commit(vault, {f"tuned-{number}.pt": tuned.file()})
    commit(vault, {"base.pt": base.file()})
    done = checked(vault, Bounds(max_depth=1))
    big = [record for record in tensor_records(vault).values() if record.nbytes > 100_000]
    assert sum(record.base == 0 for record in big) == 1
    assert next(reversed(big)).base == 0
    assert done.after.depth_max == 1


def test_the_base_of_a_large_family_is_found(vault: Repository) -> None:
    """Too many to measure every pair: whoever is measured against the base gains, so it is tried for all."""
    base = Run({"w": 17_000}, rate=1e-4)
    for number in range(27):
        tuned = Run({"w": 17_000}, seed=number + 1, rate=1e-4)
        tuned.weights = dict(base.weights)
        if number != 20:
            tuned.train()
        commit(vault, {f"{number}.pt": tuned.file()})
    checked(vault, Bounds(max_depth=1))
    assert [number for number, record in tensor_records(vault).items() if record.base == 0] == [21]


def test_branches_are_planned_together(vault: Repository) -> None:
    run = grown(vault, 4)
    with vault.store.write() as txn:
        tip = refs.head_commit(txn)
        refs.move(txn, "branch", [Move("heads/other", tip)], head=Head("other"))
    kept = dict(run.weights)
    for data in run.epochs(4):
        commit(vault, data)
    run.weights = kept
    with vault.store.write() as txn:
        refs.move(txn, "switch", [], head=Head("main"))
    run.train()
    for data in run.epochs(4):
        commit(vault, data)
    checked(vault, Bounds(max_depth=3))


def test_files_that_nothing_is_known_of_are_left_alone(vault: Repository) -> None:
    for seed in range(3):
        commit(vault, {"a.bin": noise(300_000, seed=seed)})
    assert checked(vault, Bounds()).recoded == 0


def test_an_empty_vault_has_nothing_to_plan(vault: Repository) -> None:
    assert repack(vault, Bounds()).tensors == 0


def test_a_dry_run_changes_nothing_and_foretells(vault: Repository) -> None:
    grown(vault)
    before = entries(vault)
    told = repack(vault, Bounds(max_depth=2), dry_run=True)
    assert entries(vault) == before
    done = repack(vault, Bounds(max_depth=2))
    assert 0 <= told.recoded - done.recoded <= 0.05 * told.recoded  # what would not be smaller stays as it is
    assert done.after.depth_max == told.after.depth_max
    assert abs(done.after.nbytes - told.after.nbytes) <= 0.05 * done.after.nbytes


def test_a_bound_that_is_none_is_refused(vault: Repository) -> None:
    with pytest.raises(UsageError, match="max-depth"):
        repack(vault, Bounds(max_depth=17))


def test_what_grew_in_the_end_is_coded_back(vault: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples that say keyframes cost nothing."""
    grown(vault)
    before = tensor_records(vault)
    true = recode.sample_bytes

    def wrong(raw: bytes, dtype: DType, *references: bytes) -> int:
        return true(raw, dtype, *references) if references else 1

    monkeypatch.setattr(version_samples, "sample_bytes", wrong)
    done = repack(vault, Bounds())
    assert done.undone and not done.recoded
    assert_unmoved(before, tensor_records(vault))
    assert_not_tried_again(vault, monkeypatch)


def test_what_gained_nothing_is_not_tried_again(vault: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples that say references cost nothing, of tensors that gain by none."""
    random = np.random.default_rng(2)
    for at in range(4):
        commit(
            vault,
            {"m.safetensors": safetensors_file({"w": ("F32", random.normal(size=9000).astype("<f4").tobytes())})},
            str(at),
        )
    before = tensor_records(vault)
    true = recode.sample_bytes

    def wrong(raw: bytes, dtype: DType, *references: bytes) -> int:
        return 1 if references else true(raw, dtype)

    monkeypatch.setattr(version_samples, "sample_bytes", wrong)
    done = repack(vault, Bounds())
    assert not done.recoded and done.before == done.after
    assert_unmoved(before, tensor_records(vault))
    assert_not_tried_again(vault, monkeypatch)


def assert_not_tried_again(vault: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that another repack codes nothing anew, and that it would, did it not know what was tried."""
    tried = list[int]()
    true = recode.Recoder.recode

    def noted(recoder: recode.Recoder, number: int, *words: Any) -> int:
        tried.append(number)
        return true(recoder, number, *words)

    monkeypatch.setattr(recode.Recoder, "recode", noted)
    before = entries(vault)
    assert not repack(vault, Bounds()).undone
    assert not tried and entries(vault) == before
    with vault.store.write() as txn:
        txn.delete("stats", b"tried")
    repack(vault, Bounds())
    assert tried


def assert_unmoved(before: dict[int, TensorRecord], after: dict[int, TensorRecord]) -> None:
    """Check that tensors are coded as they were, wherever their frames lie by now."""
    for number, record in after.items():
        assert record._replace(extents=()) == before[number]._replace(extents=())
        assert [length for *_, length in record.frames()] == [length for *_, length in before[number].frames()]


def test_half_a_history_turned_round_can_be_turned_back(vault: Repository) -> None:
    """What undoing does, on chains that lean the other way by then."""
    grown(vault)
    before = tensor_records(vault)
    work = module._Repack(vault, Bounds(), lambda *_: None)
    recoder = recode.Recoder(vault)
    numbers = [number for number, record in before.items() if record.nbytes == 4 * SIZES["layer1.weight"]]
    for number in numbers:
        recoder.recode(number, 0)
    for number, base in itertools.pairwise(numbers):
        if number % 2 or number > numbers[4]:
            recoder.recode(number, base)
    work._restore(recoder, before, before)
    assert_unmoved(before, tensor_records(vault))


def test_what_was_in_the_way_goes_back_to_what_it_leant_on(vault: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor that has no turn of its own, at the end of a chain that is too long for a while."""
    grown(vault, 18)
    recoder = recode.Recoder(vault)
    numbers = [
        number for number, record in tensor_records(vault).items() if record.nbytes == 4 * SIZES["layer1.weight"]
    ]
    first, second, third, *_, last, beside = numbers
    for number in numbers:
        recoder.recode(number, 0)
    for base, number in itertools.pairwise(numbers[:-1]):
        recoder.recode(number, base)
    recoder.recode(beside, first)
    before = tensor_records(vault)
    assert before[last].depth == 16
    work = module._Repack(vault, Bounds(), lambda *_: None)
    tried = list[tuple[int, int]]()
    recoded = recoder.recode

    def noted(number: int, base: int, *more: Any) -> int:
        tried.append((number, base))
        return recoded(number, base, *more)

    monkeypatch.setattr(recoder, "recode", noted)
    work._recode(recoder, {second: (beside,), third: (first,)}, before, "coding anew")
    assert (last, 0) in tried, "it was in the way"
    after = tensor_records(vault)[last]
    assert (after.references, after.stored_bytes) == (before[last].references, before[last].stored_bytes)


def walked(repository: Repository, epochs: int) -> None:
    """Commit weights that walk at random: what stands between two others is told best by both."""
    chance = np.random.default_rng(1)
    values = chance.normal(0, 1, 60_000)
    for _ in range(epochs):
        commit(repository, torch_file({"layer.weight": values.astype("<f4")}))
        values = values + chance.normal(0, 1e-3, values.size)


def test_a_random_walk_leans_on_both_sides(vault: Repository) -> None:
    walked(vault, 26)
    before = sum(record.stored_bytes for record in tensor_records(vault).values())
    done = checked(vault, Bounds(max_depth=5))
    records = tensor_records(vault)
    assert sum(len(record.references) == 2 for record in records.values()) >= 8
    assert done.after.nbytes < before
    assert done.after.depth_max <= 5 < done.before.depth_max


def test_numbers_that_are_not_computed_with_have_one_reference(vault: Repository) -> None:
    chance = np.random.default_rng(1)
    values = chance.integers(0, 1000, 60_000)
    for _ in range(6):
        file = io.BytesIO()
        np.save(file, values.astype("<i4"))
        commit(vault, {"a.npy": file.getvalue()})
        values = values + chance.integers(-3, 4, values.size)
    checked(vault, Bounds(max_depth=2))
    assert all(len(record.references) < 2 for record in tensor_records(vault).values())


def test_damage_is_left_for_fsck_and_the_rest_is_done(vault: Repository) -> None:
    run = grown(vault, 3)
    other = Run({"else.weight": 50_000}, seed=9)
    for data in other.epochs(5):
        commit(vault, {"other.pt": data})
    del run
    pack = tensor_records(vault)[1].extents[0].pack
    with vault.store.write() as txn:
        txn.put("packs", wire.sortable(pack), b"damaged")
    commits = all_commits(vault)
    repack(vault, Bounds(max_depth=1))
    for commit_id in commits[:5]:
        assert files_of(vault, commit_id)


def test_what_is_dying_is_no_reference(vault: Repository) -> None:
    grown(vault, 8)
    commits = all_commits(vault)
    forget(vault, commits[3:], days_ago=30)
    expected = {commit_id: files_of(vault, commit_id) for commit_id in commits[:3]}
    repack(vault, Bounds())
    collect_garbage(vault, grace=14 * 86_400.0)
    assert_restores(vault, expected)
    assert_tidy(vault)


def test_versions_follow_one_another_in_one_line(tmp_path: Path) -> None:
    vault = new_vault(tmp_path / "run", "memory")
    grown(vault, 5)
    with vault.store.read() as txn:
        versions = find_versions(txn, mark(txn, Cutoff(0, 2**63)))
    lines = find_lines(versions)
    assert [len(line.versions) for line in lines] == [5]
    assert sorted(number for version in versions for number in version.tensors) == list(range(1, 16))


def test_packs_that_a_gc_made_meanwhile_are_not_given_up(vault: Repository) -> None:
    """It moves frames of several tensors into one: that no count knows it does not mean that it is nobody's."""
    run = Run({"v": 20_000, "w": 20_000})
    expected = {}
    for _ in range(2):
        data = run.file()
        expected[commit(vault, data).commit_id] = {"model.pt": data}
        run.train()
    recoder = recode.Recoder(vault)
    records = tensor_records(vault)
    moving = {extent.pack for record in records.values() for extent in record.extents}
    with vault.store.write() as txn:
        packs.move_frames(txn, list(records), moving)
        for pack in moving:
            txn.delete("packs", wire.sortable(pack))
    for number in sorted(records, reverse=True):
        recoder.recode(number, 0)
        for commit_id, files in expected.items():
            assert files_of(vault, commit_id) == files
    recoder.tidy()
    for commit_id, files in expected.items():
        assert files_of(vault, commit_id) == files
    fsck(vault)
