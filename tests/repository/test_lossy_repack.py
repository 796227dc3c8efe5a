"""Do commits that become lossy keep their ids and the bound, does nothing else change, and is nothing left over?"""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from modelvault import wire
from modelvault.codec import Bound
from modelvault.errors import CorruptError, UnknownRevisionError, UsageError
from modelvault.ids import CommitId
from modelvault.objects.payload import EXACT, LOSSY
from modelvault.objects.ref import Move
from modelvault.repository import encode, history, refs, retention
from modelvault.repository.checkout import read_recipe
from modelvault.repository.commit import Committed
from modelvault.repository.fsck import check
from modelvault.repository.gc import collect_garbage
from modelvault.repository.lossy import LossyRequest
from modelvault.repository.lossy_repack import Choice, LossyRepacked, choose, choose_to_undo, lossy_repack, undo_lossy
from modelvault.repository.repack import Bounds, repack
from modelvault.repository.repository import Repository
from modelvault.store.base import ReadTransaction

from .garbage import assert_tidy, entries, forget
from .test_lossy import SHAPES, Network, given_back, lossy_commit, numbers
from .vaults import commit, copy_value, files_of, tensor_records

WISH = LossyRequest(0.002, vectors=0.01)


class History:
    """A few exact commits, and their files."""

    def __init__(self, vault: Repository, count: int = 5) -> None:
        self.vault, network = vault, Network()
        self.made: list[Committed] = []
        self.files: list[bytes] = []
        for epoch in range(count):
            self.files.append(network.file())
            self.made.append(commit(vault, self.files[-1], f"epoch {epoch}"))
            network.train()

    def turn(self, *named: str, dry_run: bool = False, wish: LossyRequest = WISH) -> LossyRepacked:
        return lossy_repack(self.vault, self.choose(*named), wish, dry_run=dry_run)

    def choose(self, *named: str) -> list[Choice]:
        with self.vault.store.read() as txn:
            return choose(txn, named, self.vault.config)

    def reasons(self, *named: str) -> list[str]:
        return [choice.reason for choice in self.choose(*named)]


@pytest.mark.parametrize("batch_bytes", [1, 1 << 20])
def test_a_race_that_is_lost_is_run_again(vault: Repository, monkeypatch: pytest.MonkeyPatch, batch_bytes: int) -> None:
    """Whether a batch is written while encoding or with the last transaction."""
    run = History(vault)
    lost: list[int] = []
    depth_on = encode._depth_on

    def lose_once(txn: ReadTransaction, base: int, max_depth: int) -> int:
        if not lost:
            lost.append(base)
            raise encode.RaceLostError(f"tensor {base} is gone")
        return depth_on(txn, base, max_depth)

    monkeypatch.setattr(encode, "BATCH_BYTES", batch_bytes)
    monkeypatch.setattr(encode, "_depth_on", lose_once)
    done = run.turn()
    assert lost
    assert [one.commit_id for one in done.turned] == [made.commit_id for made in run.made[:-1]]
    assert check(vault).problems == ()


@pytest.mark.parametrize("bound", [Bound.ABS, Bound.REL])
def test_ids_stay_and_the_bound_holds(vault: Repository, bound: Bound) -> None:
    run = History(vault)
    before = entries(vault)
    eps = 0.002
    done = run.turn(wish=LossyRequest(eps, bound))
    assert [one.commit_id for one in done.turned] == [made.commit_id for made in run.made[:-1]]
    for one, data in zip(done.turned, run.files, strict=False):
        found = given_back(vault, run.made[done.turned.index(one)])
        old, new = numbers(data), numbers(found)
        assert one.lossy is not None
        largest = 0.0
        for name in SHAPES:
            error = np.abs(new[name] - old[name])
            limit = np.full(error.size, math.log1p(eps)) if bound is Bound.ABS else eps * np.abs(old[name])
            assert (error <= limit).all()
            largest = max(largest, float(error.max()))
        assert 0 < largest == one.lossy.max_abs
        with vault.store.read() as txn:
            payload = history.read_payload(txn, one.commit_id)
        assert (payload.mode, payload.lossy) == (LOSSY, one.lossy)
        assert one.taken < payload.added_bytes < one.given_up
    assert given_back(vault, run.made[-1]) == run.files[-1], "the tip stays exact"
    after = entries(vault)
    assert {key for key in before if before[key] != after.get(key)} <= {
        key for key in before if key[0] in ("payloads", "meta", "latest", "sketches")
    }
    assert check(vault).problems == ()


def test_a_stand_in_is_the_one_that_a_lossy_commit_makes(vault: Repository) -> None:
    run = History(vault, 2)
    run.turn("HEAD~1", "HEAD")
    again = lossy_commit(vault, run.files[0], WISH)
    assert given_back(vault, again) == given_back(vault, run.made[0])
    assert again.payload.lossy == history_payload(vault, run.made[0])


def history_payload(vault: Repository, made: Committed) -> object:
    with vault.store.read() as txn:
        return history.read_payload(txn, made.commit_id).lossy


@pytest.mark.parametrize("store", ["disk"])
def test_checkouts_stay_the_same_through_repack_and_gc(disk_vault: Repository, store: str) -> None:
    del store
    run = History(disk_vault, 8)
    done = run.turn()
    before = [given_back(disk_vault, made) for made in run.made]
    swept = collect_garbage(disk_vault, grace=0.0)
    assert swept.freed_bytes > 0.5 * (done.before - done.after)
    assert_tidy(disk_vault)
    for step in (
        lambda: repack(disk_vault, Bounds(max_depth=2)),
        lambda: collect_garbage(disk_vault, grace=0.0, compact=True),
        lambda: repack(disk_vault, Bounds()),
        lambda: collect_garbage(disk_vault, grace=0.0, compact=True),
    ):
        step()
        assert [given_back(disk_vault, made) for made in run.made] == before
        assert check(disk_vault).problems == ()
    assert before[-1] == run.files[-1]


def test_stand_ins_lean_on_nothing_that_goes(vault: Repository) -> None:
    run = History(vault)
    exact = set(tensor_records(vault))
    run.turn()
    new = {number: record for number, record in tensor_records(vault).items() if number not in exact}
    assert any(record.base for record in new.values())
    assert not any(record.base in exact for record in new.values())


def test_a_dry_run_changes_nothing_and_foretells(vault: Repository) -> None:
    run = History(vault)
    before = entries(vault)
    told = run.turn(dry_run=True)
    assert entries(vault) == before
    done = run.turn()
    assert told.before == done.before
    assert [one.lossy for one in told.turned] == [one.lossy for one in done.turned]
    assert [one.given_up for one in told.turned] == [one.given_up for one in done.turned]
    assert told.after == pytest.approx(done.after, rel=0.02)


def test_tips_and_tags_stay_unless_they_are_named(vault: Repository) -> None:
    run = History(vault)
    move(vault, Move(refs.TAGS + "best", run.made[1].commit_id))
    move(vault, Move(refs.BRANCHES + "other", run.made[2].commit_id))
    assert run.reasons() == ["", "tag best", "tip of other", "", "tip of main"]
    assert run.reasons("best", "main~4..main~2") == ["", ""]
    run.turn("best", "main~4..main~2", "main")
    assert run.reasons("main~4..main") == ["it is lossy abs 0.002 already"] * 2 + ["", "it is lossy abs 0.002 already"]
    assert run.turn("best").turned == (), "nothing is rounded twice"
    with pytest.raises(UnknownRevisionError):
        run.choose("nothing-like-it")


def move(vault: Repository, to: Move) -> None:
    with vault.store.write() as txn:
        refs.move(txn, "move", [to])


def test_what_is_forgotten_or_has_nothing_to_round_stays(vault: Repository) -> None:
    run = History(vault)
    forget(vault, [run.made[0].commit_id])
    forget(vault, [run.made[1].commit_id], ["optimizer"])
    noise = commit(vault, {"noise.bin": np.random.default_rng(3).bytes(100_000)})
    commit(vault, run.files[0], "tip")
    assert run.reasons()[:2] == ["it is forgotten, or a part of it"] * 2
    done = run.turn()
    assert [one.lossy is not None for one in done.turned] == [True, True, True, False]
    assert done.turned[-1].commit_id == noise.commit_id
    with vault.store.read() as txn:
        assert history.read_payload(txn, noise.commit_id).mode == EXACT
    assert check(vault).problems == ()


def test_a_file_that_another_commit_has_exactly_stays_there(disk_vault: Repository) -> None:
    run = History(disk_vault, 3)
    same = commit(disk_vault, run.files[0], "the same again")
    done = run.turn("HEAD~3")
    assert done.turned[0].given_up == 0, "the other commit needs all of it"
    collect_garbage(disk_vault, grace=0.0)
    assert given_back(disk_vault, same) == run.files[0]
    assert given_back(disk_vault, run.made[0]) != run.files[0]
    assert_tidy(disk_vault)


def test_a_commit_that_is_forgotten_meanwhile_is_left_alone(vault: Repository) -> None:
    run = History(vault)
    choices = run.choose()

    def interfere(_: str, done: int, total: int) -> None:
        del total
        if done == 1:
            forget(vault, [run.made[1].commit_id])

    done = lossy_repack(vault, choices, WISH, progress=interfere)
    assert [one.commit_id for one in done.turned] == [run.made[n].commit_id for n in (0, 2, 3)]


def test_lossy_commits_are_forgotten_and_brought_back(disk_vault: Repository) -> None:
    run = History(disk_vault, 4)
    run.turn()
    before = [given_back(disk_vault, made) for made in run.made]
    gone = [run.made[0].commit_id, run.made[2].commit_id]
    with disk_vault.store.write() as txn:
        retention.forget(txn, retention.choose_named(txn, gone, retention.ALL_PARTS))
    collect_garbage(disk_vault)  # the exact bytes go, the forgotten stand-ins are young
    with disk_vault.store.write() as txn:
        retention.bring_back(txn, retention.choose_to_bring_back(txn, gone[:1]))
    collect_garbage(disk_vault, grace=0.0)
    for made, data in zip(run.made, before, strict=True):
        if made is not run.made[2]:
            assert given_back(disk_vault, made) == data
    assert_tidy(disk_vault)


def test_garbage_collections_among_exact_and_lossy_commits(disk_vault: Repository) -> None:
    """Lossy and exact commits of one network, some forgotten, some turned, gcs in between: all that is kept stays."""
    chance, network = random.Random(5), Network()
    kept: dict[CommitId, bytes] = {}
    for epoch in range(24):
        data = network.file()
        wish = chance.choice([None, LossyRequest(0.001), LossyRequest(0.004, Bound.REL, 0.004)])
        made = commit(disk_vault, data, f"epoch {epoch}") if wish is None else lossy_commit(disk_vault, data, wish)
        kept[made.commit_id] = given_back(disk_vault, made)
        network.train()
        if epoch % 4 == 3:
            gone = chance.sample(sorted(kept), 2)
            forget(disk_vault, gone)
            for commit_id in gone:
                del kept[commit_id]
            turned = chance.choice(sorted(kept))
            with disk_vault.store.read() as txn:
                choices = choose(txn, [turned.hex()], disk_vault.config)
            lossy_repack(disk_vault, choices, WISH)
            kept[turned] = files_of(disk_vault, turned)["model.pt"]
            collect_garbage(disk_vault, grace=0.0, compact=epoch % 8 == 7)
            assert_tidy(disk_vault)
        for commit_id, expected in kept.items():
            assert files_of(disk_vault, commit_id) == {"model.pt": expected}
    assert check(disk_vault).problems == ()


def test_a_commit_that_cannot_be_restored_stays_as_it_is(vault: Repository) -> None:
    run = History(vault, 4)
    damaged = run.made[1].commit_id
    payload = copy_value(vault, "payloads", damaged)
    own = max(record.extents[0].pack for number, record in tensor_records(vault).items() if number in _own(vault, run))
    pack = wire.sortable(own)
    frames = copy_value(vault, "packs", pack)
    with vault.store.write() as txn:
        txn.put("packs", pack, bytes([frames[0] ^ 1]) + frames[1:])
    with pytest.raises(CorruptError):
        run.turn()
    assert copy_value(vault, "payloads", damaged) == payload
    with vault.store.write() as txn:
        txn.put("packs", pack, frames)
    assert [one.commit_id for one in run.turn().turned] == [made.commit_id for made in run.made[1:3]], "the rest"


def _own(vault: Repository, run: History) -> set[int]:
    """Return the tensors of the second commit."""
    with vault.store.read() as txn:
        return set(read_recipe(txn, run.made[1].commit.files[0].file_id).tensors)


def test_wishes_that_make_no_sense(vault: Repository) -> None:
    run = History(vault, 2)
    for wish in (LossyRequest(0.0), LossyRequest(2.0), LossyRequest(0.1, vectors=-1), LossyRequest(0.1, Bound.PAPER)):
        with pytest.raises(UsageError):
            run.turn(wish=wish)


def undo(vault: Repository, *named: str) -> list[Choice]:
    with vault.store.write() as txn:
        choices = choose_to_undo(txn, named, vault.config)
        undo_lossy(txn, choices)
    return choices


def test_what_became_lossy_is_exact_again_until_a_gc(disk_vault: Repository) -> None:
    run = History(disk_vault, 6)
    run.turn()
    gone = run.made[4].commit_id
    forget(disk_vault, [gone])
    assert [choice.reason for choice in undo(disk_vault, "HEAD~5", "HEAD~3..HEAD~1")] == [""] * 3
    for place in (0, 3, 5):
        assert given_back(disk_vault, run.made[place]) == run.files[place]
    with disk_vault.store.read() as txn:
        payload = history.read_payload(txn, run.made[3].commit_id)
        assert (payload.mode, payload.lossy) == (EXACT, None)
        assert payload.added_bytes == pytest.approx(run.made[3].payload.added_bytes, rel=0.05)
        assert all(history.read_payload(txn, gone).forgotten), "forgotten it stays"
    collect_garbage(disk_vault, grace=0.0)
    assert_tidy(disk_vault)
    left = undo(disk_vault)
    assert [choice.commit_id for choice in left] == [run.made[n].commit_id for n in (1, 2)]
    assert {choice.reason for choice in left} == {"the exact bytes of model.pt are gone"}
    assert [choice.reason for choice in undo(disk_vault, "HEAD")] == ["it is not lossy"]
    for place in (0, 3, 5):
        assert given_back(disk_vault, run.made[place]) == run.files[place]
    assert check(disk_vault).problems == ()
