"""Does the Python interface do what the command line does, with values in place of texts?"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import modelvault
from modelvault import errors
from modelvault.store.lmdb_store import LmdbStore
from tests.repository.networks import Run, noise


def write(vault: modelvault.Vault, name: str, data: bytes) -> Path:
    path = vault.root / name
    path.write_bytes(data)
    return path


def test_what_is_public() -> None:
    assert modelvault.__all__ == [
        "open",
        "apply_bundle",
        "Vault",
        "CommitInfo",
        "Report",
        "ModelVaultError",
        "__version__",
    ]
    for name in modelvault.__all__:
        assert getattr(modelvault, name) is not None
    with pytest.raises(AttributeError, match="nosuch"):
        modelvault.nosuch  # noqa: B018


def test_importing_is_light() -> None:
    program = "import sys, modelvault; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert not set(done.stdout.split()) & {"numpy", "torch", "lmdb", "typer", "zstandard"}


def test_opening(tmp_path: Path) -> None:
    with pytest.raises(errors.NoVaultError):
        modelvault.open(tmp_path / "run")
    made = modelvault.open(tmp_path / "deep" / "run", create=True)
    assert made.root == tmp_path / "deep" / "run"
    again = modelvault.open(str(tmp_path / "deep" / "run" / ".modelvault"), create=True)
    assert again.root == made.root
    assert repr(again) == f"Vault({str(made.root)!r})"
    with pytest.raises(errors.NoVaultError):
        modelvault.open(tmp_path / "deep")  # the parent of a vault is none


def test_a_commit_says_what_was_done(vault: modelvault.Vault) -> None:
    data = noise(100_000)
    before = time.time()
    done = vault.commit(
        write(vault, "model.pt", data),
        message="epoch 40\n\nmore",
        tag="best",
        step=15_640,
        metrics={"val_acc": 0.934},
        meta={"gpu": "none"},
    )
    assert done.files == (("model.pt", 100_000, hashlib.sha256(data).hexdigest()),)
    assert (done.subject, done.message, done.step) == ("epoch 40", "epoch 40\n\nmore", 15_640)
    assert (dict(done.metrics), dict(done.meta)) == ({"val_acc": 0.934}, {"gpu": "none"})
    assert (done.author, done.mode, done.parents) == ("Ada <ada@example.org>", "lossless", ())
    assert (done.raw_bytes, done.depth) == (100_000, 0)
    assert done.added_bytes > 100_000
    assert done.id.startswith(done.short)
    assert before - 1 <= done.time <= time.time() + 1
    assert list(vault.log()) == [done]


def test_paths_lists_and_directories(vault: modelvault.Vault) -> None:
    one, two = write(vault, "one", b"1"), write(vault, "two", b"2")
    assert [name for name, *_ in vault.commit(str(one), message="a").files] == ["one"]
    assert [name for name, *_ in vault.commit([one, str(two)], message="b").files] == ["one", "two"]
    assert [name for name, *_ in vault.commit(vault.root, message="c").files] == ["one", "two"]


def test_checkout(vault: modelvault.Vault, tmp_path: Path) -> None:
    model = write(vault, "model.pt", b"first")
    other = write(vault, "other", b"other")
    vault.commit([model, other], message="epoch 1")
    model.write_bytes(b"second")
    vault.commit([model, other], message="epoch 2")
    vault.checkout("epoch-1", tmp_path / "restored.pt", path="model.pt")
    assert (tmp_path / "restored.pt").read_bytes() == b"first"
    vault.checkout("epoch-1", tmp_path / "all")
    assert (tmp_path / "all" / "other").read_bytes() == b"other"
    vault.checkout("HEAD~1")
    assert model.read_bytes() == b"first"
    assert next(vault.log()).subject == "epoch 1"
    model.write_bytes(b"precious")
    with pytest.raises(errors.WouldLoseDataError):
        vault.checkout("main")
    assert model.read_bytes() == b"precious"
    vault.checkout("main", force=True)
    assert model.read_bytes() == b"second"


def test_log(vault: modelvault.Vault) -> None:
    assert list(vault.log()) == []
    made = [vault.commit(write(vault, "m", bytes([n])), message=f"epoch {n}") for n in range(4)]
    assert [info.id for info in vault.log()] == [info.id for info in reversed(made)]
    assert [info.subject for info in vault.log("HEAD~3..epoch-2")] == ["epoch 2", "epoch 1"]
    assert [info.subject for info in vault.log("epoch-0")] == ["epoch 0"]
    walk = vault.log()
    next(walk)
    vault.commit(write(vault, "m", b"meanwhile"), message="while somebody reads")  # a log holds no lock


def test_report(vault: modelvault.Vault) -> None:
    run = Run({"w": 50_000})
    for data in run.epochs(3):
        vault.commit(write(vault, "model.pt", data), message="an epoch")
    report = vault.report()
    assert isinstance(report, modelvault.Report)
    assert report.census.commits == 3
    assert report.ratio is not None and report.ratio > 1
    assert report.to_json()["schema"] == "modelvault.report/1"


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"message": ""}, errors.UsageError),
        ({"message": "x", "tag": "a b"}, errors.UsageError),
        ({"message": "x", "metrics": {"": 1.0}}, errors.UsageError),
    ],
)
def test_a_bad_call_is_an_error_of_ours(
    vault: modelvault.Vault, fields: dict[str, object], kind: type[Exception]
) -> None:
    path = write(vault, "model.pt", b"weights")
    with pytest.raises(kind):
        vault.commit(path, **fields)  # type: ignore[arg-type]
    assert list(vault.log()) == []


@pytest.mark.torch
def test_what_has_no_state_is_refused(vault: modelvault.Vault) -> None:
    with pytest.raises(errors.UsageError, match="cannot commit a int"):
        vault.commit(5, message="x")  # type: ignore[arg-type]


def test_without_torch_a_state_is_refused_and_files_are_not(
    vault: modelvault.Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(errors.UnsupportedError, match="torch is needed"):
        vault.commit({"w": 1}, message="x")
    vault.commit(write(vault, "model.pt", b"weights"), message="x")
    with pytest.raises(errors.UnsupportedError, match="torch is needed"):
        vault.load()


def test_a_vault_is_shared_by_threads(vault: modelvault.Vault) -> None:
    """Four commit, two read all the while."""
    failed: list[BaseException] = []
    over = threading.Event()

    def commit(name: str) -> None:
        run = Run({"w": 20_000}, seed=ord(name))
        for data in run.epochs(3):
            vault.commit(write(vault, name, data), message=name)

    def read() -> None:
        while not over.is_set():
            list(vault.log())
            vault.report()

    def guarded(function: object, *arguments: str) -> None:
        try:
            function(*arguments)  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            failed.append(error)

    writers = [threading.Thread(target=guarded, args=(commit, name)) for name in "abcd"]
    readers = [threading.Thread(target=guarded, args=(read,)) for _ in range(2)]
    for thread in writers + readers:
        thread.start()
    for thread in writers:
        thread.join()
    over.set()
    for thread in readers:
        thread.join()
    assert failed == []
    found = list(vault.log())
    assert len(found) == 12
    assert all(info.parents == ((found[n + 1].id,) if n < 11 else ()) for n, info in enumerate(found))


def test_a_lock_is_waited_for_and_given_up_on(vault: modelvault.Vault) -> None:
    path = write(vault, "model.pt", b"weights")
    impatient = modelvault.open(vault.root, lock_timeout=0.1)
    with LmdbStore(vault.root / ".modelvault").write(), pytest.raises(errors.LockedError):
        impatient.commit(path, message="x")
    impatient.commit(path, message="x")


def test_several_commits_at_once(vault: modelvault.Vault, tmp_path: Path) -> None:
    made = {}
    for number in range(4):
        data = noise(50_000, seed=number)
        made[vault.commit(write(vault, "model.bin", data), message=f"epoch {number}").id] = data
    found = vault.checkout_many("epoch-0..epoch-2", "epoch-3", into=tmp_path / "all")
    assert list(found) == list(made)[1:]
    assert {one: (place / "model.bin").read_bytes() for one, place in found.items()} == {
        one: made[one] for one in found
    }
    (found[list(made)[1]] / "model.bin").write_bytes(b"mine")
    with pytest.raises(errors.WouldLoseDataError):
        vault.checkout_many("epoch-1", into=tmp_path / "all")
    vault.checkout_many("epoch-1", into=tmp_path / "all", force=True)


def test_bisect(vault: modelvault.Vault) -> None:
    for number in range(9):
        vault.commit(write(vault, "n.txt", str(number).encode()), message=f"n {number}", metrics={"n": number})
    asked: list[int] = []

    def small(path: Path) -> bool | None:
        asked.append(int(path.read_text()))
        return None if asked[-1] == 4 else asked[-1] < 6

    found = vault.bisect("n-0", test=small)
    assert found.first_bad is not None and found.first_bad.message == "n 6"
    assert found.suspects == (found.first_bad,)
    assert [(int(info.message[2:]), verdict) for info, verdict in found.tested] == [
        (number, "skipped" if number == 4 else "good" if number < 6 else "bad") for number in asked
    ]
    by_metric = vault.bisect("n-0", "n-8", metric="n<6")
    assert by_metric.first_bad == found.first_bad
    with pytest.raises(errors.UsageError):
        vault.bisect("n-0")
