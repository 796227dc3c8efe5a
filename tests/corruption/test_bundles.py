"""Does a damaged or forged bundle ever bring anything but what its commits name, or leave half of it behind?"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelvault import codec
from modelvault.errors import CorruptError, InputError, ModelVaultError
from modelvault.ids import CommitId
from modelvault.objects import bundle as index
from modelvault.objects.bundle import Bundle, SentCommit
from modelvault.objects.commit import Commit, FileEntry
from modelvault.repository.bundle import make_bundle
from modelvault.repository.fsck import check
from modelvault.repository.repository import Repository
from modelvault.repository.unbundle import build, open_bundle, unbundle
from modelvault.store.base import MAX_VALUE_BYTES
from tests.repository.garbage import Entries, entries
from tests.repository.networks import Run
from tests.repository.vaults import all_commits, commit, files_of, new_vault

HEAD = len(index.MAGIC) + 1
TAIL = 8 + 32


class Case:
    """A bundle of one epoch, the vault and the file that it is for, and what must come of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        vault = new_vault(root / "run")
        run = Run({"w": 9_000, "v": 5_000, "norm": 50})
        self.old = run.file()
        commit(vault, self.old, "old")
        run.train()
        self.new = run.file()
        self.wanted = commit(vault, self.new, "new").commit_id
        made = root / "made.mvb"
        make_bundle(vault, "HEAD~1..HEAD", made)
        self.data = made.read_bytes()
        make_bundle(vault, "HEAD~1", root / "first.mvb")
        with open_bundle(made) as opened:
            self.bundle = opened.bundle
        self.device = root / "old.pt"
        self.device.write_bytes(self.old)
        self.receiver = self.fresh()

    def fresh(self) -> Repository:
        vault = new_vault(self.root / f"receiver-{len(list(self.root.iterdir()))}", "memory")
        unbundle(vault, self.root / "first.mvb", branch="main")
        return vault

    def offer(self, data: bytes) -> None:
        """Offer a bundle to the vault: it must bring the commit whole, or nothing and an error of ours."""
        path = self.root / "offered.mvb"
        path.write_bytes(data)
        before = entries(self.receiver)
        try:
            unbundle(self.receiver, path, branch="main")
        except ModelVaultError:
            assert self._commits(before) == self._commits(entries(self.receiver))
        else:
            for commit_id in all_commits(self.receiver):
                files_of(self.receiver, commit_id)
            assert check(self.receiver).problems == ()
            self.receiver = self.fresh()

    @staticmethod
    def _commits(found: Entries) -> dict[object, bytes]:
        tables = ("commits", "payloads", "recipes", "refs", "reflog", "templates")
        return {key: value for key, value in found.items() if key[0] in tables}

    def sealed(self, body: bytes, bundle: Bundle | bytes) -> bytes:
        """Return a bundle whose checksum is right, whatever it says."""
        packed = codec.pack(bundle if isinstance(bundle, bytes) else bundle.to_bytes())
        data = self.data[:HEAD] + body + packed + len(packed).to_bytes(8, "little")
        return data + hashlib.sha256(data).digest()

    @property
    def body(self) -> bytes:
        """The frames."""
        length = int.from_bytes(self.data[-TAIL:-32], "little")
        return self.data[HEAD : -TAIL - length]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


@pytest.fixture(autouse=True)
def _author(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELVAULT_AUTHOR", "Ada <ada@example.org>")


def test_the_bundle_itself_is_good(case: Case) -> None:
    assert case.sealed(case.body, case.bundle) == case.data
    path = case.root / "made.mvb"
    assert unbundle(case.receiver, path).commits == (case.wanted,)
    build(path, case.device, case.root / "new.pt")
    assert (case.root / "new.pt").read_bytes() == case.new


def places(data: bytes) -> Iterator[int]:
    chance = random.Random(2)
    yield from range(HEAD)
    yield from range(len(data) - TAIL, len(data))
    for _ in range(60):
        yield chance.randrange(HEAD, len(data) - TAIL)


def test_every_flip_and_truncation_is_noticed(case: Case) -> None:
    path = case.root / "offered.mvb"
    for place in places(case.data):
        for data in (
            case.data[:place],
            case.data[:place] + bytes([case.data[place] ^ 1 << place % 8]) + case.data[place + 1 :],
        ):
            path.write_bytes(data)
            with pytest.raises((CorruptError, InputError)):
                unbundle(case.receiver, path)
            with pytest.raises((CorruptError, InputError)):
                build(path, case.device, case.root / "new.pt")
    assert not (case.root / "new.pt").exists()
    assert len(all_commits(case.receiver)) == 1
    path.write_bytes(case.data + b"\0")
    with pytest.raises(CorruptError):
        unbundle(case.receiver, path)


def test_forged_indexes_with_good_checksums(case: Case) -> None:
    chance, good = random.Random(3), case.bundle.to_bytes()
    for _ in range(150):
        forged = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            forged[chance.randrange(len(forged))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        case.offer(case.sealed(case.body, bytes(forged)))


def test_forged_frames_with_good_checksums(case: Case) -> None:
    chance = random.Random(4)
    for _ in range(60):
        body = bytearray(case.body)
        for _ in range(chance.randint(1, 3)):
            body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
        case.offer(case.sealed(bytes(body), case.bundle))
    assert len(all_commits(case.receiver)) == 1, "no frame was changed without being noticed"


def tip(case: Case, files: tuple[FileEntry, ...] = (), parents: tuple[CommitId, ...] = ()) -> SentCommit:
    said = Commit.from_bytes(case.bundle.commits[-1].data)
    changed = said._replace(files=files or said.files, parents=parents or said.parents)
    return SentCommit(changed.to_bytes(), index.EXACT)


@pytest.mark.parametrize("path", ["../out.pt", "/etc/out.pt", ".modelvault/config.yaml", "a/../../out.pt", "a\nb"])
def test_paths_that_lead_out(case: Case, path: str) -> None:
    entry = Commit.from_bytes(case.bundle.commits[-1].data).files[0]
    forged = case.bundle._replace(commits=(tip(case, files=(entry._replace(path=path),)),))
    case.offer(case.sealed(case.body, forged))
    assert len(all_commits(case.receiver)) == 1
    (case.root / "into").mkdir()
    with pytest.raises(InputError):
        build(case.root / "offered.mvb", case.device, case.root / "into")
    assert list((case.root / "into").iterdir()) == []


def test_other_lies(case: Case) -> None:
    bundle = case.bundle
    entry = Commit.from_bytes(bundle.commits[-1].data).files[0]
    wrong_size = tip(case, files=(FileEntry("model.pt", entry.size + 1, False, entry.file_id),))
    lies = [
        bundle._replace(commits=(wrong_size,)),
        bundle._replace(refs=(("remotes/main", 0),)),
        bundle._replace(refs=(("heads/a..b", 0),)),
        bundle._replace(refs=(("HEAD", 0),)),
        bundle._replace(commits=(tip(case, parents=(CommitId(bytes(32)),)),)),
        bundle._replace(tensors=tuple(tensor._replace(base=0) for tensor in bundle.tensors)),
        bundle._replace(tensors=tuple(tensor._replace(parameters=b"") for tensor in bundle.tensors)),
        bundle._replace(tensors=tuple(t._replace(lengths=(t.lengths[0] - 1,)) for t in bundle.tensors)),
        bundle._replace(files=tuple(file._replace(stem=b"x" * len(file.stem)) for file in bundle.files)),
    ]
    for lie in lies:
        case.offer(case.sealed(case.body, lie))
        assert len(all_commits(case.receiver)) == 1
    case.offer(case.sealed(case.body + b"more", bundle))
    assert len(all_commits(case.receiver)) == 1


def test_an_index_that_would_not_fit_into_memory(case: Case) -> None:
    bomb = codec.pack(bytes(MAX_VALUE_BYTES + 1))
    data = case.data[:HEAD] + bomb + len(bomb).to_bytes(8, "little")
    case.offer(data + hashlib.sha256(data).digest())
    assert len(all_commits(case.receiver)) == 1


@pytest.mark.parametrize("length", [0, 1, 2**32, 2**63, 2**64 - 1])
def test_an_index_of_another_length(case: Case, length: int) -> None:
    data = case.data[:-TAIL] + length.to_bytes(8, "little")
    case.offer(data + hashlib.sha256(data).digest())
    assert len(all_commits(case.receiver)) == 1


def test_a_later_version_is_refused(case: Case) -> None:
    data = index.MAGIC + bytes((index.VERSION + 1,)) + case.data[HEAD:-32]
    path = case.root / "offered.mvb"
    path.write_bytes(data + hashlib.sha256(data).digest())
    with pytest.raises(ModelVaultError, match="bundle of version 2"):
        unbundle(case.receiver, path)
