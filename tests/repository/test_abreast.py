"""Are commits restored side by side the same as one by one, with little decoded twice and little kept?"""

from __future__ import annotations

from pathlib import Path

import pytest

from modelvault import codec, wire
from modelvault.errors import CorruptError
from modelvault.repository import abreast, threads
from modelvault.repository.repository import Repository

from .networks import Run
from .vaults import all_commits, commit, files_of, tensor_records


def test_files_of_any_shape_come_back(vault: Repository, tmp_path: Path) -> None:
    """Two files in each commit, one of which changes its shape; more commits than are restored at a time."""
    first, second = Run({"w": 9_000, "norm": 50}), Run({"v": 6_000}, seed=3)
    for number in range(abreast._ABREAST + 5):
        first.train()
        if number == 7:
            first.weights["new"] = second.weights["v"].copy()
        files = {"a/one.pt": first.file(), "two.pt": second.file(), "notes.txt": b"epoch %d" % number}
        if number % 3 == 0:
            second.train()
        commit(vault, files)
    commits = all_commits(vault)
    done = abreast.checkout_many(vault, commits, tmp_path / "all")
    assert {one.commit_id for one in done} == set(commits)
    for one in done:
        expected = files_of(vault, one.commit_id)
        assert {entry.path: place.read_bytes() for place, entry in one.written} == expected
        assert len(one.written) == 3
    again = abreast.checkout_many(vault, commits, tmp_path / "all")
    assert all(len(one.present) == 3 and not one.written for one in again)


def test_large_files_need_no_large_cache(vault: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine snapshots of eight chunks each, and room for two chunks: all of them are decoded once all the same.

    In one thread, for another may be put aside so long that the first takes all the room.
    """
    run = Run({"w": 8 << 18})
    for data in run.epochs(9):
        commit(vault, data)
    assert max(record.depth for record in tensor_records(vault).values()) == 8
    decoded = 0
    true = codec.decode_chunk

    def counting(*arguments: object) -> bytes:
        nonlocal decoded
        decoded += 1
        return true(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(codec, "decode_chunk", counting)
    monkeypatch.setattr(abreast, "_CACHE_CHUNKS", 2)
    for module in (abreast, threads):
        monkeypatch.setattr(module, "thread_count", lambda: 1)
    abreast.checkout_many(vault, all_commits(vault), tmp_path / "all")
    assert decoded == 9 * 8


def test_damage_in_one_leaves_nothing_behind(vault: Repository, tmp_path: Path) -> None:
    for number in range(3):
        commit(vault, Run({"w": 60_000}, seed=number).file())
    records = tensor_records(vault)
    key = wire.sortable(records[max(records)].extents[0].pack)
    with vault.store.write() as txn:
        value = txn.get("packs", key)
        assert value is not None
        txn.put("packs", key, value[:-3] + bytes(byte ^ 1 for byte in value[-3:]))
    with pytest.raises(CorruptError, match="it hurts"):
        abreast.checkout_many(vault, all_commits(vault), tmp_path / "all")
    assert list(tmp_path.glob("all*")) == list(tmp_path.glob(".all*")) == []
