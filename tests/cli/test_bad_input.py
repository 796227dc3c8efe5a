"""Does everything that can be wrong end in one line, the right exit code, and nothing half-written?"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelvault.errors import NoSpaceError
from modelvault.store import mountpoint
from modelvault.store.base import FORMAT_KEY, Table
from modelvault.store.lmdb_store import LmdbStore, LmdbWriteTransaction
from tests.repository.networks import noise

from .conftest import Cli, assert_is_one_error, spawn


@pytest.fixture
def filled(cli: Cli) -> Iterator[Cli]:
    """A vault with two commits, that must be as it was and whole when the test is over."""
    cli.commit("epoch 1", noise(100_000))
    cli.commit("epoch 2", noise(100_000, seed=1))
    before = cli.json("log", "--all"), cli.json("tag"), cli.json("branch"), (cli.root / "model.pt").read_bytes()
    yield cli
    after = cli.json("log", "--all"), cli.json("tag"), cli.json("branch"), (cli.root / "model.pt").read_bytes()
    assert after == before
    assert cli.json("fsck")["problems"] == []
    assert not list(cli.root.rglob("*.tmp"))


LINES: dict[str, tuple[int, tuple[str, ...], str]] = {
    "no verb like that": (2, ("comit",), "No such command"),
    "no option like that": (2, ("log", "--onelin"), "--onelin"),
    "a number that is none": (2, ("log", "-n", "many"), "-n"),
    "a negative number": (2, ("log", "-n", "-1"), "-n"),
    "no message": (2, ("commit", "model.pt"), "--message"),
    "an empty message": (2, ("commit", "model.pt", "-m", ""), "the message is empty"),
    "a message of blanks": (2, ("commit", "model.pt", "-m", " \n\t"), "the message is empty"),
    "no file": (2, ("commit", "-m", "x"), "PATH"),
    "no such file": (1, ("commit", "nosuch.pt", "-m", "x"), "cannot read"),
    "a metric without a number": (2, ("commit", "model.pt", "-m", "x", "--metric", "acc=high"), "not a number"),
    "a metric without a name": (2, ("commit", "model.pt", "-m", "x", "--metric", "=1"), "NAME=VALUE"),
    "a metric without a value": (2, ("commit", "model.pt", "-m", "x", "--metric", "acc"), "NAME=VALUE"),
    "a metric twice": (2, ("commit", "model.pt", "-m", "x", "--metric", "a=1", "--metric", "a=2"), "twice"),
    "a metric of control characters": (2, ("commit", "model.pt", "-m", "x", "--metric", "a\tb=1"), "name of a metric"),
    "a step that is no number": (2, ("commit", "model.pt", "-m", "x", "--step", "1.5"), "--step"),
    "a tag of a bad name": (2, ("commit", "model.pt", "-m", "x", "--tag", "a..b"), "name of a tag"),
    "the vault itself": (1, ("commit", ".modelvault/config.yaml", "-m", "x"), "cannot be kept"),
    "an unknown revision": (13, ("show", "nosuch"), "no commit answers to"),
    "an unknown revision to check out": (13, ("checkout", "nosuch"), "no commit answers to"),
    "an unknown revision to tag": (13, ("tag", "t", "nosuch"), "no commit answers to"),
    "a reserved name": (2, ("branch", "HEAD"), "name of a branch"),
    "a name with an option's look": (2, ("tag", "--", "-x"), "name of a tag"),
    "a name with a blank": (2, ("tag", "a b"), "name of a tag"),
    "a name with a tilde": (2, ("branch", "a~1"), "name of a branch"),
    "a directory that is not there": (2, ("-C", "nosuch", "log"), "cannot change to"),
    "a verb without its argument": (2, ("checkout",), "REV"),
    "a directory where a file goes": (1, ("checkout", "HEAD", "-o", "/nosuch/place/model.pt"), "cannot write in"),
    "help on nothing": (2, ("help", "nosuch"), "there is no verb"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_bad_line(filled: Cli, name: str) -> None:
    code, words, expected = LINES[name]
    assert expected in filled.fails(code, *words)


@pytest.mark.parametrize("words", [("log",), ("status",), ("report",), ("commit", "x", "-m", "x"), ("fsck",)], ids=str)
def test_no_vault(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODELVAULT_DIR", raising=False)
    error = Cli(capfd, tmp_path).fails(10, *words)
    assert "there is no vault" in error and "modelvault init" in error
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_file_is_refused_by_name(filled: Cli, tmp_path: Path) -> None:
    root = filled.root
    (root / "dangling.pt").symlink_to(tmp_path / "nowhere")
    (root / "loop.pt").symlink_to("loop.pt")
    (root / "null.pt").symlink_to("/dev/null")
    os.mkfifo(root / "pipe.pt")
    (root / "empty").mkdir()
    for name, why in {
        "dangling.pt": "it is a dangling link",
        "loop.pt": "symbolic links",
        "null.pt": "it is a device",
        "pipe.pt": "it is a pipe",
        "empty": "no file in",
    }.items():
        error = filled.fails(1, "commit", name, "-m", "x")
        assert why in error and name in error


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_refused(filled: Cli) -> None:
    filled.write("secret.pt", b"secret")
    (filled.root / "secret.pt").chmod(0)
    assert "Permission denied" in filled.fails(1, "commit", "secret.pt", "-m", "x")


@pytest.mark.parametrize("name", [b"a\nb", b"a\x1b[31mb", b"back\\slash", b"not\xffutf8", "bidi\u2028".encode()])
def test_a_hostile_name_is_refused_and_shown_escaped(filled: Cli, name: bytes) -> None:
    (filled.root / os.fsdecode(name)).write_bytes(b"weights")
    error = filled.fails(1, "commit", os.fsdecode(name), "-m", "x")
    assert "cannot be kept" in error
    assert error[:-1].isprintable()
    error = filled.fails(1, "commit", ".", "-m", "x")
    assert "cannot be kept" in error


@pytest.fixture
def writer(cli: Cli) -> Iterator[Callable[[], None]]:
    """Somebody who holds the writer's lock from when it is called until the test ends."""
    store, end, begun = LmdbStore(cli.root / ".modelvault"), threading.Event(), threading.Event()

    def hold() -> None:
        with store.write():
            begun.set()
            end.wait(30)

    thread = threading.Thread(target=hold)

    def begin() -> None:
        thread.start()
        assert begun.wait(10)

    yield begin
    end.set()
    if thread.ident is not None:
        thread.join()


def test_a_lock_that_is_held_is_given_up_on_and_its_holder_named(cli: Cli, writer: Callable[[], None]) -> None:
    cli.commit("epoch 1")
    cli.write("model.pt", b"more")
    writer()
    for words in (("commit", "model.pt", "-m", "x"), ("tag", "v1"), ("branch", "b"), ("switch", "-c", "c")):
        result = cli(*words, "--lock-timeout", "0.2")
        assert result.code == 11, result
        waiting, error = result.err.splitlines()
        assert waiting.startswith("modelvault: waiting for process ")
        assert_is_one_error(error + "\n")
        assert f"process {os.getpid()}" in error
        assert result.out == ""
    assert cli.ok("log", "--oneline").count("\n") == 1  # readers do not wait
    assert "being written by process" in cli.fails(11, "tag", "v1", "--lock-timeout", "0")


def put_fails_from(number: int) -> Callable[[LmdbWriteTransaction, Table, bytes, bytes], None]:
    """Return a `put` that finds the disk full from the n-th value on."""

    put, left = LmdbWriteTransaction.put, number

    def failing(self: LmdbWriteTransaction, table: Table, key: bytes, value: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise NoSpaceError("the disk is full", hint="free some space")
        put(self, table, key, value)

    return failing


@pytest.mark.parametrize("number", [0, 1, 3, 6])
def test_a_full_disk(filled: Cli, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.write("other.pt", noise(600_000, seed=5))
    with monkeypatch.context() as patch:
        patch.setattr(LmdbWriteTransaction, "put", put_fails_from(number))
        assert "full" in filled.fails(15, "commit", "other.pt", "-m", "x")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB, where this user may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount") is not None
    if mounted:
        command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    if not mounted:
        pytest.skip("this user may not mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_disk_that_is_really_full(small_disk: Path, tmp_path: Path) -> None:
    root = small_disk / "run"
    assert spawn(small_disk, "init", "run").returncode == 0
    (tmp_path / "first.pt").write_bytes(noise(2_000_000))
    (tmp_path / "second.pt").write_bytes(noise(9_000_000, seed=1))
    assert spawn(root, "commit", str(tmp_path / "first.pt"), "-m", "first").returncode == 0
    done = spawn(root, "commit", str(tmp_path / "second.pt"), "-m", "second")
    assert (done.returncode, done.stdout) == (15, "")
    assert_is_one_error(done.stderr.splitlines(keepends=True)[-1])
    assert spawn(root, "log", "--oneline").stdout.count("\n") == 1
    assert "all good" in spawn(root, "fsck").stdout
    # What was there can still be restored elsewhere, and not here.
    assert spawn(root, "checkout", "first", "-o", str(tmp_path / "back.pt")).returncode == 0
    assert (tmp_path / "back.pt").read_bytes() == (tmp_path / "first.pt").read_bytes()
    (small_disk / "filler").write_bytes(bytes(max(0, _free(small_disk) - 1_000_000)))
    done = spawn(root, "checkout", "first", "-o", str(small_disk / "back.pt"))
    assert done.returncode == 15
    assert_is_one_error(done.stderr)
    assert not (small_disk / "back.pt").exists()


def _free(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def test_a_truncated_database_is_an_error_and_no_signal(cli: Cli) -> None:
    cli.commit("epoch 1", noise(2_000_000))
    cli.commit("epoch 2", noise(2_000_000, seed=1))
    database = (cli.root / ".modelvault" / "current").resolve() / "data.mdb"
    whole = database.read_bytes()
    for size in (len(whole) // 2, 4096 * 3, 4096, 100, 0):
        database.write_bytes(whole[:size])
        for words in (("log",), ("fsck",), ("checkout", "HEAD", "-o", "out.pt")):
            done = spawn(cli.root, *words)
            assert done.returncode == 14, (size, words, done)
            assert_is_one_error(done.stderr)
            assert not (cli.root / "out.pt").exists()
    database.write_bytes(whole)
    assert cli.json("fsck")["problems"] == []


def test_a_vault_of_a_later_format_is_refused(cli: Cli) -> None:
    with LmdbStore(cli.root / ".modelvault").write() as txn:
        txn.put("meta", FORMAT_KEY, b"2")
    for words in (("log",), ("status",), ("report",), ("tag", "x"), ("fsck",)):
        assert "format 2" in cli.fails(1, *words)


def test_a_network_file_system_is_refused(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text("21 1 0:5 / / rw - ext4 /dev/sda rw\n22 21 0:6 / " + str(tmp_path) + " rw - nfs4 host:/x rw\n")
    with monkeypatch.context() as patch:
        patch.setattr(mountpoint, "_MOUNTS", mounts)
        assert "network file system (nfs4)" in cli.fails(1, "log")
        assert "network file system" in cli.fails(1, "init", "new")
    assert not (cli.root / "new" / ".modelvault").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("author: [", "is not YAML"),
        ("- a\n- b", "no table of settings"),
        ("colour: red", "unknown setting"),
        ("author: 5", "author is not text"),
        ("metrics:\n  acc: up", "NAME: min or NAME: max"),
    ],
)
def test_a_bad_configuration_is_named(filled: Cli, text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = filled.root / ".modelvault" / "config.yaml"
    before = place.read_text()
    place.write_text(text)
    error = filled.fails(2, "show", "best:acc")
    assert expected in error and "config.yaml" in error
    place.write_text(before)


def test_a_damaged_vault_says_so_in_one_line(cli: Cli) -> None:
    commit_id = bytes.fromhex(cli.commit("epoch 1"))
    with LmdbStore(cli.root / ".modelvault").write() as txn:
        data = txn.get("commits", commit_id)
        assert data is not None
        txn.put("commits", commit_id, data[:-1] + b"?")
    for words in (("log",), ("show",), ("status",), ("report",), ("checkout", "HEAD", "-o", "out.pt")):
        assert commit_id.hex()[:16] in cli.fails(14, *words)
    assert not (cli.root / "out.pt").exists()


def test_a_file_in_place_of_the_vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".modelvault").write_bytes(b"")
    done = spawn(tmp_path, "log")
    assert done.returncode == 10
    assert_is_one_error(done.stderr)
    done = spawn(tmp_path, "init")
    assert done.returncode == 1
    assert_is_one_error(done.stderr)
    assert (tmp_path / ".modelvault").read_bytes() == b""
