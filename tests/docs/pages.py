"""The documentation as data: its pages, their fenced blocks, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


class Block(NamedTuple):
    """One fenced block: the words behind the fence, its text, and the line it begins at."""

    words: tuple[str, ...]
    text: str
    line: int


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        yield Block(tuple(match[1].split()), match[2], text.count("\n", 0, match.start()) + 2)


def vectors(page: Path) -> dict[str, bytes]:
    """Return the named hexadecimal examples of a page."""
    found: dict[str, bytes] = {}
    for block in blocks(page):
        if block.words != ("vector",):
            continue
        name = ""
        for line in block.text.splitlines():
            if not line.startswith(" "):
                name, line = line.split(" ", 1)
                found[name] = b""
            found[name] += bytes.fromhex(line)
    return found


def links(page: Path) -> list[str]:
    return _LINK.findall(_without_blocks(page))


def anchors(page: Path) -> set[str]:
    """Return what a link to a heading of this page may end in, as GitHub makes it."""
    found = set()
    for heading in _HEADING.findall(_without_blocks(page)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def _without_blocks(page: Path) -> str:
    return _FENCE.sub("", page.read_text(encoding="utf-8"))
