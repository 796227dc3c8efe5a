"""Which commits keep their bytes. Light: records are read and rewritten, no chunk is touched.

Forgetting marks the payload of a commit, part by part; the commit itself stays, with what was said and measured. The
bytes are there until a gc takes those that no other commit keeps, and until then the mark can be taken off again. Each
change writes one reflog entry that moves nothing, so that whoever read the payloads before can see that they changed.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import NamedTuple

from modelvault import wire
from modelvault.errors import CorruptError, ForgottenError, UsageError
from modelvault.ids import CommitId, FileId
from modelvault.objects.commit import Commit, FileEntry
from modelvault.objects.payload import Payload
from modelvault.objects.recipe import PARTS, Recipe
from modelvault.objects.tensor import TensorRecord
from modelvault.repository import history, refs, surplus
from modelvault.repository.config import Config
from modelvault.repository.surplus import Note
from modelvault.store.base import ReadTransaction, WriteTransaction

ALL_PARTS = frozenset(range(len(PARTS)))


class Policy(NamedTuple):
    """What to keep on each branch; what any of these keeps stays.

    Attributes:
        last: the newest commits, this many.
        every: the first commit of the branch and every so many-th after it; 0: none for that reason.
        best: (how many, of which metric), each.
        tags: nothing more than what is tagged. Tagged commits and tips stay in any case.
    """

    last: int = 0
    every: int = 0
    best: tuple[tuple[int, str], ...] = ()
    tags: bool = False

    @property
    def says_nothing(self) -> bool:
        """Whether no rule was given at all."""
        return self == Policy()


class Choice(NamedTuple):
    """One commit and what becomes of it.

    Attributes:
        commit_id: its id.
        commit: what it says.
        parts: codes of the parts to forget or to bring back, empty if it stays as it is.
        reasons: why it stays, empty if it does not.
    """

    commit_id: CommitId
    commit: Commit
    parts: frozenset[int] = frozenset()
    reasons: tuple[str, ...] = ()


def part_codes(names: Iterable[str]) -> frozenset[int]:
    """Return the codes of the parts named, of all if none is.

    Raises:
        UsageError: there is no such part.
    """
    named = list(names)
    for name in named:
        if name not in PARTS:
            raise UsageError(f"there is no part {name!a}", hint=f"one of {', '.join(PARTS)}")
    return frozenset(map(PARTS.index, named)) or ALL_PARTS


def choose(
    txn: ReadTransaction, policy: Policy, parts: Set[int], config: Config, *, every_branch: bool = False
) -> list[Choice]:
    """Return what a policy makes of each commit of the current branch, or of every branch, newest first.

    Commits that have nothing left to forget are left out.

    Raises:
        UsageError: no commit that is still kept has a number for a metric that the policy names.
    """
    branches = refs.list_refs(txn, refs.BRANCHES)
    if not every_branch:
        current = refs.read_head(txn).branch
        branches = {name: tip for name, tip in branches.items() if name == current}
    reasons = always_kept(txn)
    commits: dict[CommitId, Commit] = {}
    still_kept: dict[CommitId, bool] = {}
    unknown = {metric for _, metric in policy.best}
    for tip in branches.values():
        line = list(history.topological(txn, [tip]))  # newest first
        for commit_id, commit in line:
            if commit_id not in commits:
                commits[commit_id] = commit
                still_kept[commit_id] = not _forgotten_parts(history.read_payload(txn, commit_id)) >= parts
        for commit_id, reason in _kept(line, still_kept, policy, config):
            known = reasons.setdefault(commit_id, [])
            if reason not in known:
                known.append(reason)
        unknown -= {
            metric
            for commit_id, commit in line
            if still_kept[commit_id]
            for metric, value in commit.metrics.items()
            if not math.isnan(value)
        }
    if unknown and any(still_kept.values()):
        # Left alone, a typing mistake would keep nothing.
        metrics = sorted({metric for commit in commits.values() for metric in commit.metrics})
        raise UsageError(
            f"no commit that is kept has a metric {min(unknown)!a}",
            hint=f"there are {', '.join(metrics)}" if metrics else "commit with --metric NAME=VALUE",
        )
    found = []
    for commit_id, commit in sorted(commits.items(), key=lambda item: -item[1].time_ms):
        if not still_kept[commit_id]:
            continue
        if commit_id in reasons:
            found.append(Choice(commit_id, commit, reasons=tuple(reasons[commit_id])))
        else:
            found.append(_forget_choice(txn, commit_id, commit, parts))
    return found


def choose_named(txn: ReadTransaction, named: Iterable[CommitId], parts: Set[int]) -> list[Choice]:
    """Return what becomes of commits that are to be forgotten by name, tips and tagged ones included."""
    return [
        _forget_choice(txn, commit_id, history.read_commit(txn, commit_id), parts) for commit_id in dict.fromkeys(named)
    ]


def choose_to_bring_back(txn: ReadTransaction, named: Sequence[CommitId]) -> list[Choice]:
    """Return which of these commits, or of all forgotten ones, can be brought back; `reasons` says why one cannot."""
    if not named:
        named = [CommitId(key) for key, value in txn.scan("payloads") if _is_forgotten(value, CommitId(key))]
    found = []
    for commit_id in dict.fromkeys(named):
        commit = history.read_commit(txn, commit_id)
        parts = _forgotten_parts(history.read_payload(txn, commit_id))
        files = history.kept_files(txn, commit_id, commit)
        lost = [entry.path for entry in files if not is_held(txn, entry.file_id)]
        if lost and parts:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            found.append(Choice(commit_id, commit, reasons=(f"the bytes of {lost[0]}{more} are gone",)))
        elif parts:
            found.append(Choice(commit_id, commit, parts))
        else:
            found.append(Choice(commit_id, commit, reasons=("it is not forgotten",)))
    return sorted(found, key=lambda choice: -choice.commit.time_ms)


def forget(txn: WriteTransaction, choices: Sequence[Choice]) -> None:
    """Mark the parts of each choice as forgotten from now on."""
    now = time.time_ns() // 1_000_000
    surplus.note_forgotten(txn, now, Note(len(choices), sum(_frees(txn, choice) for choice in choices)))
    _mark(txn, choices, now)
    if choices:
        refs.move(txn, f"forget {_count(choices)}", [], time_ms=now)


def bring_back(txn: WriteTransaction, choices: Sequence[Choice]) -> None:
    """Take the marks off the parts of each choice."""
    moments = Counter[int]()
    for commit_id, _, parts, _ in choices:
        forgotten = history.read_payload(txn, commit_id).forgotten
        moments.update({forgotten[part] for part in parts})
    surplus.note_kept_again(txn, moments)
    _mark(txn, choices, 0)
    if choices:
        refs.move(txn, f"forget --undo {_count(choices)}", [])


def _mark(txn: WriteTransaction, choices: Sequence[Choice], moment: int) -> None:
    for commit_id, _, parts, _ in choices:
        payload = history.read_payload(txn, commit_id)
        weights, optimizer, other = (
            # What is forgotten already keeps its time: gc goes by it.
            (before if moment and before else moment) if part in parts else before
            for part, before in enumerate(payload.forgotten)
        )
        marked = payload._replace(forgotten=(weights, optimizer, other))
        txn.put("payloads", commit_id, marked.to_bytes(commit_id))


def _frees(txn: ReadTransaction, choice: Choice) -> int:
    """Return about how many bytes forgetting these parts frees, at most."""
    payload = history.read_payload(txn, choice.commit_id)
    if choice.parts == ALL_PARTS:
        return payload.added_bytes
    found = 0
    for entry in history.stood_in(choice.commit, payload):
        with contextlib.suppress(CorruptError):  # fsck's to report
            recipe = Recipe.from_bytes(txn.get("recipes", entry.file_id) or b"", entry.file_id)
            for number, part in zip(recipe.tensors, recipe.parts, strict=True):
                if part in choice.parts:
                    found += TensorRecord.from_bytes(txn.get("tensors", wire.sortable(number)) or b"").stored_bytes
    return min(found, payload.added_bytes)


def _count(choices: Sequence[Choice]) -> str:
    return f"{len(choices)} commit{'s' if len(choices) != 1 else ''}"


def check_kept(txn: ReadTransaction, commit_id: CommitId, entries: Iterable[FileEntry]) -> None:
    """Refuse files of a commit that need what it has forgotten.

    Raises:
        ForgottenError: the commit is forgotten, or a part that one of these files has.
    """
    try:
        payload = history.read_payload(txn, commit_id)
    except CorruptError:
        return  # fsck's to report; bytes are checked as they are restored, whatever this record said
    forgotten = _forgotten_parts(payload)
    if not forgotten:
        return
    short = history.shorten(txn, commit_id)
    hint = f"modelvault forget --undo {short}"
    if forgotten == ALL_PARTS:
        raise ForgottenError(f"{short} was forgotten on {_date(max(payload.forgotten))}", hint=hint)
    for entry in entries:
        lost = forgotten & _parts_of(txn, entry)
        if lost:
            names = " and ".join(PARTS[part] for part in sorted(lost))
            when = _date(max(payload.forgotten[part] for part in lost))
            raise ForgottenError(
                f"{entry.path} of {short} cannot be rebuilt: its {names} part was forgotten on {when}", hint=hint
            )


def check_described(txn: ReadTransaction, commit_id: CommitId, entries: Iterable[FileEntry]) -> None:
    """Refuse files of a commit that not even a recipe tells about any more.

    Raises:
        ForgottenError: the commit was forgotten and a gc took a file's recipe.
    """
    payload = history.read_payload(txn, commit_id)
    if all(payload.forgotten) and any(txn.get("recipes", entry.file_id) is None for entry in entries):
        short = history.shorten(txn, commit_id)
        raise ForgottenError(f"{short} was forgotten on {_date(max(payload.forgotten))}, and its bytes are gone")


def is_held(txn: ReadTransaction, file_id: FileId) -> bool:
    """Return whether the vault has all bytes of a file: a recipe, and no part of that was given up.

    Raises:
        CorruptError: the recipe is damaged.
    """
    data = txn.get("recipes", file_id)
    return data is not None and Recipe.from_bytes(data, file_id).is_whole


def _date(time_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(time_ms // 1000))


def _is_forgotten(value: bytes, commit_id: CommitId) -> bool:
    try:
        return any(Payload.from_bytes(value, commit_id).forgotten)
    except CorruptError:
        return False  # fsck's to report


def _forgotten_parts(payload: Payload) -> frozenset[int]:
    return frozenset(part for part, moment in enumerate(payload.forgotten) if moment)


def _parts_of(txn: ReadTransaction, entry: FileEntry) -> frozenset[int]:
    """Return the parts that a file has; all of them where its recipe does not tell."""
    data = txn.get("recipes", entry.file_id)
    if data is None:
        return ALL_PARTS
    try:
        return frozenset(Recipe.from_bytes(data, entry.file_id).parts)
    except CorruptError:
        return ALL_PARTS


def _forget_choice(txn: ReadTransaction, commit_id: CommitId, commit: Commit, parts: Set[int]) -> Choice:
    """Return what is left to forget of a commit.

    A part that none of its files has is not marked: that would refuse a checkout for nothing.
    """
    wanted = frozenset(parts)
    if wanted != ALL_PARTS:
        files = history.kept_files(txn, commit_id, commit)
        wanted &= frozenset[int]().union(*(_parts_of(txn, entry) for entry in files))
    if not wanted:
        names = " or ".join(PARTS[part] for part in sorted(parts))
        return Choice(commit_id, commit, reasons=(f"it has no {names} part",))
    wanted -= _forgotten_parts(history.read_payload(txn, commit_id))
    return Choice(commit_id, commit, wanted, () if wanted else ("it is forgotten already",))


def always_kept(txn: ReadTransaction) -> dict[CommitId, list[str]]:
    """Return the commits that no policy touches, with the reasons."""
    found: dict[CommitId, list[str]] = {}
    head = refs.read_head(txn)
    if head.detached is not None:
        found.setdefault(head.detached, []).append("HEAD")
    for prefix, what in ((refs.BRANCHES, "tip of"), (refs.TAGS, "tag")):
        for name, target in refs.list_refs(txn, prefix).items():
            found.setdefault(target, []).append(f"{what} {name}")
    return found


def _kept(
    line: Sequence[tuple[CommitId, Commit]], still_kept: dict[CommitId, bool], policy: Policy, config: Config
) -> Iterator[tuple[CommitId, str]]:
    """Yield (commit, why it stays) of one branch, given newest first.

    What is forgotten already takes no place among the last or the best, but counts for every N-th: there the places
    must stay what they are when the branch grows or the same line is run again.
    """
    kept = [(commit_id, commit) for commit_id, commit in line if still_kept[commit_id]]
    for commit_id, _ in kept[: policy.last]:
        yield commit_id, f"last {policy.last}"
    if policy.every:
        for place, (commit_id, _) in enumerate(reversed(line)):
            if place % policy.every == 0:
                yield commit_id, f"every {policy.every}"
    for count, metric in policy.best:
        sign = -1 if config.direction(metric) == "max" else 1
        measured = [
            (sign * commit.metrics[metric], place, commit_id)
            for place, (commit_id, commit) in enumerate(kept)
            if not math.isnan(commit.metrics.get(metric, math.nan))
        ]
        for _, _, commit_id in sorted(measured)[:count]:  # of equals the newest
            yield commit_id, f"best {metric}" if count == 1 else f"best {count} {metric}"
