"""The Python interface: a vault as an object. Safe in threads; holds no lock between calls.

torch is imported only when a state goes in or comes out; numpy only when bytes are encoded or decoded.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, cast, runtime_checkable

from modelvault.errors import InputError, NoVaultError, UnsupportedError, UsageError
from modelvault.report import Report, make_report
from modelvault.repository import history, naming, refs, retention, revisions, undo
from modelvault.repository.gc import DEFAULT_GRACE, Collected, collect_garbage
from modelvault.repository.names import VAULT_DIRECTORY
from modelvault.repository.repository import DEFAULT_LOCK_TIMEOUT, Repository, init_repository, repository_at

if TYPE_CHECKING:
    from modelvault.ids import CommitId
    from modelvault.objects.commit import Commit
    from modelvault.objects.payload import Payload
    from modelvault.repository.bundle import Bundled
    from modelvault.repository.config import BoundName
    from modelvault.repository.diff import FileDiff, TensorDiff
    from modelvault.repository.lossy import LossyRequest
    from modelvault.repository.unbundle import Unbundled
    from modelvault.store.base import ReadTransaction, WriteTransaction

StrPath: TypeAlias = "str | os.PathLike[str]"

STATE_FILE = "state.pt"
"""The path under which a state that was handed over in memory is recorded."""


@runtime_checkable
class HasStateDict(Protocol):
    """A model, an optimizer, a scheduler: anything whose state can be asked for."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return its state."""


class CommitInfo(NamedTuple):
    """One commit, as `Vault.commit` and `Vault.log` give it.

    Attributes:
        id: its full id in hexadecimal.
        short: the shortest prefix of it that is unique now.
        parents: full ids of its parents.
        message: what was said; the first line is the subject.
        author: who made it.
        time: seconds since the epoch.
        step: the training step, or None.
        metrics: measured values.
        meta: free text.
        files: (path, size in bytes, SHA-256 in hexadecimal) of each file.
        mode: "lossless", or "lossy" with the kind of bound and its eps: "lossy abs 0.001".
        raw_bytes: sizes of its files added up.
        added_bytes: what it added to the vault.
        depth: the deepest chain among its tensors.
    """

    id: str
    short: str
    parents: tuple[str, ...]
    message: str
    author: str
    time: float
    step: int | None
    metrics: Mapping[str, float]
    meta: Mapping[str, str]
    files: tuple[tuple[str, int, str], ...]
    mode: str
    raw_bytes: int
    added_bytes: int
    depth: int

    @property
    def subject(self) -> str:
        """First line of the message."""
        return self.message.split("\n", 1)[0]


class Forgetting(NamedTuple):
    """What `Vault.forget` did, or would do.

    Attributes:
        kept: commits that stay as they are, newest first, each with the reasons.
        forgotten: commits that go without their bytes, or without the parts asked for, newest first.
    """

    kept: tuple[tuple[CommitInfo, tuple[str, ...]], ...]
    forgotten: tuple[CommitInfo, ...]


class LossyRepack(NamedTuple):
    """What `Vault.repack_lossy` did, or would do.

    Attributes:
        commits: those that became lossy, oldest first.
        kept: those that stay as they are, oldest first, each with the reason.
        before: bytes of the frames that the vault needed before.
        after: bytes of those it needs once a gc has taken the exact ones.
    """

    commits: tuple[CommitInfo, ...]
    kept: tuple[tuple[CommitInfo, str], ...]
    before: int
    after: int


class TensorChange(NamedTuple):
    """One tensor that differs between two commits, as `Vault.diff` gives it.

    Attributes:
        path: the file it is in.
        name: what the file calls it.
        state: added, removed, reshaped, retyped, changed or forgotten.
        dtypes: what its elements are before and after, None where it is not there.
        shapes: its dimensions before and after, None where it is not there.
        relative_l2: norm of the difference by that of the first; None where nothing was measured or is defined.
        cosine: cosine of the angle between both, or None.
        max_abs: largest absolute difference, or None.
        changed_share: share of elements whose bits changed, or None.
    """

    path: str
    name: str
    state: str
    dtypes: tuple[str | None, str | None]
    shapes: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    relative_l2: float | None
    cosine: float | None
    max_abs: float | None
    changed_share: float | None


class Bisected(NamedTuple):
    """What `Vault.bisect` found.

    Attributes:
        first_bad: the first bad commit; None if commits were skipped that may be it as well.
        suspects: every commit that may be the first bad one, oldest first.
        tested: (commit, "good", "bad" or "skipped") of each that was tested, in that order.
    """

    first_bad: CommitInfo | None
    suspects: tuple[CommitInfo, ...]
    tested: tuple[tuple[CommitInfo, str], ...]


class Match(NamedTuple):
    """Where a file is from, as `Vault.identify` gives it.

    Attributes:
        how: exact, tensors (the same ones in another container) or nearest.
        commits: the commits that have it and under which path, newest first.
        relative_l2: how far away the nearest is, or None.
    """

    how: str
    commits: tuple[tuple[CommitInfo, str], ...]
    relative_l2: float | None


class TensorInfo(NamedTuple):
    """One tensor of a commit, as `Vault.ls` gives it.

    Attributes:
        path: the file it is in.
        name: what the file calls it.
        dtype: what its elements are, such as "F32".
        shape: its dimensions.
        nbytes: its length.
        part: weights, optimizer or other.
        forgotten: whether its bytes were given up.
    """

    path: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    part: str
    forgotten: bool


class Damage(NamedTuple):
    """One finding of `Vault.fsck`: what is damaged, why, and the full ids of the commits it hurts."""

    what: str
    why: str
    commits: tuple[str, ...]


def open(path: StrPath, *, create: bool = False, lock_timeout: float = DEFAULT_LOCK_TIMEOUT) -> Vault:
    """Open the vault in a directory.

    Args:
        path: the directory that holds `.modelvault`, or `.modelvault` itself.
        create: make the vault (and the directory) if it is not there.
        lock_timeout: seconds to wait for another writer.

    Raises:
        NoVaultError: there is none, and `create` is not set.
    """
    root = Path(path)
    if root.name == VAULT_DIRECTORY:
        root = root.parent
    directory = root / VAULT_DIRECTORY
    if directory.is_dir():
        repository = repository_at(directory)
    elif create:
        repository = init_repository(root)
    else:
        raise NoVaultError(f"there is no vault in {root}", hint="modelvault.open(..., create=True) makes one")
    repository.lock_timeout = lock_timeout
    return Vault(repository)


def apply_bundle(path: StrPath, base: StrPath, output: StrPath, *, force: bool = False) -> str:
    """Write the files of a bundle's last commit, built on files on disk; return the commit's id. No vault is needed.

    Args:
        path: the bundle.
        base: the file that it builds on, or a directory with all of them.
        output: where to write: a file, or a directory if there are several.
        force: overwrite what is there.

    Raises:
        InputError: the base is not what the bundle builds on.
        CorruptError: the bundle is damaged. In any case, nothing was written.
    """
    from modelvault.repository.unbundle import build

    return build(Path(path), Path(base), Path(output), force=force).commit_id.hex()


class Vault:
    """A vault, opened."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def __repr__(self) -> str:
        return f"Vault({str(self.root)!r})"

    @property
    def root(self) -> Path:
        """The directory that recorded paths are relative to."""
        return self._repository.root

    def commit(
        self,
        path_or_state: StrPath | list[StrPath] | Mapping[str, Any] | HasStateDict,
        *,
        message: str,
        tag: str | None = None,
        step: int | None = None,
        metrics: Mapping[str, float] | None = None,
        meta: Mapping[str, str] | None = None,
        lossy: float | None = None,
        bound: BoundName | None = None,
        vectors: float | None = None,
        optimizer: float | None = None,
        evaluate: Callable[[Path], float] | None = None,
        max_drop: float | None = None,
        alpha: float = 0.5,
        bounds: Sequence[float] | None = None,
        model: Any = None,
        samples: Iterable[Any] | None = None,
        exact: bool = False,
    ) -> CommitInfo:
        """Commit files, or a state held in memory.

        Args:
            path_or_state: a path, several, or a state: a mapping, or an object with `state_dict()`. Values of the
                mapping that have a `state_dict()` are asked for it. A state is written as `torch.save` writes it and
                recorded as `state.pt`.
            message: what to say about it; its first line names the commit.
            tag: a tag to put on it.
            step: the training step.
            metrics: measured values.
            meta: free text.
            lossy: round weights within this bound. With neither this nor `evaluate`, what config.yaml says.
            bound: what it is measured by: "abs" (the default), at most log(1 + lossy) for every number; "rel", at most
                that share of its magnitude; "paper", as "abs", by the paper's own formula.
            vectors: round one-dimensional tensors too, within this share of their magnitude; 0 keeps them exactly.
            optimizer: round optimizer state too, within this share of each number's own unit; 0 keeps it exactly.
            evaluate: gives a number for the path of a file, higher is better. Without `lossy` a bound is searched for,
                the one with the best score of those that lose no more than `max_drop`.
            max_drop: what share of the original's number may be lost: 0.002 is 0.2 %. Needed with `evaluate` and with
                `samples`.
            alpha: the weight of the ratio against that number in the score, 0 to 1.
            bounds: what is tried; from 0.0001 to 0.1, four a decade, if left out.
            model: the torch module that has the weights now; may be left out where it is what is committed.
            samples: batches of its inputs, without labels. Within `lossy` and `vectors`, which may be generous then,
                numbers are chosen that take few bytes and with which exp(-KL) of the model's outputs for these inputs,
                1 for the original's, is at least 1 - `max_drop`. Weights that the model does not have stay exact.
            exact: keep every bit, whatever config.yaml says.

        Raises:
            ModelVaultError: whatever is wrong; nothing was committed.
        """
        from modelvault.repository.commit import Request, make_commit

        wish = None
        if not exact:
            wish = self._lossy(lossy, bound, vectors, optimizer, evaluate, max_drop, alpha, bounds)
            if samples is not None:
                wish = self._calibrated(wish, path_or_state, model, samples, max_drop)
        elif lossy is not None or evaluate is not None or samples is not None:
            raise UsageError("exact and rounding exclude each other")
        numbers = {name: float(value) for name, value in (metrics or {}).items()}
        texts = {name: str(value) for name, value in (meta or {}).items()}

        def commit(paths: list[Path]) -> CommitInfo:
            done = make_commit(self._repository, Request(paths, message, tag, step, numbers, texts, wish))
            with self._repository.store.read() as txn:
                return _info(txn, done.commit_id, done.commit, done.payload)

        if isinstance(path_or_state, (str, os.PathLike)):
            return commit([Path(path_or_state)])
        if isinstance(path_or_state, list):
            return commit([Path(path) for path in path_or_state])
        torch = _torch("commit a state")
        with tempfile.TemporaryDirectory(prefix="modelvault-") as directory:
            # In a directory of its own, so that the archive's name inside is always the same.
            file = Path(directory, STATE_FILE)
            torch.save(_state_of(path_or_state), file)
            return commit([file])

    def _lossy(
        self,
        eps: float | None,
        bound: BoundName | None,
        vectors: float | None,
        optimizer: float | None,
        evaluate: Callable[[Path], float] | None,
        max_drop: float | None,
        alpha: float,
        bounds: Sequence[float] | None,
    ) -> LossyRequest | None:
        from modelvault.repository.bound_search import DEFAULT_RANGE, bounds_between
        from modelvault.repository.evaluator import checked
        from modelvault.repository.lossy import Evaluation, Said, lossy_request

        evaluation = None
        if evaluate is not None:
            if max_drop is None:
                raise UsageError("evaluate needs to know how much may be lost", hint="max_drop=0.002 for 0.2 %")
            name = getattr(evaluate, "__qualname__", type(evaluate).__qualname__)
            tried = tuple(bounds) if bounds is not None else bounds_between(*DEFAULT_RANGE)
            evaluation = Evaluation(checked(evaluate, name), name, max_drop, alpha, tried)
        return lossy_request(self._repository.config.lossy, Said(eps, bound, vectors, optimizer, evaluation))

    def _calibrated(
        self, wish: LossyRequest | None, committed: Any, model: Any, samples: Iterable[Any], max_drop: float | None
    ) -> LossyRequest:
        import dataclasses

        from modelvault.repository.stand_in import Bound

        if wish is None or wish.eps is None or wish.evaluation is not None:
            raise UsageError("samples need a bound that is given", hint="lossy=0.1, vectors=0.25")
        if max_drop is None:
            raise UsageError("samples need to know how much may be lost", hint="max_drop=0.001 for 0.1 %")
        wish.check()
        if wish.bound is not Bound.ABS:
            raise UsageError("samples choose steps, which are absolute", hint='bound="abs"')
        _torch("look at a model")
        from modelvault.calibration import propose
        from modelvault.repository.proposal import weights_of_head

        module, before = committed if model is None else model, weights_of_head(self._repository)
        found = propose(module, samples, wish.rounding(wish.eps), before, max_drop)
        return dataclasses.replace(wish, proposal=found)

    def load(self, revision: str = "HEAD", *, path: str | None = None, map_location: Any = "cpu") -> Any:
        """Return what `torch.load(weights_only=True)` gives for a committed file.

        Args:
            revision: which commit.
            path: which of its files; may be left out if it has one.
            map_location: as `torch.load` takes it.

        Raises:
            ForgottenError: the commit, or a part that the file has, was forgotten.
            InputError: torch refuses the file: it holds more than tensors and plain containers. `checkout` still
                gives its bytes.
        """
        import pickle

        torch = _torch("load a state")
        with tempfile.TemporaryDirectory(prefix="modelvault-") as directory:
            target = Path(directory, "state")
            self._restore(revision, target, path)
            try:
                return torch.load(target, map_location=map_location, weights_only=True)
            except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
                reason = str(error).strip().split("\n", 1)[0]
                raise InputError(
                    f"torch cannot load {revision} with weights_only=True: {reason}",
                    hint="vault.checkout(revision, path) writes the file as it is",
                ) from None

    def checkout(
        self,
        revision: str = "HEAD",
        output: StrPath | None = None,
        *,
        path: str | None = None,
        force: bool = False,
    ) -> None:
        """Write a commit's files to disk.

        Args:
            revision: which commit.
            output: where to write the file, or a directory for several; without it, files go to their recorded paths
                below the root and HEAD moves.
            path: only this file of the commit.
            force: overwrite files whose bytes no commit holds.

        Raises:
            WouldLoseDataError: a target holds bytes that no commit holds.
        """
        if output is not None:
            self._restore(revision, Path(output), path, force=force)
            return
        from modelvault.repository.checkout import checkout

        checkout(self._repository, self._resolve(revision), (path,) if path else (), force=force)

    def checkout_many(self, *named: str, into: StrPath, force: bool = False) -> dict[str, Path]:
        """Write the files of several commits, each commit's into a directory of its own that has its short id.

        What one decodes is kept for the next, so that neighbours take little more than one of them. HEAD stays.

        Args:
            named: these commits, and ranges `A..B`.
            into: the directory of these directories; made if it is not there.
            force: overwrite files whose bytes no commit holds.

        Returns:
            The directory of each commit by its full id, oldest first.

        Raises:
            WouldLoseDataError: a target holds bytes that no commit holds. Nothing was written.
        """
        from modelvault.repository.abreast import checkout_many

        with self._repository.store.read() as txn:
            wanted = revisions.resolve_each(txn, named, self._repository.config)
            places = {commit_id: Path(into, history.shorten(txn, commit_id)) for commit_id in wanted}
        done = checkout_many(self._repository, wanted, Path(into), force=force)
        return {one.commit_id.hex(): places[one.commit_id] for one in done}

    def log(self, revision: str = "HEAD") -> Iterator[CommitInfo]:
        """Yield commits, newest first, from a revision or a range `A..B`; nothing in an empty vault."""
        with self._repository.store.read() as txn:
            if revision == "HEAD" and refs.head_commit(txn) is None:
                found = []
            else:
                selected = revisions.resolve_range(txn, revision, self._repository.config)
                exclude = history.ancestors(txn, selected.exclude) if selected.exclude else set()
                found = [
                    _info(txn, commit_id, commit, history.read_payload(txn, commit_id))
                    for commit_id, commit in history.walk(txn, [selected.include], exclude)
                ]
        yield from found

    def branches(self) -> dict[str, str]:
        """Return where every branch is, as a full id by its name."""
        return self._refs(refs.BRANCHES)

    def tags(self) -> dict[str, str]:
        """Return where every tag is, as a full id by its name."""
        return self._refs(refs.TAGS)

    def branch(self, name: str, revision: str = "HEAD", *, force: bool = False, delete: bool = False) -> None:
        """Make a branch, or move it with `force`, or delete it; HEAD stays (see `switch`).

        Args:
            name: the branch.
            revision: where it is to point.
            force: move it if it exists; delete it even if nothing else leads to its commits.
            delete: delete it.
        """
        self._name("branch", name, revision, force=force, delete=delete)

    def tag(self, name: str, revision: str = "HEAD", *, force: bool = False, delete: bool = False) -> None:
        """Make a tag, or move it with `force`, or delete it."""
        self._name("tag", name, revision, force=force, delete=delete)

    def switch(self, name: str, *, create: bool = False) -> None:
        """Move HEAD to a branch, which is made first with `create`; the next commit goes there. Files stay."""
        naming.switch(self._repository, name, create=create)

    def undo(self) -> str:
        """Take back the last operation that moved a branch, a tag or HEAD; return what that was.

        Raises:
            InputError: there is none.
        """
        return undo.undo(self._repository).entry.operation

    def ls(self, revision: str = "HEAD", *, path: str | None = None) -> list[TensorInfo]:
        """Return the tensors of a commit's files, in file order.

        Args:
            revision: which commit.
            path: only this file of it.
        """
        from modelvault.repository.checkout import select
        from modelvault.repository.inventory import read_inventory

        with self._repository.store.read() as txn:
            commit_id = revisions.resolve(txn, revision, self._repository.config).commit_id
            kept = history.kept_files(txn, commit_id, history.read_commit(txn, commit_id))
            entries = select(kept, (path,) if path else (), history.shorten(txn, commit_id))
            retention.check_described(txn, commit_id, entries)
            return [
                TensorInfo(
                    entry.path,
                    tensor.name,
                    tensor.dtype.name,
                    tensor.shape,
                    tensor.nbytes,
                    tensor.part,
                    tensor.is_forgotten,
                )
                for entry in entries
                for tensor in read_inventory(txn, entry).tensors
            ]

    def report(self) -> Report:
        """Say what the vault saves."""
        return make_report(self._repository)

    def diff(self, before: str, after: str = "HEAD", *, measure: bool = True) -> list[TensorChange]:
        """Return the tensors that differ between two commits; those that are the same are left out.

        Args:
            before: the first commit.
            after: the second.
            measure: decode what differs and say how far apart it is. Without, only names and states are looked at.

        Raises:
            ForgottenError: a gc took what is needed.
        """
        from modelvault.repository.diff import diff_files

        with self._repository.store.read() as txn:
            ids = [revisions.resolve(txn, revision, self._repository.config).commit_id for revision in (before, after)]
            files = [history.kept_files(txn, commit_id, history.read_commit(txn, commit_id)) for commit_id in ids]
            for commit_id, kept in zip(ids, files, strict=True):
                retention.check_described(txn, commit_id, kept)
        found = diff_files(self._repository, files[0], files[1], measure=measure)
        return [_change(file, tensor) for file in found for tensor in file.tensors]

    def bisect(
        self,
        good: str,
        bad: str = "HEAD",
        *,
        test: Callable[[Path], bool | None] | None = None,
        metric: str | None = None,
        path: str | None = None,
    ) -> Bisected:
        """Find the first bad commit between a good one and a bad one that descends from it.

        Args:
            good: a commit that is good.
            bad: one that is bad.
            test: says of a commit's file, or of the directory of its files, whether it is good; None where it cannot
                tell. About log2(n) commits are restored for it, one after the other, into a temporary directory.
            metric: in its place, what a good commit's metric keeps to: "val_acc>=0.9". Nothing is restored.
            path: only this file of each commit.

        Raises:
            InputError: an end is not what it was said to be.
        """
        from modelvault.repository import bisect
        from modelvault.repository.selection import Condition

        if (test is None) == (metric is None):
            raise UsageError("bisect takes either a test or a metric", hint='vault.bisect(a, b, metric="val_acc>=0.9")')

        def verdict(place: Path) -> bisect.Verdict:
            assert test is not None
            found = test(place)
            return "skipped" if found is None else "good" if found else "bad"

        if metric is not None:
            judge = bisect.by_metric(Condition.parse(metric))
        else:
            judge = bisect.by_files(self._repository, (path,) if path else (), verdict)
        ends = self._resolve(good).commit_id, self._resolve(bad).commit_id
        found = bisect.bisect(self._repository, *ends, judge)
        with self._repository.store.read() as txn:
            return Bisected(
                _read_info(txn, found.first_bad) if found.first_bad else None,
                tuple(_read_info(txn, one) for one in found.suspects),
                tuple((_read_info(txn, one), said) for one, said in found.tested),
            )

    def identify(self, path: StrPath, *, nearest: bool = False) -> Match | None:
        """Return which commits a file on disk is from, None if it is in none.

        Args:
            path: the file.
            nearest: failing that, find the stored file whose tensors are nearest.
        """
        from modelvault.repository.identify import identify

        found = identify(self._repository, Path(path), nearest=nearest)
        if found.match is None:
            return None
        with self._repository.store.read() as txn:
            commits = tuple((_read_info(txn, place.commit_id), place.path) for place in found.places)
        return Match(found.match, commits, found.distance.relative_l2 if found.distance else None)

    def forget(
        self,
        *named: str,
        keep_last: int = 0,
        keep_every: int = 0,
        keep_best: Mapping[str, int] | None = None,
        keep_tags: bool = False,
        parts: Iterable[str] = (),
        all_branches: bool = False,
        dry_run: bool = False,
    ) -> Forgetting:
        """Let commits go without their bytes; what they say and measured stays. The next gc takes the bytes.

        Args:
            named: these commits, tips and tagged ones too; or else rules, of which each keeps what it names:
            keep_last: the newest so many.
            keep_every: the branch's first and every so many-th after it.
            keep_best: metric -> how many that are best in it.
            keep_tags: nothing but tips and tagged commits, which rules never touch.
            parts: weights, optimizer, other: forget only these; all of them without.
            all_branches: rules go through every branch, not only the current one.
            dry_run: change nothing.

        Raises:
            UsageError: neither commits nor rules, or both; a part or metric that is not there.
        """
        policy = retention.Policy(
            keep_last, keep_every, tuple((count, name) for name, count in (keep_best or {}).items()), keep_tags
        )
        wanted = retention.part_codes(parts)
        if policy.says_nothing == (not named) or (named and all_branches):
            raise UsageError("forget takes either commits or rules", hint="vault.forget(keep_last=5)")
        config = self._repository.config

        def choose(txn: ReadTransaction) -> list[retention.Choice]:
            if not named:
                return retention.choose(txn, policy, wanted, config, every_branch=all_branches)
            return retention.choose_named(txn, [revisions.resolve(txn, r, config).commit_id for r in named], wanted)

        with self._repository.store.read() if dry_run else self._write() as txn:
            choices = choose(txn)
            if not dry_run:
                retention.forget(cast("WriteTransaction", txn), [choice for choice in choices if choice.parts])
            kept = tuple((_read_info(txn, choice.commit_id), choice.reasons) for choice in choices if not choice.parts)
            return Forgetting(kept, tuple(_read_info(txn, choice.commit_id) for choice in choices if choice.parts))

    def bring_back(self, *named: str) -> tuple[CommitInfo, ...]:
        """Take back what `forget` did, for these commits or for all that can be; return those that are kept again.

        Raises:
            InputError: a commit was named that is not forgotten, or whose bytes a gc took. Nothing was changed.
        """
        config = self._repository.config
        with self._write() as txn:
            ids = [revisions.resolve(txn, revision, config).commit_id for revision in named]
            choices = retention.choose_to_bring_back(txn, ids)
            for choice in choices if named else ():
                if not choice.parts:
                    short = history.shorten(txn, choice.commit_id)
                    raise InputError(f"cannot bring back {short}: {choice.reasons[0]}")
            able = [choice for choice in choices if choice.parts]
            retention.bring_back(txn, able)
            return tuple(_read_info(txn, choice.commit_id) for choice in able)

    def repack_lossy(
        self,
        *named: str,
        lossy: float,
        bound: BoundName | None = None,
        vectors: float | None = None,
        optimizer: float | None = None,
        dry_run: bool = False,
    ) -> LossyRepack:
        """Make commits lossy that are exact: their ids stay, their exact bytes go with the next gc.

        Args:
            named: these commits, and ranges `A..B`; none: the current branch, but for tips of branches, tagged commits
                and the one HEAD is on.
            lossy: the bound, as `commit` takes it.
            bound: what it is measured by.
            vectors: the bound of one-dimensional tensors; 0 keeps them exactly.
            optimizer: the bound of optimizer state; 0 keeps it exactly.
            dry_run: change nothing; say what would happen.
        """
        from modelvault.repository.lossy import Said, lossy_request
        from modelvault.repository.lossy_repack import choose, lossy_repack

        wish = lossy_request(self._repository.config.lossy, Said(lossy, bound, vectors, optimizer))
        assert wish is not None
        with self._repository.store.read() as txn:
            choices = choose(txn, named, self._repository.config)
        done = lossy_repack(self._repository, choices, wish, dry_run=dry_run)
        turned = {one.commit_id for one in done.turned if one.lossy is not None}
        with self._repository.store.read() as txn:
            return LossyRepack(
                tuple(_read_info(txn, choice.commit_id) for choice in choices if choice.commit_id in turned),
                tuple(
                    (_read_info(txn, choice.commit_id), choice.reason or "it has nothing to round")
                    for choice in choices
                    if choice.commit_id not in turned
                ),
                done.before,
                done.after,
            )

    def undo_lossy(self, *named: str) -> tuple[CommitInfo, ...]:
        """Make lossy commits exact again, these or all that can be, as long as no gc took their bytes; return them.

        Raises:
            InputError: a commit was named that is not lossy, or whose exact bytes are gone. Nothing was changed.
        """
        from modelvault.repository.lossy_repack import choose_to_undo, undo_lossy

        with self._write() as txn:
            choices = choose_to_undo(txn, named, self._repository.config)
            for choice in choices if named else ():
                if choice.reason:
                    short = history.shorten(txn, choice.commit_id)
                    raise InputError(f"cannot make {short} exact again: {choice.reason}")
            undo_lossy(txn, choices)
            return tuple(_read_info(txn, choice.commit_id) for choice in choices if not choice.reason)

    def bundle(self, revisions: str, output: StrPath, *, only_tip: bool = False, force: bool = False) -> Bundled:
        """Write commits into one file for somebody who has what came before.

        Args:
            revisions: `A..B`, for who has the files of A; or B, with all before it.
            output: the file to write.
            only_tip: send the bytes of B alone; of the commits between only what they say.
            force: overwrite a file that is there.
        """
        from modelvault.repository.bundle import make_bundle

        return make_bundle(self._repository, revisions, Path(output), only_tip=only_tip, force=force)

    def unbundle(self, path: StrPath, *, branch: str | None = None) -> Unbundled:
        """Bring the commits of a bundle into this vault.

        Args:
            path: the bundle.
            branch: the branch to put them on; the one that the bundle names, if left out.

        Raises:
            InputError: it builds on what is not here, or the branch has commits that it does not know.
            CorruptError: it is damaged. In any case, the vault has none of it.
        """
        from modelvault.repository.unbundle import unbundle

        return unbundle(self._repository, Path(path), branch=branch)

    def gc(self, *, grace: float = DEFAULT_GRACE, compact: bool = False, dry_run: bool = False) -> Collected:
        """Free what no branch, tag, young reflog entry or operation under way needs.

        Args:
            grace: seconds for which what was given up is kept; two weeks unless given.
            compact: copy the file without what is free, instead of leaving holes in it.
            dry_run: change nothing; say what would happen.
        """
        return collect_garbage(self._repository, grace=grace, compact=compact, dry_run=dry_run)

    def fsck(self, *, quick: bool = False) -> list[Damage]:
        """Prove every object readable; return what is damaged, nothing if all is good.

        Args:
            quick: check records only; decode no tensor.
        """
        from modelvault.repository.fsck import check

        problems = check(self._repository, quick=quick).problems
        return [Damage(what, why, tuple(commit_id.hex() for commit_id in hurt)) for what, why, hurt in problems]

    def _refs(self, prefix: str) -> dict[str, str]:
        with self._repository.store.read() as txn:
            return {name: target.hex() for name, target in refs.list_refs(txn, prefix).items()}

    def _name(self, what: naming.What, name: str, revision: str, *, force: bool, delete: bool) -> None:
        if delete:
            naming.delete(self._repository, what, name, force=force)
        else:
            naming.put(self._repository, what, name, revision, force=force)

    def _write(self) -> AbstractContextManager[WriteTransaction]:
        return self._repository.store.write(timeout=self._repository.lock_timeout)

    def _resolve(self, revision: str) -> revisions.Resolved:
        with self._repository.store.read() as txn:
            return revisions.resolve(txn, revision, self._repository.config)

    def _restore(self, revision: str, output: Path, path: str | None, *, force: bool = False) -> None:
        from modelvault.repository.checkout import checkout

        checkout(self._repository, self._resolve(revision), (path,) if path else (), output=output, force=force)


def _info(txn: ReadTransaction, commit_id: CommitId, commit: Commit, payload: Payload) -> CommitInfo:
    return CommitInfo(
        commit_id.hex(),
        history.shorten(txn, commit_id),
        tuple(parent.hex() for parent in commit.parents),
        commit.message,
        commit.author,
        commit.time_ms / 1000,
        commit.step,
        commit.metrics,
        commit.meta,
        tuple((entry.path, entry.size, entry.file_id.hex()) for entry in commit.files),
        payload.mode_name,
        commit.raw_bytes,
        payload.added_bytes,
        payload.depth,
    )


def _read_info(txn: ReadTransaction, commit_id: CommitId) -> CommitInfo:
    return _info(txn, commit_id, history.read_commit(txn, commit_id), history.read_payload(txn, commit_id))


def _change(file: FileDiff, tensor: TensorDiff) -> TensorChange:
    entry = file.after or file.before
    sums, before, after = tensor.sums, tensor.before, tensor.after
    return TensorChange(
        entry.path if entry else "",
        tensor.name,
        tensor.state,
        (before.dtype.name if before else None, after.dtype.name if after else None),
        (before.shape if before else None, after.shape if after else None),
        sums.relative_l2 if sums else None,
        sums.cosine if sums else None,
        sums.largest if sums and sums.measured else None,
        sums.changed_share if sums else None,
    )


def _state_of(value: Mapping[str, Any] | HasStateDict) -> Any:
    """Return what is to be saved: state dicts in place of the objects that have one."""
    if isinstance(value, Mapping):
        return {name: item.state_dict() if isinstance(item, HasStateDict) else item for name, item in value.items()}
    if isinstance(value, HasStateDict):
        return value.state_dict()
    raise UsageError(
        f"cannot commit a {type(value).__name__}",
        hint="give a path, a mapping, or an object with state_dict()",
    )


def _torch(purpose: str) -> Any:
    try:
        import torch
    except ImportError:
        raise UnsupportedError(
            f"torch is needed to {purpose}", hint="install it: pip install 'mvault[torch]'"
        ) from None
    return torch
