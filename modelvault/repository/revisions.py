"""From what the user typed to a commit.

Order of precedence: HEAD and @, branch, tag, remote/branch, latest, step:N, best:METRIC, id prefix (id:PREFIX forces
it), and the slug of a commit's subject. Any of them may be followed by ~n, ^n or (refs only) @{n}.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from modelvault.errors import AmbiguousRevisionError, ModelVaultError, UnknownRevisionError, UsageError
from modelvault.ids import CommitId
from modelvault.repository import history, refs
from modelvault.repository.config import Config
from modelvault.repository.names import slug
from modelvault.store.base import ReadTransaction

_SUFFIX = re.compile(r"(~\d*|\^\d*)$")
_AT = re.compile(r"@\{(\d+)\}$")
_HEX = re.compile(r"[0-9a-f]{4,64}")
_NUMBER_LIMIT = 10**9


class Resolved(NamedTuple):
    """A revision that was found.

    Attributes:
        commit_id: the commit.
        branch: the branch's short name if the revision was exactly that, else None.
        note: what was chosen among several ("best:loss is the lowest: 0.12 in 3f9a1c2b"), or None.
    """

    commit_id: CommitId
    branch: str | None = None
    note: str | None = None


class Range(NamedTuple):
    """What a range selects: commits reachable from `include` and not from `exclude`."""

    include: CommitId
    exclude: CommitId | None = None


def resolve(txn: ReadTransaction, text: str, config: Config) -> Resolved:
    """Return the commit that `text` names.

    Raises:
        UnknownRevisionError: none does.
        AmbiguousRevisionError: several do; they are listed.
    """
    match = _SUFFIX.search(text)
    # A slug, a tag or a branch can hold neither ~ nor ^, so the suffix always means ancestry.
    if match and match.start() > 0:
        resolved = resolve(txn, text[: match.start()], config)
        return _step_back(txn, resolved, match.group(), text)
    if match := _AT.search(text):
        return _past(txn, text, text[: match.start()], int(match.group(1)))
    for found in _named(txn, text, config):
        return found
    if text.startswith("id:") or _HEX.fullmatch(text):
        found_id = _by_id(txn, text)
        if found_id is not None:
            return Resolved(found_id)
    return Resolved(_by_slug(txn, text))


def resolve_range(txn: ReadTransaction, text: str, config: Config) -> Range:
    """Return what `A..B` (either may be left out, meaning HEAD) or a single revision selects."""
    if ".." not in text:
        return Range(resolve(txn, text, config).commit_id)
    first, last = text.split("..", 1)
    return Range(resolve(txn, last or "HEAD", config).commit_id, resolve(txn, first or "HEAD", config).commit_id)


def resolve_each(txn: ReadTransaction, texts: Iterable[str], config: Config) -> list[CommitId]:
    """Return the commits that revisions and ranges name, each once; those of a range newest first."""
    found: dict[CommitId, None] = {}
    for text in texts:
        if ".." not in text:
            found[resolve(txn, text, config).commit_id] = None
            continue
        span = resolve_range(txn, text, config)
        excluded = history.ancestors(txn, span.exclude) if span.exclude else set()
        found |= dict.fromkeys(commit_id for commit_id, _ in history.walk(txn, [span.include], excluded))
    return list(found)


def _named(txn: ReadTransaction, text: str, config: Config) -> Iterator[Resolved]:
    """Yield what a keyword or a ref of this name points at; the first is the answer."""
    if text in ("HEAD", "@"):
        tip = refs.head_commit(txn)
        if tip is None:
            raise UnknownRevisionError(
                "HEAD names no commit yet", hint="make the first one: modelvault commit FILE -m MESSAGE"
            )
        yield Resolved(tip)
    for prefix in (refs.BRANCHES, refs.TAGS, refs.REMOTES):
        target = refs.read_ref(txn, prefix + text)
        if target is not None:
            yield Resolved(target, branch=text if prefix == refs.BRANCHES else None)
    if text == "latest":
        yield Resolved(_branch_tip(txn))
    elif text.startswith("step:"):
        yield Resolved(_by_step(txn, text))
    elif text.startswith("best:"):
        yield _best(txn, text, config)


def _step_back(txn: ReadTransaction, resolved: Resolved, suffix: str, text: str) -> Resolved:
    """Follow ~n (n first parents) or ^n (the n-th parent; ^0 is the commit itself)."""
    count = min(int(suffix[1:] or 1), _NUMBER_LIMIT)
    current = resolved.commit_id
    if suffix[0] == "^":
        parents = history.read_commit(txn, current).parents
        if count > len(parents):
            raise UnknownRevisionError(f"{text}: {history.shorten(txn, current)} has {len(parents)} parent(s)")
        return Resolved(parents[count - 1] if count else current, note=resolved.note)
    for _ in range(count):
        parents = history.read_commit(txn, current).parents
        if not parents:
            raise UnknownRevisionError(f"{text} goes back further than the first commit")
        current = parents[0]
    return Resolved(current, note=resolved.note)


def _past(txn: ReadTransaction, text: str, name: str, back: int) -> Resolved:
    """Follow REF@{n}: what the ref pointed at n moves ago."""
    ref = refs.find_ref(txn, name) if name else refs.BRANCHES + refs.read_head(txn).branch
    if ref is None:
        raise UnknownRevisionError(f"{text}: there is no branch or tag {name!a}", hint="modelvault branch lists them")
    for place, target in enumerate(refs.past_targets(txn, ref)):
        if place == back:
            if target is None:
                raise UnknownRevisionError(f"{text}: {name or 'the branch'} did not exist then")
            return Resolved(target)
    raise UnknownRevisionError(f"{text}: the reflog does not go back that far")


def _branch_tip(txn: ReadTransaction) -> CommitId:
    """Return the newest commit of the current branch: the one HEAD is on, or was on last."""
    tip = refs.read_ref(txn, refs.BRANCHES + refs.read_head(txn).branch) or refs.head_commit(txn)
    if tip is None:
        raise UnknownRevisionError(
            "there is no commit yet", hint="make the first one: modelvault commit FILE -m MESSAGE"
        )
    return tip


def _by_step(txn: ReadTransaction, text: str) -> CommitId:
    try:
        step = int(text[5:])
    except ValueError:
        raise UsageError(f"{text}: step: takes a whole number") from None
    for commit_id, commit in history.walk(txn, [_branch_tip(txn)]):
        if commit.step == step:
            return commit_id
    raise UnknownRevisionError(f"no commit of the current branch has step {step}", hint="modelvault log shows steps")


def _best(txn: ReadTransaction, text: str, config: Config) -> Resolved:
    metric = text[5:]
    sign = 1 if config.direction(metric) == "max" else -1
    best: tuple[float, CommitId] | None = None
    known = set[str]()
    for commit_id, commit in history.walk(txn, [_branch_tip(txn)]):
        known.update(commit.metrics)
        value = commit.metrics.get(metric)
        # Newest first and strictly better only: the newest wins a tie. NaN is never better.
        if value is not None and not math.isnan(value) and (best is None or sign * value > sign * best[0]):
            best = value, commit_id
    if best is None:
        hint = f"metrics of this branch: {', '.join(sorted(known))}" if known else "commit with --metric NAME=VALUE"
        raise UnknownRevisionError(f"no commit of the current branch has a metric {metric!a}", hint=hint)
    which = "highest" if sign > 0 else "lowest"
    return Resolved(best[1], note=f"{text} is the {which}: {best[0]:g} in {history.shorten(txn, best[1])}")


def _by_id(txn: ReadTransaction, text: str) -> CommitId | None:
    prefix = text.removeprefix("id:")
    if not _HEX.fullmatch(prefix):
        raise UsageError(f"{text}: an id is 4 to 64 hexadecimal digits")
    found = history.by_prefix(txn, prefix)
    if len(found) > 1:
        raise _ambiguous(txn, text, found)
    if not found and text.startswith("id:"):
        raise UnknownRevisionError(f"no commit has an id that begins with {prefix}", hint="modelvault log lists ids")
    return found[0] if found else None


def _by_slug(txn: ReadTransaction, text: str) -> CommitId:
    wanted = slug(text)
    tip = refs.head_commit(txn)
    starts = [tip] if tip else []
    branch = refs.read_ref(txn, refs.BRANCHES + refs.read_head(txn).branch)
    if branch and branch != tip:
        starts.append(branch)
    seen = set[CommitId]()
    if wanted == text:
        for commit_id, commit in history.walk(txn, starts):
            if slug(commit.subject) == wanted:
                return commit_id
            seen.add(commit_id)
        elsewhere = [*refs.list_refs(txn, refs.BRANCHES).values(), *refs.list_refs(txn, refs.TAGS).values()]
        found = [c for c, commit in history.walk(txn, elsewhere, seen) if slug(commit.subject) == wanted]
        if len(found) > 1:
            raise _ambiguous(txn, text, found)
        if found:
            return found[0]
    raise _unknown(txn, text)


def _ambiguous(txn: ReadTransaction, text: str, found: list[CommitId]) -> AmbiguousRevisionError:
    lines = [f"{history.shorten(txn, c)}  {history.read_commit(txn, c).subject}" for c in found[:20]]
    return AmbiguousRevisionError(
        f"{text} names {len(found)} commits: {', '.join(line.split('  ')[0] for line in lines)}",
        candidates=lines,
        hint="give one of these ids",
    )


def _unknown(txn: ReadTransaction, text: str) -> ModelVaultError:
    import difflib  # only when something went wrong

    tip = refs.head_commit(txn)
    names = [*refs.list_refs(txn, refs.BRANCHES), *refs.list_refs(txn, refs.TAGS)]
    names += [slug(commit.subject) for _, commit in history.walk(txn, [tip] if tip else [])]
    near = difflib.get_close_matches(text, dict.fromkeys(names), n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "modelvault log lists what there is"
    return UnknownRevisionError(f"no commit answers to {text!a}", hint=hint)
