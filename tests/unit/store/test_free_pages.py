"""Is a page given back exactly when nothing leads to it, and is nothing else touched?"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import lmdb
import pytest

from modelvault.errors import CorruptError
from modelvault.store import free_pages
from modelvault.store.free_pages import Run, free_runs, punch, takes_holes
from modelvault.store.meta_page import read_meta_page

PAGE = 4096


def churn(directory: Path, seed: int, transactions: int = 60) -> tuple[Path, dict[bytes, bytes]]:
    """Write and delete entries of all lengths; return the data file, and what is in it."""
    random_ = random.Random(seed)
    expected: dict[bytes, bytes] = {}
    environment = lmdb.open(os.fspath(directory), map_size=1 << 30)
    for _ in range(transactions):
        with environment.begin(write=True) as transaction:
            for _ in range(random_.randrange(1, 30)):
                key = b"key %d" % random_.randrange(400)
                if expected and random_.random() < 0.45:
                    key = random_.choice(list(expected))
                    transaction.delete(key)
                    del expected[key]
                elif key not in expected:  # a shorter value would leave overflow pages behind, which the checker minds
                    expected[key] = random_.randbytes(random_.choice((0, 20, 900, 2100, 5000, 70_000)))
                    transaction.put(key, expected[key])
    environment.close()
    return directory / "data.mdb", expected


def contents(directory: Path) -> dict[bytes, bytes]:
    with lmdb.open(os.fspath(directory), map_size=1 << 30) as environment, environment.begin() as transaction:
        return dict(transaction.cursor().iternext())


def pages(runs: list[Run]) -> set[int]:
    return {page for run in runs for page in range(run.first, run.end)}


def verified(path: Path) -> Any:
    """Return what LMDB's own checker finds free and in use."""
    verify = pytest.importorskip("lmdb.verify")
    with path.open("rb") as file:
        checker = verify._Verifier(file, path.stat().st_size)
        assert checker.verify() == []
    return checker


@pytest.mark.parametrize("seed", range(12))
def test_what_is_free_is_what_the_checker_of_lmdb_finds_free(tmp_path: Path, seed: int) -> None:
    path, _ = churn(tmp_path, seed)
    found = pages(free_runs(path))
    checker = verified(path)
    free = {page for page in range(len(checker.free)) if checker.free[page]}
    lately = set()
    for transaction, value in checker.free_records:
        if transaction >= checker.meta.txnid:
            lately |= {int.from_bytes(value[at : at + 8], "little") for at in range(8, len(value), 8)}
    assert found == free - lately
    assert found


@pytest.mark.parametrize("seed", range(4))
def test_a_punched_file_holds_what_it_held_and_takes_more(tmp_path: Path, seed: int) -> None:
    path, expected = churn(tmp_path, seed)
    if not takes_holes(path):
        pytest.skip("this file system takes no holes")
    length, blocks = path.stat().st_size, path.stat().st_blocks * 512
    runs = free_runs(path)
    assert punch(path, runs, PAGE)
    assert path.stat().st_size == length
    assert path.stat().st_blocks * 512 <= blocks - PAGE * sum(run.length for run in runs) + 4 * PAGE
    assert contents(tmp_path) == expected
    verified(path)
    again, more = churn(tmp_path, seed + 100)
    kept = {key: value for key, value in contents(tmp_path).items() if key in more}
    assert kept == more
    verified(again)


def test_the_state_that_lmdb_falls_back_to_is_whole(tmp_path: Path) -> None:
    """With the newest meta page torn, LMDB takes the one before: what that leads to must be there."""
    path, expected = churn(tmp_path, 5)
    with lmdb.open(os.fspath(tmp_path), map_size=1 << 30) as environment, environment.begin(write=True) as transaction:
        for key in list(expected)[::2]:
            transaction.delete(key)
    punch(path, free_runs(path), PAGE)
    newest = read_meta_page(path).transaction
    with path.open("r+b") as file:  # the number of the newest transaction, made older than the other
        file.seek((newest % 2) * PAGE + 16 + 24 + 96 + 8)
        file.write((newest - 2).to_bytes(8, "little"))
    assert contents(tmp_path) == expected


def test_a_page_that_is_free_and_in_use_stops_it(tmp_path: Path) -> None:
    path, _ = churn(tmp_path, 3)
    data = bytearray(path.read_bytes())
    root = read_meta_page(path).main_root
    leaf = next(page for page in pages(free_runs(path)))
    listed, hits = leaf.to_bytes(8, "little"), 0
    at = data.find(listed)
    while at >= 0:  # wherever the list names this page, name the root of the entries
        if at % PAGE:  # not the page itself
            data[at : at + 8] = root.to_bytes(8, "little")
            hits += 1
        at = data.find(listed, at + 8)
    assert hits
    path.write_bytes(data)
    with pytest.raises(CorruptError):
        free_runs(path)


def test_damage_to_one_tree_never_frees_a_page_that_is_used(tmp_path: Path) -> None:
    path, _ = churn(tmp_path, 8, transactions=25)
    data = path.read_bytes()
    meta = read_meta_page(path)
    used = set(range(2, meta.last_page + 1)) - pages(free_runs(path))
    random_ = random.Random(1)
    stopped = 0
    for _ in range(400):
        root = random_.choice((meta.free_root, meta.main_root))
        changed = bytearray(data)
        changed[root * PAGE + random_.randrange(120)] ^= 1 << random_.randrange(8)
        path.write_bytes(changed)
        try:
            found = pages(free_runs(path))
        except CorruptError:
            stopped += 1
        else:
            assert not found & used
    assert stopped > 40


def test_a_file_system_without_holes_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, expected = churn(tmp_path, 2, transactions=20)
    monkeypatch.setattr(free_pages, "_fallocate", lambda: lambda *_: 95)
    assert not takes_holes(path)
    assert not punch(path, free_runs(path), PAGE)
    assert contents(tmp_path) == expected


def test_asking_changes_nothing(tmp_path: Path) -> None:
    path, _ = churn(tmp_path, 2, transactions=20)
    before = path.read_bytes(), path.stat().st_blocks
    takes_holes(path)
    assert (path.read_bytes(), path.stat().st_blocks) == before


def test_what_the_state_before_needs_is_not_given_back_whatever_the_list_says(tmp_path: Path) -> None:
    path, expected = churn(tmp_path, 6)
    with lmdb.open(os.fspath(tmp_path), map_size=1 << 30) as environment, environment.begin(write=True) as transaction:
        for key in list(expected)[::2]:
            transaction.delete(key)
    meta = read_meta_page(path)
    data = bytearray(path.read_bytes())
    at = data.find(meta.transaction.to_bytes(8, "little"), meta.free_root * PAGE + 16)
    assert at < (meta.free_root + 1) * PAGE
    data[at : at + 8] = (1).to_bytes(8, "little")  # as if its pages had been free for long
    path.write_bytes(data)
    with pytest.raises(CorruptError, match="in use"):
        free_runs(path)
