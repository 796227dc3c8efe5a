"""Does a gc free what nothing live needs, and nothing else?"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from modelvault import wire
from modelvault.errors import CorruptError, InputError, WouldLoseDataError
from modelvault.ids import CommitId
from modelvault.objects.recipe import PARTS, Recipe
from modelvault.objects.ref import Head, Move
from modelvault.repository import gc, liveness, packs, refs
from modelvault.repository import history as history_module
from modelvault.repository.census import Census, take_census
from modelvault.repository.checkout import checkout
from modelvault.repository.commit import Committed
from modelvault.repository.fsck import check
from modelvault.repository.gc import Collected, collect_garbage, copy_vault
from modelvault.repository.names import VAULT_DIRECTORY
from modelvault.repository.repository import Repository, open_repository
from modelvault.repository.revisions import Resolved
from modelvault.store import free_pages
from modelvault.store.base import Table

from .garbage import DAY, age_reflog, assert_restores, assert_tidy, entries, forget, move_ref
from .networks import Run, torch_file
from .test_races import commit_with
from .vaults import all_commits, commit, contents_of, files_of, fsck, new_vault, tensor_records

Expected = dict[CommitId, dict[str, bytes]]


def history_of(repository: Repository, count: int, *, size: int = 20_000, seed: int = 0) -> Expected:
    """Commit the epochs of a run; return what each must give back, oldest first."""
    run = Run({"layer.weight": size, "layer.bias": 60}, seed=seed)
    return {
        commit(repository, data, f"epoch {n}").commit_id: {"model.pt": data} for n, data in enumerate(run.epochs(count))
    }


def keep(repository: Repository, history: Expected, kept: list[CommitId]) -> Expected:
    """Forget all other commits; return what must come back."""
    forget(repository, history.keys() - set(kept))
    return {commit_id: history[commit_id] for commit_id in kept}


PAGE_BYTES = 4096


def collected(repository: Repository, *, compact: bool = False, grace: float = 0) -> Collected:
    """Run a gc that was foretold, and see that another finds nothing."""
    before = entries(repository)
    foretold = collect_garbage(repository, grace=grace, compact=compact, dry_run=True)
    assert entries(repository) == before
    done = collect_garbage(repository, grace=grace, compact=compact)
    assert foretold[:4] == done[:4]
    assert foretold.freed_bytes == pytest.approx(done.freed_bytes, rel=0.01, abs=64)
    if not compact:
        assert foretold.reclaimable_bytes == pytest.approx(done.reclaimable_bytes, rel=0.01, abs=3 * PAGE_BYTES)
    after = entries(repository)
    again = collect_garbage(repository, grace=grace)
    assert again[:5] == (0, 0, 0, 0, 0)
    assert entries(repository) == after
    return done


def test_an_empty_vault(vault: Repository) -> None:
    assert collected(vault)[:5] == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("grace", [0.0, 14 * DAY])
def test_where_nothing_is_dead_nothing_changes(vault: Repository, grace: float) -> None:
    history = history_of(vault, 5)
    before = entries(vault)
    assert collected(vault, grace=grace)[:5] == (0, 0, 0, 0, 0)
    assert entries(vault) == before
    assert_restores(vault, history)


KEEP: dict[str, Callable[[list[CommitId]], list[CommitId]]] = {
    "last": lambda all_: all_[-1:],
    "last two": lambda all_: all_[-2:],
    "every fifth": lambda all_: all_[::5],
    "all but one in the middle": lambda all_: all_[:4] + all_[5:],
    "first and last": lambda all_: [all_[0], all_[-1]],
    "none": lambda all_: [],
}


@pytest.mark.parametrize("which", KEEP)
def test_what_is_kept_comes_back(vault: Repository, which: str) -> None:
    history = history_of(vault, 20, size=17_000)
    depths = {number: record.depth for number, record in tensor_records(vault).items()}
    live = keep(vault, history, KEEP[which](list(history)))
    done = collected(vault)
    assert done.commits == 0  # their history stays
    assert_restores(vault, live)
    assert_tidy(vault)
    assert all(record.depth <= depths[number] for number, record in tensor_records(vault).items())
    assert list(reversed(all_commits(vault))) == list(history)


@pytest.mark.parametrize("seed", range(4))
def test_any_part_of_a_branching_history_is_kept(vault: Repository, seed: int) -> None:
    chance = random.Random(seed)
    history: Expected = {}
    for branch in ("main", "trial", "wide"):
        with vault.store.write() as txn:
            start = chance.choice(list(history)) if history else None
            refs.move(txn, "branch", [Move(refs.BRANCHES + branch, start)] if start else [], head=Head(branch))
        history |= history_of(vault, 7, seed=chance.randrange(2), size=17_000)
    for _ in range(2):
        live = keep(vault, history, [c for c in history if chance.random() < 0.4])
        history = live
        collected(vault)
        assert_restores(vault, live)
        assert_tidy(vault)


def test_two_of_thirty_take_what_two_take(tmp_path: Path) -> None:
    many, few = new_vault(tmp_path / "many"), new_vault(tmp_path / "few")
    history = history_of(many, 30, size=60_000)
    live = keep(many, history, list(history)[-2:])
    done = collected(many, compact=True)
    for files in live.values():
        commit(few, files)
    few.store.compact()
    # Beside the two, the thin history of thirty is there: commits, payloads, reflog.
    thin = sum(len(k) + len(v) for (t, k), v in entries(many).items() if t in ("commits", "payloads", "reflog"))
    assert done.disk_bytes <= 1.1 * few.store.disk_bytes() + 1.5 * thin
    assert_restores(many, live)
    assert_tidy(many)


def test_a_reference_stays_where_that_is_smaller(vault: Repository) -> None:
    """Many children of one dying reference: coding all of them anew would cost more than it."""
    run = Run({"w": 30_000}, rate=1e-5)
    first = commit(vault, run.file())
    base = run.weights
    children: Expected = {}
    for seed in range(3):
        with vault.store.write() as txn:
            refs.move(txn, "b", [Move(f"heads/b{seed}", first.commit_id)], head=Head(f"b{seed}"))
        child = Run({"w": 30_000}, seed=seed + 10, rate=1e-5)
        child.weights = dict(base)
        child.train()
        data = child.file()
        children[commit(vault, data).commit_id] = {"model.pt": data}
    forget(vault, [first.commit_id])
    assert collected(vault)[1:4] == (1, 0, 0)
    assert_restores(vault, children)
    assert_tidy(vault)
    assert len(tensor_records(vault)) == 4


def test_a_file_of_a_forgotten_and_a_live_commit_stays(vault: Repository) -> None:
    data = Run({"w": 20_000}).file()
    first, second = commit(vault, data), commit(vault, data, "again")
    forget(vault, [first.commit_id])
    collected(vault)
    assert_restores(vault, {second.commit_id: {"model.pt": data}})
    assert len(tensor_records(vault)) == 1


def test_a_forgotten_part_goes_alone(vault: Repository) -> None:
    run = Run({"model.w": 20_000, "optimizer.state.0.exp_avg": 20_000})
    history = {commit(vault, data).commit_id: {"model.pt": data} for data in run.epochs(4)}
    *older, last = history
    held = contents_of(vault, older[0])["model.pt"]
    recipe = recipes(vault)[older[0]]
    assert {PARTS[part] for part in recipe.parts} == {"weights", "optimizer"}, held
    forget(vault, older, ["optimizer"])
    collected(vault)
    assert_restores(vault, {last: history[last]})
    assert_tidy(vault)
    for commit_id in older:
        recipe = recipes(vault)[commit_id]
        assert [bool(number) for number in recipe.tensors] == [PARTS[part] == "weights" for part in recipe.parts]
    assert recipes(vault)[last].is_whole
    # What gave up a part is no stored file: committed again, it is whole again; and it is not overwritten.
    again = history[older[0]]["model.pt"]
    (vault.root / "model.pt").write_bytes(again)
    with pytest.raises(WouldLoseDataError):
        checkout(vault, Resolved(last))
    done = commit(vault, again, "again")
    assert_restores(vault, {done.commit_id: {"model.pt": again}, last: history[last], older[0]: {"model.pt": again}})


def recipes(repository: Repository) -> dict[CommitId, Recipe]:
    """Return the recipe of each commit's model."""
    found = {
        key: Recipe.from_bytes(value, key) for (table, key), value in entries(repository).items() if table == "recipes"
    }
    with repository.store.read() as txn:
        return {c: found[commit.files[0].file_id] for c, commit in history_module.walk(txn, liveness.roots(txn, 0))}


def test_what_a_deleted_branch_held_goes_when_the_reflog_lets_go(vault: Repository) -> None:
    main = history_of(vault, 3)
    with vault.store.write() as txn:
        refs.move(txn, "switch", [], head=Head("trial"))
    trial = history_of(vault, 3, seed=5)
    with vault.store.write() as txn:
        refs.move(txn, "switch", [], head=Head("main"))
    age_reflog(vault, 30)
    move_ref(vault, "heads/trial", None, days_ago=10)
    assert collected(vault, grace=14 * DAY)[:5] == (0, 0, 0, 0, 0)  # given up ten days ago, whenever it was made
    assert_restores(vault, main | trial)
    done = collected(vault, grace=5 * DAY)
    assert (done.commits, done.files) == (3, 3)
    assert_restores(vault, main)
    assert_tidy(vault)
    found = fsck(vault)
    assert (found.commits, found.files) == (3, 3)


def test_where_a_detached_head_stood_is_held_for_the_grace(vault: Repository) -> None:
    first = next(iter(history_of(vault, 1)))
    with vault.store.write() as txn:
        refs.move(txn, "switch", [], head=Head("other"))
    lone = next(iter(history_of(vault, 1, seed=3)))
    with vault.store.write() as txn:
        refs.move(txn, "checkout", [Move("heads/other", None)], head=Head("main", lone))
    age_reflog(vault, 30)
    assert collected(vault, grace=DAY).commits == 0
    with vault.store.write() as txn:
        refs.move(txn, "switch", [], head=Head("main"))
    assert collected(vault, grace=DAY).commits == 0
    assert collected(vault).commits == 1
    assert all_commits(vault) == [first]


def test_a_tag_holds_an_old_commit(vault: Repository) -> None:
    history = history_of(vault, 5)
    old = list(history)[1]
    move_ref(vault, "tags/best", old)
    with vault.store.write() as txn:
        refs.move(txn, "reset", [Move("heads/main", next(iter(history)))])
    assert collected(vault).commits == 3
    assert_restores(vault, {c: history[c] for c in list(history)[:2]})
    assert_tidy(vault)


def test_what_is_forgotten_goes_when_the_grace_is_over(vault: Repository) -> None:
    history = history_of(vault, 4)
    first, second, *rest = history
    forget(vault, [first], days_ago=3)
    forget(vault, [second], days_ago=1)
    assert collected(vault, grace=4 * DAY).freed_bytes == 0
    assert_restores(vault, history)
    assert collected(vault, grace=2 * DAY).files == 1
    assert_restores(vault, {c: history[c] for c in (second, *rest)})
    assert collected(vault).files == 1
    assert_restores(vault, {c: history[c] for c in rest})
    assert_tidy(vault)


def test_what_a_shorter_grace_took_is_not_missed_by_a_longer_one(vault: Repository) -> None:
    history = history_of(vault, 4)
    live = keep(vault, history, list(history)[-2:])
    assert collected(vault).files == 2
    assert collected(vault, grace=14 * DAY)[:5] == (0, 0, 0, 0, 0)
    assert_restores(vault, live)


def test_partly_dead_packs_are_copied_without_what_is_dead(vault: Repository) -> None:
    """The tensors of a file share packs, and another file needs a few of them."""
    weights = Run({f"layer{n}.weight": 20_000 for n in range(12)}).weights
    whole = commit(vault, torch_file(weights))
    part = torch_file({name: weights[name] for name in list(weights)[::3]})
    kept = commit(vault, {"part.pt": part}, "some of them")
    old = stored(vault, "packs")
    assert 0 < len(old) < 5
    forget(vault, [whole.commit_id])
    assert collected(vault).freed_bytes > 8 * 60_000
    assert not old & stored(vault, "packs")
    assert_restores(vault, {kept.commit_id: {"part.pt": part}})
    assert_tidy(vault)


def stored(repository: Repository, table: Table) -> set[bytes]:
    return {key for found, key in entries(repository) if found == table}


def test_packs_are_copied_in_many_transactions(vault: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "BATCH_BYTES", 70_000)
    monkeypatch.setattr(gc, "_MOVE_TENSORS", 3)
    test_partly_dead_packs_are_copied_without_what_is_dead(vault)


@pytest.mark.parametrize("compact", [False, True], ids=["holes", "compacted"])
def test_what_is_foretold_is_what_the_disk_gets_back(disk_vault: Repository, compact: bool) -> None:
    run = Run({f"layer{n}.weight": 150_000 for n in range(4)})
    history = {commit(disk_vault, data).commit_id: {"model.pt": data} for data in run.epochs(9)}
    live = keep(disk_vault, history, list(history)[3:4] + list(history)[-2:])
    before = disk_vault.store.disk_bytes()
    assert before >= 10_000_000
    foretold = collect_garbage(disk_vault, grace=0, compact=compact, dry_run=True)
    assert disk_vault.store.disk_bytes() == before
    done = collected(disk_vault, compact=compact)
    lost = before - done.disk_bytes
    assert done.reclaimable_bytes == lost > 3_000_000
    assert foretold.reclaimable_bytes == pytest.approx(lost, rel=0.01)
    assert_restores(disk_vault, live)
    assert_tidy(disk_vault)


def test_coding_anew_reuses_what_it_frees(disk_vault: Repository) -> None:
    run = Run({f"layer{n}.weight": 120_000 for n in range(8)})  # frames that stand alone
    history = {commit(disk_vault, data).commit_id: {"model.pt": data} for data in run.epochs(15)}
    before = disk_vault.store.disk_bytes()
    live = keep(disk_vault, history, list(history)[7::7])
    done = collected(disk_vault)
    assert done.recoded >= 8
    assert disk_vault.store.usage().file_pages * PAGE_BYTES < before * 1.13
    assert done.disk_bytes < before / 2
    assert_restores(disk_vault, live)
    assert_tidy(disk_vault)


def test_where_the_file_system_takes_no_holes_the_disk_gets_nothing(
    disk_vault: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_pages, "_fallocate", lambda: None)
    history = history_of(disk_vault, 8, size=100_000)
    before = disk_vault.store.disk_bytes()
    live = keep(disk_vault, history, list(history)[-1:])
    assert collected(disk_vault).reclaimable_bytes == 0
    assert disk_vault.store.disk_bytes() >= before
    assert_restores(disk_vault, live)


def test_a_reader_that_does_not_end_keeps_the_pages_and_what_it_reads(disk_vault: Repository) -> None:
    history = history_of(disk_vault, 8, size=100_000)
    live = keep(disk_vault, history, list(history)[-1:])
    hurried = Repository(disk_vault.directory, disk_vault.store, lock_timeout=0.1)
    with disk_vault.store.read() as txn:
        packs = [(key, bytes(value)) for key, value in txn.scan("packs")]
        done = collect_garbage(hurried, grace=0)
        assert done.freed_bytes > 100_000
        assert done.reclaimable_bytes == 0
        assert [(key, bytes(value)) for key, value in txn.scan("packs")] == packs
    assert collect_garbage(hurried, grace=0).reclaimable_bytes > 100_000
    assert_restores(disk_vault, live)


def damage(repository: Repository, table: Table, key: bytes) -> None:
    with repository.store.write() as txn:
        value = txn.get(table, key)
        assert value is not None
        txn.put(table, key, value[:-1] + bytes((value[-1] ^ 1,)))


@pytest.mark.parametrize("table", ["tensors", "recipes", "commits", "refs", "reflog"])
@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_damage_stops_it_before_anything_goes(vault: Repository, table: Table, how: str) -> None:
    history = history_of(vault, 5)
    forget(vault, list(history)[:3])
    if how == "missing" and table in ("refs", "reflog"):
        pytest.skip("nothing tells that one is missing")
    last = list(history)[-1]
    with vault.store.read() as txn:
        recipe = recipes(vault)[last]
        file_id = next(iter(contents_of_files(vault, last)))
        newest = next(txn.scan("reflog", reverse=True))[0]
    keys = {
        "tensors": wire.sortable(recipe.tensors[0]),
        "recipes": file_id,
        "commits": last,
        "refs": b"heads/main",
        "reflog": newest,
    }
    key = keys[table]
    if how == "damaged":
        damage(vault, table, key)
    else:
        with vault.store.write() as txn:
            assert txn.delete(table, key)
    before = entries(vault)
    for dry_run in (True, False):
        with pytest.raises(CorruptError):
            collect_garbage(vault, grace=0, dry_run=dry_run)
    assert entries(vault) == before


def contents_of_files(repository: Repository, commit_id: CommitId) -> list[bytes]:
    with repository.store.read() as txn:
        return [entry.file_id for entry in history_module.read_commit(txn, commit_id).files]


def test_damage_that_nothing_live_needs_goes_too(vault: Repository) -> None:
    history = history_of(vault, 12, size=17_000)
    live = keep(vault, history, list(history)[-2:])
    collect_garbage(vault, grace=0)
    left = tensor_records(vault).keys()
    forget(vault, history_of(vault, 3, seed=1))
    dead = tensor_records(vault).keys() - left
    for number in dead:
        damage(vault, "tensors", wire.sortable(number))
    take_census_of(vault)
    done = collected(vault)
    assert done.tensors == len(dead)
    assert_restores(vault, live)
    assert_tidy(vault)
    assert fsck(vault)


def take_census_of(repository: Repository) -> Census:
    with repository.store.read() as txn:
        return take_census(txn)


def test_forgetting_what_damage_hurts_is_a_way_out(vault: Repository) -> None:
    history = history_of(vault, 5, size=17_000) | history_of(vault, 5, size=17_000, seed=9)
    root = next(number for number, record in tensor_records(vault).items() if not record.base)
    damage(vault, "tensors", wire.sortable(root))
    forget(vault, list(history)[:1])
    with pytest.raises(CorruptError) as stopped:
        collect_garbage(vault, grace=0)
    assert "forgotten" in (stopped.value.hint or "")
    hurt = {commit_id for problem in check(vault).problems for commit_id in problem.commits}
    assert hurt < history.keys()
    forget(vault, hurt)
    collected(vault)
    assert_restores(vault, {commit_id: files for commit_id, files in history.items() if commit_id not in hurt})
    assert_tidy(vault)
    assert fsck(vault)


def test_frames_that_cannot_be_decoded_stay_where_live_ones_lean_on_them(vault: Repository) -> None:
    history = history_of(vault, 6, size=17_000)
    records = tensor_records(vault)
    middle, leaf = (recipes(vault)[list(history)[place]].tensors[0] for place in (3, 5))
    assert records[middle].base
    with vault.store.write() as txn:
        for pack, offset, length in records[middle].frames():
            value = bytearray(txn.get("packs", wire.sortable(pack)) or b"")
            value[offset + length // 2] ^= 1
            txn.put("packs", wire.sortable(pack), bytes(value))
    forget(vault, list(history)[1:5])
    collected(vault)
    for number in (middle, leaf):
        assert tensor_records(vault)[number] == records[number]
    assert_restores(vault, {first: history[first] for first in list(history)[:1]})


def test_a_damaged_payload_gives_nothing_up(vault: Repository) -> None:
    history = history_of(vault, 5)
    live = keep(vault, history, list(history)[2:])
    damage(vault, "payloads", next(iter(live)))
    done = collect_garbage(vault, grace=0)
    assert done.files == 0, "which files are stand-ins of that commit cannot be known"
    assert {commit_id: files_of(vault, commit_id) for commit_id in live} == live


def test_a_damaged_reflog_entry_that_is_old_goes(vault: Repository) -> None:
    history = history_of(vault, 3)
    with vault.store.read() as txn:
        newest = next(txn.scan("reflog", reverse=True))[0]
    damage(vault, "reflog", newest)
    with pytest.raises(CorruptError, match="reflog"):
        collect_garbage(vault, grace=0)
    history |= history_of(vault, 2, seed=1)
    with pytest.raises(CorruptError, match="reflog"):
        collect_garbage(vault, grace=DAY)
    collect_garbage(vault, grace=0)
    with vault.store.read() as txn:
        assert len(list(refs.read_reflog(txn))) == 4
    assert_restores(vault, history)
    assert_tidy(vault)


def test_a_reference_that_is_missing_stops_it(vault: Repository) -> None:
    history = history_of(vault, 4)
    leaning = next(record for record in tensor_records(vault).values() if record.base)
    with vault.store.write() as txn:
        txn.delete("tensors", wire.sortable(leaning.base))
    forget(vault, list(history)[:1])
    before = entries(vault)
    with pytest.raises(CorruptError, match="missing"):
        collect_garbage(vault, grace=0)
    assert entries(vault) == before


def test_what_a_session_may_have_written_stays(vault: Repository) -> None:
    """Nothing refers to it yet."""
    history = history_of(vault, 2)
    with vault.store.read() as txn:
        floors = {table: packs.next_number(txn, table) for table in ("tensors", "packs", "templates")}
    with vault.store.open_session(floors):
        done = commit(vault, Run({"w": 20_000}, seed=9).file())
        with vault.store.write() as txn:
            txn.delete("recipes", contents_of_files(vault, done.commit_id)[0])
            refs.move(txn, "reset", [Move("heads/main", list(history)[-1])])
        tensors, kept = tensor_records(vault), stored(vault, "packs")
        collect_garbage(vault, grace=0)
        assert tensor_records(vault) == tensors
        assert stored(vault, "packs") == kept
    collect_garbage(vault, grace=0)
    assert len(tensor_records(vault)) < len(tensors)
    assert_tidy(vault)
    assert_restores(vault, history)


@pytest.mark.parametrize("same", [True, False], ids=["the same file", "a delta"])
def test_a_commit_that_leans_on_what_goes_meanwhile_succeeds(vault: Repository, same: bool) -> None:
    run = Run({"w": 20_000})
    first_data = run.file()
    first = commit(vault, first_data)
    forget(vault, [first.commit_id])
    run.train()
    data = first_data if same else run.file()

    def meanwhile() -> bool:
        collect_garbage(vault, grace=0)
        return True

    done = commit_with(vault, data, meanwhile)
    assert_restores(vault, {done.commit_id: {"model.pt": data}})
    assert_tidy(vault, swept=False)
    collected(vault)
    assert_restores(vault, {done.commit_id: {"model.pt": data}})
    assert_tidy(vault)


@pytest.mark.parametrize("same", [True, False])
def test_a_commit_begun_before_a_whole_part_went_is_made_again(vault: Repository, same: bool) -> None:
    run = Run({"model.w": 20_000, "optimizer.state.0.exp_avg": 20_000})
    data = run.file()
    first = commit(vault, data)
    run.train()
    second = data if same else run.file()
    done: list[Committed] = []

    def meanwhile() -> bool:
        forget(vault, [first.commit_id], ["optimizer"])
        collect_garbage(vault, grace=0)
        return True

    done.append(commit_with(vault, second, meanwhile))
    assert_restores(vault, {done[0].commit_id: {"model.pt": second}})
    assert_tidy(vault, swept=False)


def test_a_reader_goes_on_while_a_gc_moves_what_it_reads(disk_vault: Repository) -> None:
    """Its records were read before."""
    from modelvault.repository.chunks import ChunkReader

    history = history_of(disk_vault, 6)
    live = keep(disk_vault, history, list(history)[-2:])
    reader = ChunkReader(disk_vault.store)
    numbers = [n for c in live for n in recipes(disk_vault)[c].tensors]
    for number in numbers:
        reader.record(number)
    collect_garbage(disk_vault, grace=0, compact=True)
    fresh = ChunkReader(disk_vault.store)
    assert [reader.chunk(n, 0) for n in numbers] == [fresh.chunk(n, 0) for n in numbers]


def test_depths_that_a_killed_gc_left_are_settled(vault: Repository) -> None:
    history = history_of(vault, 6)
    with vault.store.write() as txn:
        for number, record in tensor_records(vault).items():
            if record.base:
                txn.put("tensors", wire.sortable(number), record._replace(depth=record.depth + 3).to_bytes())
    collect_garbage(vault, grace=0)
    assert_tidy(vault)
    assert_restores(vault, history)


def test_a_copy_is_a_vault_of_its_own(disk_vault: Repository, tmp_path: Path) -> None:
    history = history_of(disk_vault, 3)
    copy_vault(disk_vault, tmp_path / "new" / "copy")
    copied = open_repository(tmp_path / "new" / "copy")
    assert entries(copied) == entries(disk_vault)
    assert_restores(copied, history)
    assert (copied.directory / "config.yaml").read_bytes() == (disk_vault.directory / "config.yaml").read_bytes()
    with pytest.raises(InputError, match="already"):
        copy_vault(disk_vault, tmp_path / "new" / "copy")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError):
        copy_vault(disk_vault, tmp_path / "file")
    assert not (tmp_path / "file" / VAULT_DIRECTORY).exists()
