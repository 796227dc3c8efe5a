"""Does a vault stay what a dictionary of expected checkpoints says, whatever is done to it, in any order?"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from modelvault.errors import ForgottenError, WouldLoseDataError
from modelvault.ids import CommitId
from modelvault.objects.ref import Head, Move
from modelvault.repository import history, refs
from modelvault.repository.checkout import checkout
from modelvault.repository.commit import Request, make_commit
from modelvault.repository.fsck import check
from modelvault.repository.gc import collect_garbage
from modelvault.repository.repository import Repository, init_repository, open_repository
from modelvault.repository.revisions import Resolved, resolve
from tests.repository.garbage import DAY, assert_restores, assert_tidy, forget
from tests.repository.networks import Run
from tests.repository.vaults import all_commits, files_of

NAMES = st.sampled_from(["main", "trial", "fine-tune"])
PATHS = st.sampled_from(["model.pt", "optimizer.pt", "sub/notes.txt"])


class VaultMachine(RuleBasedStateMachine):
    """Expected: every commit's files, where every branch and tag is, and HEAD."""

    commits = Bundle("commits")

    @initialize()
    def begin(self) -> None:
        """Make an empty vault and an empty model of it."""
        self.root = Path(tempfile.mkdtemp(prefix="machine-"))
        self.repository: Repository = init_repository(self.root)
        self.expected: dict[CommitId, dict[str, bytes]] = {}
        self.parents: dict[CommitId, CommitId | None] = {}
        self.branches: dict[str, CommitId] = {}
        self.tags: dict[str, CommitId] = {}
        self.branch: str = "main"
        self.detached: CommitId | None = None
        self.runs = {name: Run({"w": 20_000, "b": 50}, seed=seed) for seed, name in enumerate("xyz")}
        self.count = 0
        self.forgotten: set[CommitId] = set()
        self.collected: set[CommitId] = set()  # forgotten before a gc: their files may be gone
        self.gone: set[CommitId] = set()

    def teardown(self) -> None:
        """Leave nothing behind."""
        if hasattr(self, "root"):
            shutil.rmtree(self.root)

    @property
    def head(self) -> CommitId | None:
        """Where HEAD is expected."""
        return self.detached or self.branches.get(self.branch)

    @rule(target=commits, path=PATHS, which=st.sampled_from("xyz"), extra=st.binary(max_size=50), train=st.booleans())
    def commit(self, path: str, which: str, extra: bytes, train: bool) -> CommitId:
        """Commit an epoch of some run and a small file, possibly what is there already."""
        if train:
            self.runs[which].train()
        files = {path: self.runs[which].file(), "extra.bin": extra}
        for name, data in files.items():
            (self.root / name).parent.mkdir(exist_ok=True)
            (self.root / name).write_bytes(data)
        self.count += 1
        done = make_commit(self.repository, Request([self.root / name for name in files], f"number {self.count}"))
        parent = self.head
        assert done.commit.parents == ((parent,) if parent else ())
        assert done.opened == (self.detached is not None)
        if self.detached is not None:
            assert done.branch not in self.branches
            self.branch, self.detached = done.branch, None
        assert done.branch == self.branch
        self.parents[done.commit_id] = parent
        self.branches[self.branch] = done.commit_id
        self.expected[done.commit_id] = files
        return done.commit_id

    @rule(name=NAMES, at=commits)
    def make_branch(self, name: str, at: CommitId) -> None:
        """Point a branch somewhere."""
        if at in self.gone:
            return
        if name == self.branch and self.detached is None:
            return
        with self.repository.store.write() as txn:
            refs.move(txn, "branch", [Move(refs.BRANCHES + name, at)])
        self.branches[name] = at

    @rule(name=st.sampled_from(["best", "v1"]), at=commits)
    def make_tag(self, name: str, at: CommitId) -> None:
        """Point a tag somewhere."""
        if at in self.gone:
            return
        with self.repository.store.write() as txn:
            refs.move(txn, "tag", [Move(refs.TAGS + name, at)])
        self.tags[name] = at

    @rule(name=NAMES)
    def switch(self, name: str) -> None:
        """Move HEAD to a branch, which may have no commits yet."""
        with self.repository.store.write() as txn:
            refs.move(txn, "switch", [], head=Head(name))
        self.branch, self.detached = name, None

    @rule(at=commits)
    def checkout(self, at: CommitId) -> None:
        """Write a commit's files over what is there, all of which is in some commit; HEAD is detached."""
        if at in self.gone:
            return
        if at in self.forgotten:
            with pytest.raises(ForgottenError):
                checkout(self.repository, Resolved(at))
            return
        self.take_away_what_is_in_no_commit()
        with self.repository.store.read() as txn:
            resolved = resolve(txn, at.hex(), self.repository.config)
        assert resolved == Resolved(at)
        checkout(self.repository, resolved)
        self.detached = at
        for name, data in self.expected[at].items():
            assert (self.root / name).read_bytes() == data

    def take_away_what_is_in_no_commit(self) -> None:
        """Delete files whose commits were given up: a checkout would rightly refuse to overwrite the last copy."""
        if not self.gone and not self.collected:
            return
        for name in ("model.pt", "optimizer.pt", "sub/notes.txt", "extra.bin"):
            (self.root / name).unlink(missing_ok=True)

    @rule(at=commits, precious=st.binary(min_size=60, max_size=70))
    def refuse(self, at: CommitId, precious: bytes) -> None:
        """Bytes that are in no commit survive a checkout."""
        if at in self.gone | self.collected | self.forgotten:
            return
        place = self.root / "extra.bin"
        before = place.read_bytes() if place.exists() else None
        place.write_bytes(precious)
        with pytest.raises(WouldLoseDataError):
            checkout(self.repository, Resolved(at))
        assert place.read_bytes() == precious
        if before is None:
            place.unlink()
        else:
            place.write_bytes(before)

    @rule(at=commits)
    def restore(self, at: CommitId) -> None:
        """Any commit gives back what was put in."""
        if at in self.gone | self.collected:
            return
        assert files_of(self.repository, at) == self.expected[at]

    @rule(at=commits)
    def forget(self, at: CommitId) -> None:
        """Give up a commit's bytes; they go with the next gc, unless a commit that is kept has the same file."""
        if at not in self.forgotten:
            forget(self.repository, [at])
            self.forgotten.add(at)

    @rule(compact=st.booleans(), grace=st.sampled_from([0.0, 14 * DAY]))
    def collect(self, compact: bool, grace: float) -> None:
        """Only what is forgotten, or what no name and no young move of one leads to, goes."""
        foretold = collect_garbage(self.repository, grace=grace, compact=compact, dry_run=True)
        done = collect_garbage(self.repository, grace=grace, compact=compact)
        assert foretold[:4] == done[:4]
        if grace:
            assert done[:4] == (0, 0, 0, 0)
            return
        lost = set(self.expected) - set(all_commits(self.repository))
        assert done.commits == len(lost - self.gone)
        self.gone |= lost
        self.collected |= self.forgotten
        assert_tidy(self.repository)

    @rule()
    def reopen(self) -> None:
        """A fresh opening sees the same vault."""
        self.repository = open_repository(self.root)

    @rule()
    def check(self) -> None:
        """Everything is readable."""
        live = set(self.expected) - self.gone
        assert_restores(self.repository, {at: self.expected[at] for at in live - self.forgotten})
        assert check(self.repository, quick=True).commits == len(live)

    @invariant()
    def refs_are_where_they_should_be(self) -> None:
        """Names point where the model says, and the history is whole."""
        if not hasattr(self, "root"):
            return
        with self.repository.store.read() as txn:
            assert refs.list_refs(txn, refs.BRANCHES) == self.branches
            assert refs.list_refs(txn, refs.TAGS) == self.tags
            assert refs.head_commit(txn) == self.head
            for commit_id, commit in history.walk(txn, [self.head] if self.head else []):
                assert commit.parents == ((self.parents[commit_id],) if self.parents[commit_id] else ())
        assert set(all_commits(self.repository)) <= set(self.expected)


TestVault = VaultMachine.TestCase
TestVault.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)


@pytest.mark.slow
class TestVaultAtLength(VaultMachine.TestCase):  # type: ignore[misc,valid-type]
    """The same, for longer."""

    settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
