"""Does a bundle bring exactly what it should, to who has what it builds on, and nothing to anybody else?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelvault.errors import CorruptError, ForgottenError, InputError, UsageError, WouldLoseDataError
from modelvault.ids import CommitId
from modelvault.objects.payload import LOSSY
from modelvault.objects.ref import Head, Move
from modelvault.repository import encode, history, refs
from modelvault.repository.bundle import Bundled, make_bundle
from modelvault.repository.commit import Committed
from modelvault.repository.fsck import check
from modelvault.repository.gc import collect_garbage
from modelvault.repository.lossy import LossyRequest
from modelvault.repository.repack import Bounds, repack
from modelvault.repository.repository import Repository
from modelvault.repository.unbundle import Unbundled, build, open_bundle, unbundle

from .garbage import assert_tidy, entries, forget
from .networks import Run, noise
from .test_lossy import Network, given_back, lossy_commit
from .vaults import commit, files_of, new_vault

SIZES = {f"layer{n}.weight": 20_000 for n in range(3)} | {"big": 300_000} | {f"norm{n}": 40 for n in range(20)}


class Line:
    """A vault with a few epochs of a network and a file that never changes, and a place for bundles."""

    def __init__(self, vault: Repository, count: int = 5) -> None:
        self.vault, self.made = vault, list[Committed]()
        self.files: list[dict[str, bytes]] = []
        run = Run(SIZES)
        for epoch, data in enumerate(run.epochs(count)):
            self.files.append({"model.pt": data, "config.json": b'{"a": 1}'})
            self.made.append(commit(vault, self.files[-1], f"epoch {epoch}"))

    def bundle(self, text: str, name: str = "update.mvb", *, only_tip: bool = False) -> Bundled:
        return make_bundle(self.vault, text, self.path(name), only_tip=only_tip, force=True)

    def path(self, name: str = "update.mvb") -> Path:
        return self.vault.root / name

    def give(self, to: Repository, text: str, *, branch: str | None = None, only_tip: bool = False) -> Unbundled:
        self.bundle(text, only_tip=only_tip)
        return unbundle(to, self.path(), branch=branch)


@pytest.fixture
def line(vault: Repository) -> Line:
    return Line(vault)


@pytest.fixture
def other(tmp_path: Path) -> Repository:
    return new_vault(tmp_path / "other")


def assert_has(vault: Repository, line: Line, places: range) -> None:
    for place in places:
        assert files_of(vault, line.made[place].commit_id) == line.files[place]
    assert check(vault).problems == ()


def tip(vault: Repository, ref: str = "heads/main") -> CommitId | None:
    with vault.store.read() as txn:
        return refs.read_ref(txn, ref)


def test_a_whole_history_goes_into_an_empty_vault(line: Line, other: Repository) -> None:
    done = line.give(other, "main")
    assert done.commits == tuple(made.commit_id for made in line.made)
    assert done.moved == (("heads/main", None, line.made[-1].commit_id),)
    assert_has(other, line, range(5))
    collect_garbage(other, grace=0.0)
    assert_tidy(other)
    with other.store.read() as txn, line.vault.store.read() as mine:
        for made in line.made:
            assert history.read_commit(txn, made.commit_id) == history.read_commit(mine, made.commit_id)
            ours, theirs = history.read_payload(mine, made.commit_id), history.read_payload(txn, made.commit_id)
            assert (theirs.mode, theirs.lossy) == (ours.mode, ours.lossy)
            assert theirs.added_bytes < 1.1 * ours.added_bytes


def test_a_delta_is_small_and_needs_what_came_before(line: Line, other: Repository) -> None:
    line.give(other, "main~2", branch="main")
    whole = line.bundle("main", "whole.mvb")
    delta = line.bundle("main~2..main")
    assert delta.base == line.made[2].commit_id
    assert delta.nbytes < 0.5 * whole.nbytes
    assert delta.raw_bytes == sum(len(files["model.pt"]) for files in line.files[3:]), "config.json is there already"
    done = unbundle(other, line.path())
    assert done.commits == tuple(made.commit_id for made in line.made[3:])
    assert done.moved == (("heads/main", line.made[2].commit_id, line.made[4].commit_id),)
    assert_has(other, line, range(5))
    again = unbundle(other, line.path())
    assert (again.commits, again.moved, again.added_bytes) == ((), (), 0)


def test_the_tip_alone(line: Line, other: Repository) -> None:
    line.give(other, "main~4", branch="main")
    all_of_it = line.bundle("main~4..main")
    alone = line.bundle("main~4..main", only_tip=True)
    assert alone.nbytes < 0.5 * all_of_it.nbytes
    assert len(alone.commits) == 4
    unbundle(other, line.path())
    assert_has(other, line, range(4, 5))
    with other.store.read() as txn:
        forgotten = [all(history.read_payload(txn, made.commit_id).forgotten) for made in line.made]
    assert forgotten == [False, True, True, True, False]
    collect_garbage(other, grace=0.0)
    assert_tidy(other)
    assert_has(other, line, range(4, 5))


def test_a_device_with_the_old_file_and_no_vault(line: Line, tmp_path: Path) -> None:
    line.bundle("main~2..main")
    old, new = tmp_path / "old", tmp_path / "new"
    for path, data in line.files[2].items():
        old.joinpath(path).parent.mkdir(parents=True, exist_ok=True)
        old.joinpath(path).write_bytes(data)
    done = build(line.path(), old, new)
    assert done.commit_id == line.made[-1].commit_id
    assert {path: (new / path).read_bytes() for path in line.files[-1]} == line.files[-1]
    with pytest.raises(WouldLoseDataError):
        build(line.path(), old, new)
    build(line.path(), old, old, force=True)  # in place
    assert {path: (old / path).read_bytes() for path in line.files[-1]} == line.files[-1]
    with pytest.raises(InputError, match="builds on"):
        build(line.path(), old, tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_a_device_with_one_old_file(tmp_path: Path) -> None:
    vault = new_vault(tmp_path / "run")
    network = Network()
    old, device = network.file(), tmp_path / "device"
    device.mkdir()
    commit(vault, old)
    network.train()
    new = commit(vault, network.file())
    made = make_bundle(vault, "HEAD~1..HEAD", tmp_path / "update.mvb")
    assert made.nbytes < 0.8 * made.raw_bytes
    (device / "weights.pt").write_bytes(old)
    build(tmp_path / "update.mvb", device / "weights.pt", device / "weights.pt", force=True)
    assert (device / "weights.pt").read_bytes() == files_of(vault, new.commit_id)["model.pt"]


def test_lossy_commits_come_as_they_are_kept(tmp_path: Path, other: Repository) -> None:
    vault, network = new_vault(tmp_path / "run"), Network()
    made = []
    for epoch in range(4):
        made.append(lossy_commit(vault, network.file(), LossyRequest(0.001, vectors=0.001), f"epoch {epoch}"))
        network.train()
    bundled = make_bundle(vault, "HEAD~1..HEAD", tmp_path / "update.mvb")
    assert bundled.mode == "lossy abs 0.001"
    exact = new_vault(tmp_path / "exact")
    make_bundle(vault, "HEAD~1", tmp_path / "first.mvb")
    unbundle(other, tmp_path / "first.mvb", branch="main")
    unbundle(other, tmp_path / "update.mvb")
    for done in made:
        assert given_back(other, done) == given_back(vault, done)
        with other.store.read() as txn, vault.store.read() as mine:
            payload = history.read_payload(txn, done.commit_id)
            assert (payload.mode, payload.lossy) == (LOSSY, history.read_payload(mine, done.commit_id).lossy)
    assert check(other).problems == ()
    device = tmp_path / "device.pt"
    device.write_bytes(given_back(vault, made[2]))
    assert build(tmp_path / "update.mvb", device, tmp_path / "new.pt").mode == "lossy abs 0.001"
    assert (tmp_path / "new.pt").read_bytes() == given_back(vault, made[3])
    del exact


def test_a_bundle_is_the_same_whenever_it_is_made(tmp_path: Path) -> None:
    line = Line(new_vault(tmp_path / "run"))
    line.bundle("main~3..main", "one.mvb")
    line.bundle("main~3..main", "two.mvb")
    assert line.path("one.mvb").read_bytes() == line.path("two.mvb").read_bytes()
    repack(line.vault, Bounds(max_depth=1))
    collect_garbage(line.vault, grace=0.0, compact=True)
    line.bundle("main~3..main", "three.mvb")
    assert line.path("one.mvb").read_bytes() == line.path("three.mvb").read_bytes()


def test_long_histories_end_their_chains(tmp_path: Path, other: Repository) -> None:
    line = Line(new_vault(tmp_path / "run"), 40)
    line.give(other, "main")
    assert_has(other, line, range(40))
    with open_bundle(line.path()) as opened:
        bundle = opened.bundle
    depths = [0] * (len(bundle.tensors) + 1)
    assert not bundle.base_tensors
    for number, tensor in enumerate(bundle.tensors, start=1):
        depths[number] = depths[tensor.base] + 1 if tensor.base else 0
    assert max(depths) == 16


def test_branches_move_forward_only(line: Line, other: Repository) -> None:
    line.give(other, "main~2", branch="main")
    mine = commit(other, b"something else", "my own")
    before = entries(other)
    with pytest.raises(InputError, match="branch main has commits"):
        line.give(other, "main~2..main")
    assert entries(other) == before
    done = line.give(other, "main~2..main", branch="theirs")
    assert done.moved == (("heads/theirs", None, line.made[-1].commit_id),)
    assert tip(other) == mine.commit_id
    assert_has(other, line, range(5))
    assert line.give(other, "main~3..main~1", branch="theirs").moved == (), "it is ahead already"


def test_a_bundle_without_a_branch_wants_a_name(line: Line, other: Repository) -> None:
    with pytest.raises(UsageError, match="names no branch"):
        line.give(other, "main~1")
    with pytest.raises(UsageError):
        line.give(other, "main~1", branch="no such name..")
    with other.store.read() as txn:
        assert txn.count("commits") == 0


def test_tags_come_along_and_stay_where_they_are(line: Line, other: Repository) -> None:
    with line.vault.store.write() as txn:
        for name, place in (("best", 3), ("first", 0), ("mine", 4)):
            refs.move(txn, "tag", [Move(refs.TAGS + name, line.made[place].commit_id)])
    line.give(other, "main~2", branch="main")
    assert tip(other, "tags/first") == line.made[0].commit_id
    with other.store.write() as txn:
        refs.move(txn, "tag", [Move("tags/mine", line.made[0].commit_id)])
    done = line.give(other, "main~2..main")
    assert done.left == ("tags/mine",)
    assert tip(other, "tags/best") == line.made[3].commit_id
    assert tip(other, "tags/mine") == line.made[0].commit_id


def test_merged_lines_and_other_paths(tmp_path: Path, other: Repository) -> None:
    """Commits with other files than their parents', and a line that was left behind and comes later."""
    vault = new_vault(tmp_path / "run")
    run = Run({"w": 30_000, "v": 17_000})
    first = commit(vault, {"a.pt": run.file()}, "one")
    run.train()
    second = commit(vault, {"b.pt": run.file(), "noise": noise(50_000)}, "two")
    with vault.store.write() as txn:
        refs.move(txn, "branch", [Move("heads/side", first.commit_id)], head=Head("side"))
    third = commit(vault, {"empty": b"", "deep/er/a.pt": run.file()}, "three")
    for text, branch in (("main", None), ("main..side", None)):
        make_bundle(vault, text, tmp_path / f"{text}.mvb")
        unbundle(other, tmp_path / f"{text}.mvb", branch=branch)
    for made in (first, second, third):
        assert files_of(other, made.commit_id) == files_of(vault, made.commit_id)
    assert (tip(other), tip(other, "heads/side")) == (second.commit_id, third.commit_id)
    assert check(other).problems == ()


def test_a_vault_that_lacks_the_base_gets_nothing(line: Line, other: Repository) -> None:
    line.bundle("main~2..main")
    before = entries(other)
    with pytest.raises(InputError, match="not in this vault"):
        unbundle(other, line.path())
    assert entries(other) == before
    line.give(other, "main~2", branch="main")
    forget(other, [line.made[2].commit_id])
    collect_garbage(other, grace=0.0)
    line.bundle("main~2..main")
    before = entries(other)
    with pytest.raises(InputError, match=r"builds on 'model\.pt'"):
        unbundle(other, line.path())
    assert entries(other) == before


def test_a_race_that_is_lost_while_encoding_is_told(
    line: Line, other: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: object) -> int:
        raise encode.RaceLostError("tensor 1 is gone")

    line.bundle("main")
    monkeypatch.setattr(encode, "_depth_on", lose)
    with pytest.raises(CorruptError, match="changed meanwhile: tensor 1 is gone"):
        unbundle(other, line.path())
    assert tip(other) is None


def test_what_was_forgotten_comes_without_its_bytes(line: Line, other: Repository) -> None:
    forget(line.vault, [line.made[1].commit_id])
    line.give(other, "main")
    assert_has(other, line, range(2, 5))
    with other.store.read() as txn:
        assert all(history.read_payload(txn, line.made[1].commit_id).forgotten)
    forget(line.vault, [line.made[3].commit_id])
    with pytest.raises(ForgottenError):
        line.bundle("main~1")
    line.bundle("main~1..main")
    with open_bundle(line.path()) as opened:
        assert not opened.bundle.base_files, "nobody can be asked to have what was forgotten here"


def test_nothing_to_send_and_nowhere_to_write(line: Line) -> None:
    for text in ("main..main", "main..main~2"):
        with pytest.raises(UsageError, match="nothing in"):
            line.bundle(text)
    line.bundle("main")
    with pytest.raises(WouldLoseDataError):
        make_bundle(line.vault, "main~1", line.path())
    for place in (line.vault.root, line.vault.root / "no" / "such" / "place"):
        with pytest.raises(InputError):
            make_bundle(line.vault, "main", place, force=True)


def test_a_file_that_is_no_bundle(line: Line, other: Repository) -> None:
    line.path().write_bytes(line.files[0]["model.pt"])
    with pytest.raises(InputError, match="is no bundle"):
        unbundle(other, line.path())
    with pytest.raises(InputError):
        unbundle(other, line.path("not there"))


def test_numbers_of_every_kind_of_file(other: Repository, tmp_path: Path) -> None:
    vault = new_vault(tmp_path / "run")
    chance = np.random.default_rng(1)
    made = []
    for size in (0, 1, 100_000, 3_000_000):
        made.append(commit(vault, {f"{size}.bin": chance.bytes(size)}, f"{size} bytes"))
    make_bundle(vault, "main", tmp_path / "all.mvb")
    unbundle(other, tmp_path / "all.mvb")
    for one in made:
        assert files_of(other, one.commit_id) == files_of(vault, one.commit_id)
