"""`.modelvaultignore`: which files below a directory are not committed. The rules are gitignore's.

One pattern a line. `*` and `?` stop at a slash, `**` does not, `[a-z]` is one character; a slash at the beginning or
in the middle ties a pattern to the directory of its file, one at the end means directories only; `!` takes back what
an earlier line said; `#` begins a comment and a backslash takes the meaning from what follows it. The last line that
matches decides, and a file further down decides before one further up. What lies in an ignored directory cannot be
taken back: nobody looks in there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from modelvault.errors import InputError

FILE_NAME = ".modelvaultignore"

_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": r" \t",
    "digit": "0-9",
    "lower": "a-z",
    "space": r" \t\n\r\f\v",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}


class Rule(NamedTuple):
    """One line: what it matches, whether it takes back, and whether only directories are meant."""

    pattern: re.Pattern[str]
    negated: bool
    directories_only: bool


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Return the rules of a file; a line that can match nothing is left out.

    >>> [rule.pattern.pattern for rule in parse_rules("# mine\\n*.tmp\\n/logs/")]
    ['(?:.*/)?[^/]*\\\\.tmp', 'logs']
    """
    return tuple(rule for line in text.splitlines() if (rule := _parse_line(line)) is not None)


class Ignore:
    """The rules in force in one directory: those of its own file, and of those above."""

    def __init__(self, layers: tuple[tuple[str, tuple[Rule, ...]], ...] = ()) -> None:
        self._layers = layers  # (directory as recorded, "" or with a slash at its end; rules), the root's first

    def enter(self, directory: Path, recorded: str) -> Ignore:
        """Return the rules in force in a directory below.

        Args:
            directory: where it is.
            recorded: its path in the snapshot, "" for the root.

        Raises:
            InputError: its file cannot be read.
        """
        try:
            text = (directory / FILE_NAME).read_text(encoding="utf-8-sig", errors="surrogateescape")
        except FileNotFoundError:
            return self
        except OSError as error:
            raise InputError(f"cannot read {str(directory / FILE_NAME)!a}: {error.strerror}") from None
        rules = parse_rules(text)
        return Ignore((*self._layers, (f"{recorded}/" if recorded else "", rules))) if rules else self

    def ignores(self, recorded: str, *, is_directory: bool) -> bool:
        """Return whether a path, as it would be recorded, is not to be committed."""
        for prefix, rules in reversed(self._layers):
            below = recorded.removeprefix(prefix)
            for rule in reversed(rules):
                if (is_directory or not rule.directories_only) and rule.pattern.fullmatch(below):
                    return not rule.negated
        return False


def _parse_line(line: str) -> Rule | None:
    line = _without_trailing_blanks(line)
    if not line or line.startswith("#"):
        return None
    negated = line.startswith("!")
    glob = line[1:] if negated else line
    directories_only = glob.endswith("/")
    glob = glob.removesuffix("/")
    if not glob:
        return None
    anchor = "" if "/" in glob else "(?:.*/)?"
    try:
        return Rule(re.compile(anchor + _regex(glob.removeprefix("/")), re.DOTALL), negated, directories_only)
    except (re.error, _NothingMatchesError):
        return None


def _without_trailing_blanks(line: str) -> str:
    """Return a line without the blanks at its end; one behind a backslash stays."""
    kept = line.rstrip(" ")
    backslashes = len(kept) - len(kept.rstrip("\\"))
    return kept + " " if backslashes % 2 and len(kept) < len(line) else kept


class _NothingMatchesError(Exception):
    """A pattern ends inside a bracket or behind a backslash."""


def _regex(glob: str) -> str:
    """Return a regular expression of a glob that is anchored at the directory of its file.

    >>> _regex("a/**/b?"), _regex("**/x"), _regex("logs/**"), _regex("[!a-c]*")
    ('a/(?:.*/)?b[^/]', '(?:.*/)?x', 'logs/.+', '(?![/])[^a-c][^/]*')
    """
    parts, place = [], 0
    while place < len(glob):
        at_start = place == 0 or glob[place - 1] == "/"
        if at_start and glob.startswith("**/", place):
            parts.append("(?:.*/)?")
            place += 3
        elif at_start and glob[place:] == "**":
            parts.append(".+")
            place += 2
        elif glob[place] == "*":
            while glob.startswith("*", place):
                place += 1
            parts.append("[^/]*")
        elif glob[place] == "?":
            parts.append("[^/]")
            place += 1
        elif glob[place] == "[":
            text, place = _bracket(glob, place + 1)
            parts.append(text)
        else:
            if glob[place] == "\\":
                place += 1
            if place == len(glob):
                raise _NothingMatchesError
            parts.append(re.escape(glob[place]))
            place += 1
    return "".join(parts)


def _bracket(glob: str, place: int) -> tuple[str, int]:
    """Return the expression of a bracket, given the place behind it, and the place behind its end."""
    negated = glob[place : place + 1] in ("!", "^")
    place += negated
    inside, first = "", True
    while True:
        letter = glob[place : place + 1]
        if not letter:
            raise _NothingMatchesError
        if letter == "]" and not first:
            break
        first = False
        if glob.startswith("[:", place):
            end = glob.find(":]", place)
            name = glob[place + 2 : end] if end > 0 else ""
            if name in _CLASSES:
                inside += _CLASSES[name]
                place = end + 2
                continue
        if letter == "-" and inside and glob[place + 1 : place + 2] not in ("", "]"):
            inside += "-"
            place += 1
            continue
        if letter == "\\":
            place += 1
            letter = glob[place : place + 1]
            if not letter:
                raise _NothingMatchesError
        inside += f"\\{letter}" if letter in r"\]^-[&~|" else letter
        place += 1
    return f"(?![/])[{'^' if negated else ''}{inside}]", place + 1
