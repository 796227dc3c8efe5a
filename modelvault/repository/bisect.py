"""The first bad commit between a good one and a bad one, found by halving.

Some test says of a commit that it is good or bad: a command or a function that gets its files, or a bound on one of its
metrics. Of n commits about log2(n) are tested. Where history branches, the one that halves best is next: every commit
that a bad one does not descend from is out, and so is everything that a good one descends from. Files are restored one
commit at a time through one reader, which keeps what they have in common.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from modelvault.errors import InputError, UsageError
from modelvault.ids import CommitId
from modelvault.objects.commit import Commit
from modelvault.repository import history, retention
from modelvault.repository.checkout import restore, select
from modelvault.repository.chunks import SHARED_BYTES, ChunkReader
from modelvault.repository.repository import Repository
from modelvault.repository.selection import Condition
from modelvault.repository.worktree import Publisher

Verdict = Literal["good", "bad", "skipped"]
Judge = Callable[[CommitId, Commit], Verdict]
Told = Callable[[CommitId, Commit, Verdict], None]

_SKIP = 125
_WORST = 127
"""Exit codes, as `git bisect run` reads them: 0 is good, 125 cannot tell, up to 127 is bad, and what is above (a signal
among it) is a test that broke."""

_STDERR = 2


class Bisected(NamedTuple):
    """What a search found.

    Attributes:
        first_bad: the first bad commit; None if commits were skipped that may be it as well.
        suspects: every commit that may be the first bad one, oldest first.
        tested: what was tested, in that order.
    """

    first_bad: CommitId | None
    suspects: tuple[CommitId, ...]
    tested: tuple[tuple[CommitId, Verdict], ...]


class Bisection:
    """What may still be the first bad commit.

    Args:
        parents: of each suspect, its parents among them; parents come before children.
        bad: a suspect that is bad, and that all others lead to.
    """

    def __init__(self, parents: Mapping[CommitId, Sequence[CommitId]], bad: CommitId) -> None:
        self._parents, self._bad = dict(parents), bad
        self._skipped: set[CommitId] = set()

    @property
    def suspects(self) -> tuple[CommitId, ...]:
        """Every commit that may be the first bad one, oldest first."""
        return tuple(self._parents)

    def next(self) -> CommitId | None:
        """Return the commit whose verdict leaves least whatever it is, None where nothing is left to ask."""
        ages = self._ages()
        left = [one for one in ages if one != self._bad and one not in self._skipped]
        return max(left, key=lambda one: min(ages[one], len(ages) - ages[one]), default=None)

    def tell(self, commit_id: CommitId, verdict: Verdict) -> None:
        """Narrow what is left."""
        if verdict == "skipped":
            self._skipped.add(commit_id)
            return
        older = self._with_ancestors(commit_id)
        if verdict == "bad":
            self._bad = commit_id
        self._parents = {
            one: [parent for parent in parents if (parent in older) == (verdict == "bad")]
            for one, parents in self._parents.items()
            if (one in older) == (verdict == "bad")
        }

    def _with_ancestors(self, commit_id: CommitId) -> set[CommitId]:
        found, todo = {commit_id}, [commit_id]
        while todo:
            more = [parent for parent in self._parents[todo.pop()] if parent not in found]
            found.update(more)
            todo += more
        return found

    def _ages(self) -> dict[CommitId, int]:
        """Return how many suspects each suspect descends from, itself among them."""
        ages: dict[CommitId, int] = {}
        for one, parents in self._parents.items():
            ages[one] = len(self._with_ancestors(one)) if len(parents) > 1 else 1 + sum(ages[p] for p in parents)
        return ages


def bisect(repository: Repository, good: CommitId, bad: CommitId, judge: Judge, told: Told | None = None) -> Bisected:
    """Find the first bad commit.

    Where all verdicts were alike, the end that they speak against is tested as well: a command that is spelt wrongly
    finds every commit bad.

    Args:
        repository: the vault.
        good: a commit that is good.
        bad: one that is bad and descends from it.
        judge: tests a commit.
        told: hears every verdict.

    Raises:
        UsageError: `bad` does not descend from `good`.
        InputError: an end is not what it was said to be, or the judge could not do its work.
    """
    with repository.store.read() as txn:
        older = history.ancestors(txn, good)
        commits = dict(reversed(list(history.topological(txn, [bad], older))))
        ends = {one: history.read_commit(txn, one) for one in (good, bad)}
        shorts = {one: history.shorten(txn, one) for one in (good, bad)}
        if bad in older or good not in history.ancestors(txn, bad):
            raise UsageError(
                f"{shorts[bad]} does not descend from {shorts[good]}",
                hint="the good one comes first: bisect GOOD BAD",
            )
    tested: list[tuple[CommitId, Verdict]] = []

    def ask(commit_id: CommitId) -> Verdict:
        commit = commits.get(commit_id) or ends[commit_id]
        verdict = judge(commit_id, commit)
        tested.append((commit_id, verdict))
        if told is not None:
            told(commit_id, commit, verdict)
        return verdict

    search = Bisection({one: [p for p in commit.parents if p in commits] for one, commit in commits.items()}, bad)
    while (commit_id := search.next()) is not None:
        search.tell(commit_id, ask(commit_id))
    said = {verdict for _, verdict in tested}
    for end, verdict, other in ((good, "good", "bad"), (bad, "bad", "good")):
        if verdict not in said and ask(end) == other:
            raise InputError(
                f"{shorts[end]} was said to be {verdict} and is {other}", hint="is the test the right one?"
            )
    suspects = search.suspects
    return Bisected(suspects[0] if len(suspects) == 1 else None, suspects, tuple(tested))


def by_metric(condition: Condition) -> Judge:
    """Return what tests a commit by a metric it has; one without it is skipped. Nothing is decoded."""

    def judge(_: CommitId, commit: Commit) -> Verdict:
        if condition.metric not in commit.metrics:
            return "skipped"
        return "good" if condition.holds(commit) else "bad"

    return judge


def by_files(repository: Repository, paths: tuple[str, ...], test: Callable[[Path], Verdict]) -> Judge:
    """Return what restores a commit's files below a temporary directory and tests them; without files it is skipped.

    Args:
        repository: the vault.
        paths: only these files; all of them if there are none.
        test: gets the file if there is one, else the directory of all.
    """
    reader = ChunkReader(repository.store, cache_bytes=SHARED_BYTES)

    def judge(commit_id: CommitId, commit: Commit) -> Verdict:
        with repository.store.read() as txn:
            try:
                entries = select(history.kept_files(txn, commit_id, commit), paths, history.shorten(txn, commit_id))
                retention.check_kept(txn, commit_id, entries)
            except InputError:
                return "skipped"  # it is forgotten, or has no such file
        with tempfile.TemporaryDirectory(prefix="modelvault-") as name, Publisher() as publisher:
            directory = Path(name)
            for entry in entries:
                pieces = restore(repository.store, entry, reader=reader)
                publisher.prepare_in_tree(directory, entry.path, pieces, entry.size, entry.executable)
            publisher.publish()
            return test(directory / entries[0].path if len(entries) == 1 else directory)

    return judge


def command(words: Sequence[str]) -> Callable[[Path], Verdict]:
    """Return a test that runs a command; `{}` in its words is the path, which comes last if none has it.

    What it prints goes to stderr. No shell reads it.
    """

    def test(path: Path) -> Verdict:
        line = list(_filled(words, str(path)))
        try:
            # Not with what the command line has set for libraries.
            done = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=_STDERR, check=False, env=os.environ)
        except OSError as error:
            raise InputError(f"cannot run {line[0]!a}: {error.strerror}") from None
        code = done.returncode
        if code in (0, _SKIP):
            return "skipped" if code else "good"
        if not 0 < code <= _WORST:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise InputError(f"{line[0]!a} ended with {how}", hint="0 is good, 125 cannot tell, up to 127 is bad")
        return "bad"

    return test


def _filled(words: Sequence[str], path: str) -> Iterator[str]:
    yield from (word.replace("{}", path) for word in words)
    if not any("{}" in word for word in words):
        yield path
