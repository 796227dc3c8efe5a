"""Which files a commit takes, and the paths it records them under.

A directory stands for all below it that its `.modelvaultignore` files do not leave out; what is named itself is taken
whatever they say. Links are followed, to files and to directories, and count where they stand: a snapshot of a cache
that links into its blobs holds the files, not the links. What cannot be taken is refused by its name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from modelvault.errors import InputError
from modelvault.objects.commit import MAX_FILES
from modelvault.repository.ignore import Ignore
from modelvault.repository.names import check_path

_SKIPPED = frozenset({".modelvault", ".git"})
"""Never taken; in a worktree of git's, `.git` is a file."""


class Named(NamedTuple):
    """A file to commit.

    Attributes:
        path: as it will stand in the snapshot.
        on_disk: where it is.
        outside: whether it lies outside the vault's root.
    """

    path: str
    on_disk: Path
    outside: bool


def collect(root: Path, paths: Sequence[Path]) -> Iterator[Named]:
    """Yield the files that were named, and those below directories that were named, each path once.

    Raises:
        InputError: a directory cannot be read, a link leads back to where it stands, two files would be recorded under
            one path, there are too many, or none.
        NameRefusedError: a path that no vault may hold.
    """
    seen: dict[str, Path] = {}
    for path in paths:
        recorded = _recorded(root, path)
        outside = recorded is None
        if path.is_dir():
            start = Path(os.path.realpath(path)).name if recorded is None else recorded
            rules = Ignore() if recorded is None else _rules_above(root, recorded)
            found = _below(path, start, rules, frozenset())
        else:
            found = iter([(path.name if recorded is None else recorded, path)])
        for name, on_disk in found:
            check_path(name)
            if name in seen:
                if os.path.realpath(seen[name]) == os.path.realpath(on_disk):
                    continue
                raise InputError(
                    f"{str(on_disk)!a} and {str(seen[name])!a} would both be recorded as {name!a}",
                    hint="commit them one at a time, or move them below the vault's root",
                )
            seen[name] = on_disk
            if len(seen) > MAX_FILES:
                raise InputError(f"more than {MAX_FILES} files in one commit")
            yield Named(name, on_disk, outside)
    if not seen:
        raise InputError(f"no file in {', '.join(repr(str(path)) for path in paths)}", hint="name a file")


def _recorded(root: Path, path: Path) -> str | None:
    """Return a path relative to the root, "" for the root itself, None if it lies outside.

    A link counts where it stands: only the way there is resolved.
    """
    is_named = path.name not in ("", "..")
    real = Path(os.path.realpath(path.parent), path.name) if is_named else Path(os.path.realpath(path))
    try:
        relative = real.relative_to(os.path.realpath(root))
    except ValueError:
        return None
    return "" if relative == Path() else relative.as_posix()


def _rules_above(root: Path, recorded: str) -> Ignore:
    """Return the rules of the directories from the root down to, and without, the one recorded so."""
    rules, place = Ignore(), ""
    for component in recorded.split("/") if recorded else ():
        rules = rules.enter(root / place, place)
        place = f"{place}/{component}" if place else component
    return rules


def _below(
    directory: Path, recorded: str, rules: Ignore, above: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, Path]]:
    """Yield (path as recorded, file) of what lies below a directory, sorted by name."""
    try:
        status = directory.stat()
        with os.scandir(directory) as entries:
            names = sorted((entry.name, _is_directory(entry)) for entry in entries)
    except OSError as error:
        raise InputError(f"cannot read {str(directory)!a}: {error.strerror}") from None
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        raise InputError(f"cannot commit {str(directory)!a}: it is a link to a directory that it stands in")
    rules = rules.enter(directory, recorded)
    for name, is_directory in names:
        path = f"{recorded}/{name}" if recorded else name
        if name.lower() in _SKIPPED or rules.ignores(path, is_directory=is_directory):
            continue
        if is_directory:
            yield from _below(directory / name, path, rules, above | {identity})
        else:
            yield path, directory / name


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link in a circle: refused by its name when it is opened
