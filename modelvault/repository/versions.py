"""The versions a repack plans with: tensors that were stored together, and how these follow one another.

The tensors of one file that came into being together, are of one part and dtype, and whose predecessors did so too,
are one version: a model's weights are planned once, not layer by layer, while a frozen layer, an optimizer or a LoRA
adapter has a line of its own. A tensor's predecessor is the tensor of the same name, dtype and length in the parent
commits, or else the one it leans on, or the one that was last stored under that name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from modelvault.ids import CommitId, FileId
from modelvault.objects.commit import Commit
from modelvault.objects.recipe import Recipe
from modelvault.repository import history
from modelvault.repository.candidates import Key, slot_keys
from modelvault.repository.liveness import WANTED, Liveness
from modelvault.repository.shapes import load_template
from modelvault.store.base import ReadTransaction
from modelvault.tensors import DType


class Link(NamedTuple):
    """A version that another follows: which, and the predecessor of each of that one's tensors."""

    version: int
    tensors: tuple[int, ...]


@dataclass(slots=True)
class Version:
    """Tensors that are planned as one.

    Attributes:
        tensors: their numbers.
        dtype: what their elements are.
        nbytes: raw bytes of all.
        links: what they follow.
        begins: whether they begin a line: no parent commit has what they follow.
        share: the least part that they are of a commit that needs them.
    """

    dtype: DType
    tensors: list[int] = field(default_factory=list)
    nbytes: int = 0
    links: tuple[Link, ...] = ()
    begins: bool = True
    share: float = 1.0


class _Origin(NamedTuple):
    """Where a tensor came into being: file, part, dtype, length, predecessors, and whether no parent commit has any."""

    file: int
    part: int
    dtype: DType
    nbytes: int
    before: tuple[int, ...]
    begins: bool


class Line(NamedTuple):
    """Versions, by number, that follow one another one to one: each has the same tensors in the same order."""

    versions: tuple[int, ...]


def find_versions(txn: ReadTransaction, live: Liveness) -> list[Version]:
    """Return every version of live tensors; what stands at 0 means nothing. A version follows only lower ones.

    Raises:
        CorruptError: a record is missing or damaged.
    """
    origins, needs = _origins(txn, live)
    by_signature: dict[tuple[int, int, DType, tuple[int, ...], bool], int] = {}
    versions = [Version(DType.BYTES)]
    member: dict[int, int] = {}
    before: list[list[tuple[int, ...]]] = [[]]
    for number, origin in origins.items():
        lines = tuple(member[one] for one in origin.before)
        signature = origin.file, origin.part, origin.dtype, lines, origin.begins
        place = by_signature.setdefault(signature, len(versions))
        if place == len(versions):
            versions.append(Version(origin.dtype, begins=origin.begins))
            before.append([])
        version = versions[place]
        version.tensors.append(number)
        version.nbytes += origin.nbytes
        before[place].append(origin.before)
        member[number] = place
    for place in range(1, len(versions)):
        version = versions[place]
        first = origins[version.tensors[0]]
        followed = [member[one] for one in first.before]
        if followed:  # in the order of what they follow, so that a line keeps one order
            order = {number: at for at, number in enumerate(versions[followed[0]].tensors)}
            pairs = sorted(zip(version.tensors, before[place], strict=True), key=lambda pair: order[pair[1][0]])
            version.tensors = [number for number, _ in pairs]
            version.links = tuple(Link(line, tuple(pair[1][at] for pair in pairs)) for at, line in enumerate(followed))
        largest = max(needs.get(number, 0) for number in version.tensors)
        version.share = min(1.0, version.nbytes / largest) if largest else 1.0
    return versions


def _origins(txn: ReadTransaction, live: Liveness) -> tuple[dict[int, _Origin], dict[int, int]]:
    """Return where each live tensor came into being, oldest first, and the size of the largest commit that needs it."""
    commits = [(commit_id, history.read_as_kept(txn, commit_id)) for commit_id, parts in live.commits.items() if parts]
    origins: dict[int, _Origin] = {}
    needs: dict[int, int] = {}
    tensors_of: dict[FileId, list[tuple[Key, int, int]]] = {}
    latest: dict[Key, int] = {}
    for commit in in_order_of_history(commits):
        parents = [history.read_as_kept(txn, parent) for parent in commit.parents if parent in live.commits]
        for entry in commit.files:
            known = tensors_of.get(entry.file_id)
            if known is None:
                known = tensors_of[entry.file_id] = list(slots_of(txn, entry.file_id, live))
            fresh = [slot for slot in known if slot[1] not in origins]
            if fresh:
                references = _references(parents, entry.path, tensors_of)
                file = len(tensors_of)
                for key, number, part in fresh:
                    if number in origins:
                        continue
                    before = [found[key] for found in references if key in found]
                    begins = not before
                    if not before and live.bases[number] in origins:  # what the commit found by likeness
                        before = [live.bases[number]]
                    if not before and key in latest:
                        before = [latest[key]]
                    usable = tuple(dict.fromkeys(one for one in before if one in origins and one != number))
                    origins[number] = _Origin(file, part, key[1], key[2], usable, begins)
            for key, number, _ in known:
                needs[number] = max(needs.get(number, 0), commit.raw_bytes)
                latest[key] = number
    return origins, needs


def _references(
    parents: list[Commit], path: str, tensors_of: dict[FileId, list[tuple[Key, int, int]]]
) -> list[dict[Key, int]]:
    """Return, for each parent, the tensors it has by key: those of the same path before those of its other files."""
    found = []
    for parent in parents:
        here: dict[Key, int] = {}
        for entry in sorted(parent.files, key=lambda entry: entry.path != path):
            for key, number, _ in tensors_of.get(entry.file_id, ()):
                here.setdefault(key, number)
        found.append(here)
    return found


def slots_of(txn: ReadTransaction, file_id: FileId, live: Liveness) -> Iterator[tuple[Key, int, int]]:
    """Yield (key, tensor, part) of each tensor of a file that is live for a file's sake."""
    data = txn.get("recipes", file_id)
    if data is None:
        return  # forgotten, and collected with a shorter grace: `mark` has seen that nothing else is missing
    recipe = Recipe.from_bytes(data, file_id)
    keys = slot_keys(load_template(txn, recipe))
    for key, number, part in zip(keys, recipe.tensors, recipe.parts, strict=True):
        if number and number < len(live.tensors) and live.tensors[number] == WANTED:
            yield key, number, part


def in_order_of_history(commits: list[tuple[CommitId, Commit]]) -> Iterator[Commit]:
    """Yield commits, parents before children, otherwise by time and id."""
    waiting = dict(sorted(commits, key=lambda pair: (pair[1].time_ms, pair[0])))
    done = set[CommitId]()
    for start in waiting:
        stack = [start]
        while stack:
            at = stack[-1]
            if at in done:
                stack.pop()
                continue
            ahead = [parent for parent in waiting[at].parents if parent in waiting and parent not in done]
            if ahead:
                stack.extend(ahead)
                continue
            done.add(at)
            stack.pop()
            yield waiting[at]


def find_lines(versions: list[Version]) -> list[Line]:
    """Return the straight lines that all versions fall into, the oldest first."""
    followers: dict[int, list[int]] = {}
    for place in range(1, len(versions)):
        for link in versions[place].links[:1]:
            followers.setdefault(link.version, []).append(place)
    lines = []
    for place in range(1, len(versions)):
        links = versions[place].links
        if (
            not versions[place].begins
            and links
            and followers[links[0].version] == [place]
            and _is_whole(versions, links[0])
        ):
            continue  # somewhere along a line
        line = [place]
        while len(after := followers.get(line[-1], [])) == 1:
            if versions[after[0]].begins or not _is_whole(versions, versions[after[0]].links[0]):
                break
            line.append(after[0])
        lines.append(Line(tuple(line)))
    return lines


def _is_whole(versions: list[Version], link: Link) -> bool:
    """Whether what follows has a successor for every tensor of what it follows, in the same order."""
    return list(link.tensors) == versions[link.version].tensors
