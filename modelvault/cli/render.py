"""The only place that prints. Data goes to stdout, everything else to stderr.

Progress is drawn on a terminal only, and only for what takes longer than a second. Colour is not used: nothing here
needs it to be read.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modelvault.errors import AmbiguousRevisionError, ModelVaultError

if TYPE_CHECKING:
    from modelvault.store.base import Holder

_DRAW_AFTER = 1.0
_DRAW_EVERY = 0.1


def data(text: str) -> None:
    """Print a line of data."""
    try:
        print(text)
    except UnicodeEncodeError:  # a stdout that cannot take every letter still gets every line
        encoding = sys.stdout.encoding or "ascii"
        print(text.encode(encoding, "backslashreplace").decode(encoding))


def lines(texts: Iterable[str]) -> None:
    """Print lines of data."""
    data("\n".join(texts))


def json_object(value: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    import json

    print(json.dumps(value, ensure_ascii=True, allow_nan=False))


def json_list(value: Mapping[str, Any], name: str, items: Iterable[Mapping[str, Any]]) -> None:
    """Print one JSON object whose last field is a list, item by item: a hundred thousand need no memory."""
    import json

    head = json.dumps(value, ensure_ascii=True, allow_nan=False)
    sys.stdout.write(f"{head[:-1]}, {json.dumps(name)}: [")
    for place, item in enumerate(items):
        sys.stdout.write(f"{', ' if place else ''}{json.dumps(item, ensure_ascii=True, allow_nan=False)}")
    print("]}")


def json_number(value: float) -> float | None:
    """Return a number as JSON can hold it: null for nan and the infinities."""
    return value if math.isfinite(value) else None


def note(text: str) -> None:
    """Say something that is not data."""
    _clear()
    print(f"modelvault: {one_line(text)}", file=sys.stderr)


def error(problem: ModelVaultError) -> None:
    """Say what went wrong, in one line, and what to do about it."""
    _clear()
    hint = f" (try: {problem.hint})" if problem.hint else ""
    print(f"modelvault: {one_line(problem.message)}{one_line(hint)}", file=sys.stderr)
    if isinstance(problem, AmbiguousRevisionError):
        for candidate in problem.candidates:
            print(f"  {one_line(candidate)}", file=sys.stderr)


def waiting(holder: Holder | None) -> None:
    """Say who is being waited for."""
    note(f"waiting for {holder if holder else 'another writer'} to finish")


def one_line(text: str) -> str:
    """Return text that cannot break out of its line: control characters are shown escaped."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "backslashreplace").decode("ascii")
        for letter in text
    )


def table(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> None:
    """Print rows in columns; those in `right` are set flush right."""
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(len(rows[0]))] if rows else []
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        data("  ".join(cells).rstrip())


def size(nbytes: float) -> str:
    """Return a size for people, in decimal units.

    >>> size(999), size(3_714_123), size(0)
    ('999 B', '3.7 MB', '0 B')
    """
    for unit in ("B", "KB", "MB", "GB"):
        if nbytes < 999.5:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def ratio(raw: float, stored: float) -> str:
    """Return how many times smaller `stored` is than `raw`, "-" where that says nothing."""
    return f"{raw / stored:.2f}x" if raw and stored else "-"


class ProgressBar:
    """One line on a terminal: what is being done, how far it is, how fast, and how long it will take."""

    def __init__(self) -> None:
        self._start = self._drawn = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Note how far it is; draw if it is time to."""
        global _line_is_drawn
        now = time.monotonic()
        if not self._is_terminal or now - self._start < _DRAW_AFTER or now - self._drawn < _DRAW_EVERY:
            return
        self._drawn = now
        rate = done / (now - self._start)
        left = (total - done) / rate if rate else 0.0
        share = done / total if total else 1.0
        text = f"{what} {share:4.0%}  {size(done)} of {size(total)}  {size(rate)}/s  {left:.0f} s left"
        sys.stderr.write(f"\r{text:<78}")
        sys.stderr.flush()
        _line_is_drawn = True

    def close(self) -> None:
        """Remove the line."""
        _clear()


_line_is_drawn = False


def _clear() -> None:
    global _line_is_drawn
    if _line_is_drawn:
        sys.stderr.write("\r" + " " * 78 + "\r")
        sys.stderr.flush()
        _line_is_drawn = False
