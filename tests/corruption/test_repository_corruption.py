"""Is damage to any stored object found, named with all that it hurts, and never handed out as bytes?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from modelvault import codec, ids, wire
from modelvault.cli import main
from modelvault.errors import CorruptError, ModelVaultError
from modelvault.ids import CommitId
from modelvault.objects import template as template_kind
from modelvault.repository.checkout import checkout, read_recipe, stream
from modelvault.repository.fsck import check
from modelvault.repository.history import read_commit
from modelvault.repository.repository import Repository
from modelvault.repository.revisions import Resolved
from modelvault.repository.shapes import load_template
from modelvault.store.base import Table
from tests.repository.networks import Run
from tests.repository.vaults import commit, copy_value, files_of, fsck, new_vault, tensor_records

EPOCHS = 4


class History(NamedTuple):
    """A vault, its commits oldest first, and the bytes of each."""

    repository: Repository
    commits: list[CommitId]
    files: list[dict[str, bytes]]


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    """Epochs of one run, and at last a commit that has nothing in common with them; in memory, which is quick."""
    monkeypatch.setenv("MODELVAULT_AUTHOR", "Ada")
    repository = new_vault(tmp_path / "run", "memory")
    return History(repository, *filled(repository))


def filled(repository: Repository) -> tuple[list[CommitId], list[dict[str, bytes]]]:
    run = Run({"w": 70_000, "v": 20_000, "b": 100})
    files = [{"model.pt": data} for data in run.epochs(EPOCHS)]
    files.append({"notes.txt": b"nothing in common"})
    commits = [commit(repository, named, f"number {n}").commit_id for n, named in enumerate(files)]
    return commits, files


def flipped(value: bytes, at: int) -> bytes:
    damaged = bytearray(value)
    damaged[at] ^= 0x04
    return bytes(damaged)


def places(value: bytes, turn: int = 0) -> Iterator[int]:
    """Where to flip: two places of each value, others at each turn, and in time all over it."""
    yield from {turn % len(value), len(value) - 1 - turn * 37 % len(value)}


def damage(repository: Repository, table: Table, key: bytes, value: bytes | None) -> None:
    with repository.store.write() as txn:
        if value is None:
            assert txn.delete(table, key)
        else:
            txn.put(table, key, value)


def hurt_when_read(history: History, target: Path) -> set[CommitId]:
    """Check every commit out; return those that fail. None may give wrong bytes, or leave anything behind."""
    hurt: set[CommitId] = set()
    for commit_id, files in zip(history.commits, history.files, strict=True):
        place = target / commit_id.hex()[:8]
        place.mkdir(parents=True)
        try:
            checkout(history.repository, Resolved(commit_id), output=place)
        except CorruptError:
            hurt.add(commit_id)
            assert list(place.iterdir()) == []
        else:
            assert {path.name: path.read_bytes() for path in place.iterdir()} == files
    return hurt


def entries(history: History, table: Table) -> list[tuple[bytes, bytes]]:
    with history.repository.store.read() as txn:
        return list(txn.scan(table))


def named_by_fsck(history: History) -> tuple[set[CommitId], str]:
    problems = check(history.repository).problems
    assert problems
    return {commit_id for problem in problems for commit_id in problem.commits}, " ".join(p.what for p in problems)


def test_without_damage_all_is_well(history: History, tmp_path: Path) -> None:
    found = fsck(history.repository)
    assert (found.commits, found.files) == (EPOCHS + 1, EPOCHS + 1)
    assert found.tensors == 3 * EPOCHS
    assert hurt_when_read(history, tmp_path / "out") == set()


def test_a_flipped_byte_of_a_pack_hurts_all_that_leans_on_it(history: History, tmp_path: Path) -> None:
    owners = packs_to_tensors(history.repository)
    for number, (key, value) in enumerate(entries(history, "packs")):
        for at in places(value, number):
            damage(history.repository, "packs", key, flipped(value, at))
            named, what = named_by_fsck(history)
            read = hurt_when_read(history, tmp_path / f"{number}-{at}")
            assert read
            assert read == named
            assert history.commits[-1] not in named
            assert any(f"tensor {owner}" in what for owner in owners[wire.read_sortable(key)])
            damage(history.repository, "packs", key, value)
    fsck(history.repository)


def packs_to_tensors(repository: Repository) -> dict[int, list[int]]:
    owners: dict[int, list[int]] = {}
    for number, record in tensor_records(repository).items():
        for extent in record.extents:
            owners.setdefault(extent.pack, []).append(number)
    return owners


def test_the_first_keyframe_hurts_every_epoch(history: History) -> None:
    key, value = entries(history, "packs")[0]
    damage(history.repository, "packs", key, flipped(value, len(value) // 2))
    named, _ = named_by_fsck(history)
    assert named == set(history.commits[:EPOCHS])


def test_the_last_delta_hurts_its_own_epoch_only(history: History) -> None:
    key, value = entries(history, "packs")[-1]
    damage(history.repository, "packs", key, flipped(value, len(value) // 2))
    named, _ = named_by_fsck(history)
    assert named == {history.commits[EPOCHS - 1]}


@pytest.mark.parametrize("table", ["recipes", "tensors", "templates", "commits", "payloads"])
@pytest.mark.parametrize("missing", [False, True], ids=["flipped", "missing"])
def test_a_damaged_record_is_found_and_gives_no_wrong_bytes(
    history: History, table: Table, missing: bool, tmp_path: Path
) -> None:
    for number, (key, value) in enumerate(entries(history, table)):
        for at in [0] if missing else places(value, number):
            damage(history.repository, table, key, None if missing else flipped(value, at))
            read = hurt_when_read(history, tmp_path / f"{number}-{at}")
            named, _ = named_by_fsck(history)
            if table in ("recipes", "tensors", "templates"):
                assert read
                assert read <= named
            damage(history.repository, table, key, value)
    fsck(history.repository)


def test_a_damaged_index_is_found_and_hurts_no_bytes(history: History, tmp_path: Path) -> None:
    """The index only finds duplicates: it can be made again."""
    key, value = entries(history, "index")[0]
    damage(history.repository, "index", key, None)
    _, what = named_by_fsck(history)
    assert "tensor" in what
    assert hurt_when_read(history, tmp_path / "out") == set()
    damage(history.repository, "index", key, value)


def test_what_can_be_thrown_away_is_missed_by_nobody(history: History, tmp_path: Path) -> None:
    for key, _ in entries(history, "latest"):
        damage(history.repository, "latest", key, None)
    assert hurt_when_read(history, tmp_path / "out") == set()
    fsck(history.repository)
    data = Run({"w": 70_000, "v": 20_000, "b": 100}).file()
    assert files_of(history.repository, commit(history.repository, data).commit_id) == {"model.pt": data}


@pytest.mark.parametrize("table", ["refs", "reflog"])
def test_damaged_names_are_errors_and_not_other_commits(history: History, table: Table) -> None:
    for key, value in entries(history, table):
        for at in places(value):
            damage(history.repository, table, key, flipped(value, at))
            _, what = named_by_fsck(history)
            assert "ref" in what
            damage(history.repository, table, key, value)


def test_a_whole_frame_in_anothers_place_is_found(history: History, tmp_path: Path) -> None:
    """Every checksum is right; only the ids tell."""
    records = tensor_records(history.repository)
    first, second = [number for number, record in records.items() if record.nbytes == 280_000][:2]
    swapped = records[second]._replace(extents=records[first].extents, base=0, depth=0, deltas=0)
    swapped = swapped._replace(parameters=records[first].parameters)
    damage(history.repository, "tensors", wire.sortable(second), swapped.to_bytes())
    named, what = named_by_fsck(history)
    assert f"tensor {second}" in what
    assert history.commits[1] in named
    assert history.commits[0] not in named
    assert hurt_when_read(history, tmp_path / "out") == named


def test_a_recipe_of_another_file_is_found(history: History, tmp_path: Path) -> None:
    with history.repository.store.read() as txn:
        keys = [read_commit(txn, commit_id).files[0].file_id for commit_id in history.commits[:2]]
    damage(history.repository, "recipes", keys[1], copy_value(history.repository, "recipes", keys[0]))
    read = hurt_when_read(history, tmp_path / "out")
    assert read == {history.commits[1]}


def test_fsck_finds_a_recipe_of_another_file(history: History) -> None:
    with history.repository.store.read() as txn:
        keys = [read_commit(txn, commit_id).files[0].file_id for commit_id in history.commits[:2]]
    damage(history.repository, "recipes", keys[1], copy_value(history.repository, "recipes", keys[0]))
    assert check(history.repository).problems


def test_a_chain_that_bites_its_tail_ends_in_an_error(history: History) -> None:
    records = tensor_records(history.repository)
    number = min(number for number, record in records.items() if record.base)
    base = records[number].base
    looped = records[number]._replace(base=number)
    damage(history.repository, "tensors", wire.sortable(number), looped.to_bytes())
    with pytest.raises(CorruptError):
        files_of(history.repository, history.commits[EPOCHS - 1])
    named, what = named_by_fsck(history)
    assert f"tensor {number}" in what
    assert history.commits[EPOCHS - 1] in named
    assert base != number


def test_a_stream_sends_nothing_of_a_damaged_file(history: History) -> None:
    key, value = entries(history, "packs")[-1]
    damage(history.repository, "packs", key, flipped(value, len(value) - 1))
    with pytest.raises(CorruptError, match=history.commits[EPOCHS - 1].hex()[:8]):
        stream(history.repository, history.commits[EPOCHS - 1], ())


def test_a_hostile_path_in_a_commit_is_never_written(history: History, tmp_path: Path) -> None:
    """A vault may come from a stranger: its ids are right, its paths climb."""
    with history.repository.store.read() as txn:
        honest = read_commit(txn, history.commits[-1])
    for path in ("../escaped", "/escaped", "sub/../../escaped", ".git/config", "a\nb"):
        forged = honest._replace(files=(honest.files[0]._replace(path=path),))
        data = forged.to_bytes()
        commit_id = ids.commit_id(data)
        damage(history.repository, "commits", commit_id, data)
        payload = copy_value(history.repository, "payloads", history.commits[-1])
        damage(history.repository, "payloads", commit_id, payload)
        with pytest.raises(ModelVaultError, match="cannot be kept"):
            checkout(history.repository, Resolved(commit_id), output=tmp_path)
        _, what = named_by_fsck(history)
        assert commit_id.hex()[:16] in what
        damage(history.repository, "commits", commit_id, None)
        damage(history.repository, "payloads", commit_id, None)
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path.parent / "escaped").exists()


@pytest.fixture
def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    """The same on disk, with the working directory in it."""
    monkeypatch.setenv("MODELVAULT_AUTHOR", "Ada")
    repository = new_vault(tmp_path / "run")
    monkeypatch.chdir(repository.root)
    return History(repository, *filled(repository))


def test_a_byte_flipped_in_the_database_file_is_reported_with_exit_14(
    on_disk: History, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Not through the store, but where a disk would do it: in the middle of a pack that is needed."""
    database = (on_disk.repository.directory / "current").resolve() / "data.mdb"
    _, pack = entries(on_disk, "packs")[0]
    data = bytearray(database.read_bytes())
    at = data.index(pack[100:400])
    data[at] ^= 0x20
    database.write_bytes(data)
    assert main(["fsck"]) == 14
    out, err = capfd.readouterr()
    assert "tensor 1" in out
    for commit_id in on_disk.commits[:EPOCHS]:
        assert commit_id.hex()[:8] in out
    assert on_disk.commits[-1].hex()[:8] not in out
    assert err.startswith("modelvault: ")
    assert err.count("\n") == 1
    target = tmp_path / "restored.pt"
    assert main(["checkout", on_disk.commits[2].hex(), "-o", str(target)]) == 14
    out, err = capfd.readouterr()
    assert not target.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert on_disk.commits[2].hex()[:8] in err
    assert main(["checkout", on_disk.commits[-1].hex(), "-o", str(target)]) == 0
    assert target.read_bytes() == b"nothing in common"


def test_a_vault_without_damage_is_clean_on_the_command_line(
    on_disk: History, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["fsck"]) == 0
    out, err = capfd.readouterr()
    assert out.endswith("all good\n")
    assert err == ""


def test_damage_to_any_page_of_the_database_gives_right_bytes_or_an_error(on_disk: History, tmp_path: Path) -> None:
    """In a process of its own, because a torn tree may lead LMDB anywhere: whatever happens, no wrong bytes."""
    project = Path(__file__).parents[2]
    database = (on_disk.repository.directory / "current").resolve() / "data.mdb"
    whole = database.read_bytes()
    expected = on_disk.files[2]["model.pt"]
    pages = range(0, len(whole), max(4096, len(whole) // 12 // 4096 * 4096))
    for page in pages:
        damaged = bytearray(whole)
        for at in range(page + 16, page + 4096, 512):
            damaged[at] ^= 0xFF
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(on_disk.repository.root, tmp_path / "copy", symlinks=True)
        (tmp_path / "copy" / ".modelvault" / "gen-1" / "data.mdb").write_bytes(damaged)
        target = tmp_path / "restored.pt"
        done = subprocess.run(
            [sys.executable, "-m", "modelvault", "checkout", on_disk.commits[2].hex(), "-o", str(target)],
            cwd=tmp_path / "copy",
            env={**os.environ, "PYTHONPATH": str(project)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode == 0:
            assert target.read_bytes() == expected
            target.unlink()
        else:
            assert not target.exists()
            assert "Traceback" not in done.stderr


def test_a_file_whose_parts_are_all_sound_but_is_another_is_never_handed_out(history: History, tmp_path: Path) -> None:
    """A skeleton changed under a good seal: only the file's own SHA-256 is left to notice."""
    with history.repository.store.read() as txn:
        (notes,) = read_commit(txn, history.commits[-1]).files
        recipe = read_recipe(txn, notes.file_id)
        template = load_template(txn, recipe)
    assert template.skeleton == b"nothing in common"
    forged = template._replace(skeleton=b"nothing in c0mmon").to_bytes()
    sealed = wire.seal(template_kind.KIND, template_kind.VERSION, codec.pack(forged))
    damage(history.repository, "templates", wire.sortable(recipe.template), sealed)
    damage(history.repository, "recipes", notes.file_id, recipe._replace(patch=b"").to_bytes(notes.file_id))
    assert hurt_when_read(history, tmp_path / "out") >= {history.commits[-1]}
