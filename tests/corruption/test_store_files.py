"""Does a damaged vault give an error of ours, never a dead process and never wrong data?"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modelvault.errors import CorruptError, ModelVaultError, NewerFormatError, NoVaultError
from modelvault.store import lmdb_store
from modelvault.store.base import FORMAT_KEY, FORMAT_VERSION
from modelvault.store.environment import structure_problems
from modelvault.store.lmdb_store import LmdbStore
from modelvault.store.meta_page import read_meta_page
from tests.corruption.store_probe import probe

PAGE = 4096
PACKS = {b"%03d" % number: bytes([number]) * (number * 700 + 1) for number in range(1, 60)}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vault = tmp_path_factory.mktemp("sound") / ".modelvault"
    store = LmdbStore.create(vault)
    for start in (0, 20, 40):
        with store.write() as transaction:
            for key, value in list(PACKS.items())[start : start + 20]:
                transaction.put("packs", key, value)
    with store.write() as transaction:
        transaction.put("stats", b"last", b"1")
    return vault


def copy_of(vault: Path, place: Path) -> Path:
    copy = place / ".modelvault"
    shutil.copytree(vault, copy, symlinks=True)
    return copy


def data_file(vault: Path) -> Path:
    return vault / "current" / "data.mdb"


def content_printed() -> str:
    return str(sorted((key, len(value)) for key, value in PACKS.items()))


def test_a_sound_vault_is_read(sound: Path, tmp_path: Path) -> None:
    assert probe([copy_of(sound, tmp_path)]) == [(0, "", content_printed())]


def test_a_truncated_file_is_refused(sound: Path, tmp_path: Path) -> None:
    whole = data_file(sound).stat().st_size
    chance = random.Random(1)
    lengths = {0, 1, 8, 16, 100, 167, 168, PAGE - 1, PAGE, PAGE + 1, PAGE + 168, 2 * PAGE - 1, 2 * PAGE, 3 * PAGE}
    lengths |= {whole - 1, whole - PAGE, whole - 2 * PAGE} | {chance.randrange(whole) for _ in range(12)}
    lengths |= {chance.randrange(whole // PAGE) * PAGE for _ in range(12)}
    vaults = []
    for length in sorted(lengths):
        vaults.append(copy_of(sound, tmp_path / str(length)))
        os.truncate(data_file(vaults[-1]), length)
    harmless: list[Path] = []
    for vault, finding in zip(vaults, probe(vaults), strict=True):
        assert finding.status == 0, (vault, finding)
        if finding.error:
            assert finding.error == "CorruptError", (vault, finding)
            assert not harmless
            assert "data.mdb" in finding.message
            assert "bytes" in finding.message
        else:  # the last pages of the file may be free
            assert finding.message == content_printed(), (vault, finding)
            harmless.append(vault)
    assert len(harmless) < len(vaults) / 4


def test_the_message_names_what_was_found_and_expected(sound: Path, tmp_path: Path) -> None:
    vault = copy_of(sound, tmp_path)
    whole = data_file(vault).stat().st_size
    os.truncate(data_file(vault), whole // 2)
    with pytest.raises(CorruptError) as caught, LmdbStore(vault).read():
        pass
    assert caught.value.exit_code == 14
    assert f"it has {whole // 2} bytes, expected {whole}" in caught.value.message
    assert caught.value.hint


def test_a_file_that_only_lacks_pages_nobody_uses_is_read(tmp_path: Path) -> None:
    """What a transaction gives back at the end of the file before it wrote it is counted, but not there."""
    store = LmdbStore.create(tmp_path / ".modelvault")
    path = data_file(tmp_path / ".modelvault")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lmdb_store, "_fill_up", lambda directory: None)
        chance = random.Random(1)
        for _ in range(200):
            with store.write() as transaction:
                for _ in range(chance.randrange(1, 30)):
                    key = b"%03d" % chance.randrange(300)
                    if chance.random() < 0.5:
                        transaction.put("packs", key, b"x" * int(10 ** chance.uniform(0, 5.5)))
                    else:
                        transaction.delete("packs", key)
            expected = read_meta_page(path).file_bytes
            if path.stat().st_size < expected:
                break
        else:
            pytest.fail("LMDB no longer leaves such files: this test and the check it tests can go")
    assert structure_problems(path) == []
    with store.read() as reading:
        assert list(reading.scan("packs"))
    assert path.stat().st_size == expected  # filled up, so that the next one need not look again
    with store.write() as transaction:
        transaction.put("packs", b"new", b"x" * 500_000)
    assert structure_problems(path) == []


def test_a_commit_never_leaves_a_short_file(tmp_path: Path) -> None:
    store = LmdbStore.create(tmp_path / ".modelvault")
    path = data_file(tmp_path / ".modelvault")
    chance = random.Random(1)
    for _ in range(60):
        with store.write() as transaction:
            for _ in range(chance.randrange(1, 30)):
                key = b"%03d" % chance.randrange(300)
                if chance.random() < 0.5:
                    transaction.put("packs", key, b"x" * int(10 ** chance.uniform(0, 5.5)))
                else:
                    transaction.delete("packs", key)
        assert path.stat().st_size >= read_meta_page(path).file_bytes


def test_a_flipped_meta_page_never_kills_and_never_lies(sound: Path, tmp_path: Path) -> None:
    vaults = []
    original = data_file(sound).read_bytes()
    chance = random.Random(2)
    offsets = [page * PAGE + byte for page in (0, 1) for byte in range(168)]
    for offset in chance.sample(offsets, 120):
        vaults.append(copy_of(sound, tmp_path / str(offset)))
        damaged = bytearray(original)
        damaged[offset] ^= chance.choice([0xFF, 1 << chance.randrange(8)])
        data_file(vaults[-1]).write_bytes(damaged)
    errors = 0
    for vault, finding in zip(vaults, probe(vaults), strict=True):
        assert finding.status == 0, (vault, finding)
        if finding.error:
            assert finding.error in ("CorruptError", "NewerFormatError"), (vault, finding)
            errors += 1
        else:  # the padding, or what is only counted there
            assert finding.message == content_printed(), (vault, finding)
    assert errors > 30


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"not a database" * 1_000,
        lambda data: bytes(len(data)),
        lambda data: data[:PAGE] + bytes(PAGE) + data[2 * PAGE :],
        lambda data: bytes(PAGE) + data[PAGE:],
        lambda data: data[:20] + struct.pack("<I", 3) + data[24:],
    ],
    ids=["empty", "text", "zeros", "no second meta page", "no first meta page", "LMDB 1.0"],
)
def test_what_is_no_database_of_ours_is_refused(sound: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    vault = copy_of(sound, tmp_path)
    data_file(vault).write_bytes(damage(data_file(sound).read_bytes()))
    [finding] = probe([vault])
    assert (finding.status, finding.error) == (0, "CorruptError"), finding
    assert "data.mdb" in finding.message


def test_a_foreign_lock_file_does_no_harm(sound: Path, tmp_path: Path) -> None:
    vaults = []
    for name, garbage in (("noise", os.urandom(8_192)), ("empty", b""), ("short", b"x"), ("zeros", bytes(100_000))):
        vaults.append(copy_of(sound, tmp_path / name))
        (vaults[-1] / "current" / "lock.mdb").write_bytes(garbage)
    vaults.append(copy_of(sound, tmp_path / "missing"))
    (vaults[-1] / "current" / "lock.mdb").unlink()
    assert probe(vaults) == [(0, "", content_printed())] * len(vaults)


def _remove_current(vault: Path) -> None:
    (vault / "current").unlink()


def _remove_generation(vault: Path) -> None:
    shutil.rmtree(vault / "gen-1")


def _remove_data(vault: Path) -> None:
    data_file(vault).unlink()


def _point_elsewhere(vault: Path) -> None:
    (vault / "current").unlink()
    (vault / "current").symlink_to("/etc")


def _file_for_pointer(vault: Path) -> None:
    (vault / "current").unlink()
    (vault / "current").write_text("gen-1")


@pytest.mark.parametrize(
    "damage", [_remove_current, _remove_generation, _remove_data, _point_elsewhere, _file_for_pointer]
)
def test_a_vault_with_a_part_missing_is_refused(sound: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    vault = copy_of(sound, tmp_path)
    damage(vault)
    store = LmdbStore(vault)
    for use in (store.read, store.write):
        with pytest.raises(CorruptError) as caught, use():
            pass
        assert caught.value.hint
    with pytest.raises(CorruptError):
        store.compact()


def test_a_vault_without_its_small_files_is_whole(sound: Path, tmp_path: Path) -> None:
    vault = copy_of(sound, tmp_path)
    (vault / "lock").unlink()
    (vault / "writer").unlink()
    (vault / "sessions").rmdir()
    store = LmdbStore(vault)
    assert store.live_sessions() == []
    with store.open_session({}), store.write() as transaction:
        transaction.put("refs", b"main", b"1")
    store.compact()


def test_no_vault_is_said_to_be_none(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", Path(__file__)):
        with pytest.raises(NoVaultError, match="no vault at"):
            LmdbStore(path)


@pytest.mark.parametrize("stored", [b"%d" % (FORMAT_VERSION + 1), b"999999999"])
def test_a_newer_format_is_refused_with_a_way_out(tmp_path: Path, stored: bytes) -> None:
    store = LmdbStore.create(tmp_path / ".modelvault")
    with store.write() as transaction:
        transaction.put("meta", FORMAT_KEY, stored)
    for use in (store.read, store.write):
        with pytest.raises(NewerFormatError, match=f"format {stored.decode()}") as caught, use():
            pass
        assert caught.value.hint


@pytest.mark.parametrize("stored", [None, b"", b"0", b"-1", b"1.0", b" 1", b"one", b"\xb2", b"1" * 5_000])
def test_a_garbled_format_is_corrupt(tmp_path: Path, stored: bytes | None) -> None:
    store = LmdbStore.create(tmp_path / ".modelvault")
    with store.write() as transaction:
        if stored is None:
            transaction.delete("meta", FORMAT_KEY)
        else:
            transaction.put("meta", FORMAT_KEY, stored)
    with pytest.raises(CorruptError, match="format"), store.read():
        pass


DISK_FULL = """
import os, resource, signal, sys
from pathlib import Path
from modelvault.errors import ModelVaultError
from modelvault.store.lmdb_store import LmdbStore

store = LmdbStore(Path(sys.argv[1]))
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    for number in range(100):
        with store.write() as transaction:
            transaction.put("packs", b"%d" % number, os.urandom(1_000_000))
        print(number, flush=True)
except ModelVaultError as error:
    print(type(error).__name__, error.message.count(chr(10)))
"""


def fill_the_disk(vault: Path, *options: str) -> tuple[int, str]:
    """Write until it fails; return how many packs were acknowledged, and the error."""
    done = subprocess.run(
        [sys.executable, "-c", DISK_FULL, str(vault), *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    *numbers, error = done.stdout.splitlines()
    return len(numbers), error


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        vault = disk / ".modelvault"
        store = LmdbStore.create(vault)
        written, error = fill_the_disk(vault)
        assert 5 <= written <= 12
        assert error == "NoSpaceError 0"
        assert structure_problems(data_file(vault)) == []
        with store.read() as reading:
            assert reading.count("packs") == written
        with store.write() as transaction:  # what frees space still works
            for number in range(1, written):
                assert transaction.delete("packs", b"%d" % number)
        for length in (10, 10, 2_000_000):  # freed pages can be used two transactions later
            with store.write() as transaction:
                transaction.put("packs", b"new", os.urandom(length))
        with store.read() as reading:
            assert sorted(key for key, _ in reading.scan("packs")) == [b"0", b"new"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_disk_too_full_to_compact_keeps_the_old_generation(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        vault = disk / ".modelvault"
        store = LmdbStore.create(vault)
        with store.write() as transaction:
            transaction.put("packs", b"key", bytes(8_000_000))
        with pytest.raises(ModelVaultError, match="no space"):
            store.compact()
        assert sorted(entry.name for entry in vault.iterdir()) == ["current", "gen-1", "lock", "sessions", "writer"]
        with store.read() as reading:
            assert reading.get("packs", b"key") == bytes(8_000_000)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_file_that_may_not_grow_loses_nothing(tmp_path: Path) -> None:
    vault = tmp_path / ".modelvault"
    store = LmdbStore.create(vault)
    written, error = fill_the_disk(vault, "5000000")
    assert 2 <= written <= 5
    assert error == "ModelVaultError 0"
    with store.read() as reading:
        assert reading.count("packs") == written
