"""`log` without Typer: a plain line of it is understood here, anything else is left to Typer.

`log` is typed more often than all other verbs together and by scripts in loops. Importing typer and building its
parameters takes 40 ms and, from 0.28 on, another 90 ms for pydantic; reading and printing a thousand commits takes 50.
tests/cli/test_quick.py holds both ways to the same results.
"""

from __future__ import annotations

from typing import Any

_FLAGS = {"--oneline": "oneline", "--graph": "graph", "--all": "all_", "--json": "json", "--stat": "stat"}


def parse_log(arguments: list[str]) -> dict[str, Any] | None:
    """Return what to call `show_log` with, None if this is not a plain line of `log`.

    >>> parse_log(["log", "--oneline", "-n", "3", "main"])
    {'oneline': True, 'limit': 3, 'revision': 'main'}
    >>> parse_log(["log", "--help"]) is None
    True
    """
    if not arguments or arguments[0] != "log":
        return None
    options: dict[str, Any] = {}
    words = iter(arguments[1:])
    for word in words:
        if word in _FLAGS:
            options[_FLAGS[word]] = True
        elif word.startswith("-n"):
            count = word[2:] or next(words, "")
            if not (count.isascii() and count.isdigit()):
                return None
            options["limit"] = int(count)
        elif word.startswith("-") or "revision" in options:
            return None
        else:
            options["revision"] = word
    return options
