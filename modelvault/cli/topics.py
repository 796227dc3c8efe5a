"""What `help TOPIC` explains; scripts/make-cli-reference puts the same texts at the end of docs/reference/cli.md.

A topic is made of paragraphs and of tables with a head row. In both, `code` and links are marked as in Markdown.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

Row = tuple[str, ...]

EXIT_CODES = {
    0: "done",
    1: "failed, or the answer is no",
    2: "usage: the line itself is wrong",
    3: "partly done: some of several things failed",
    10: "no vault here or above",
    11: "locked: somebody else held the lock all the time we waited",
    12: "remote or credentials (reserved: no command returns it yet)",
    13: "unknown or ambiguous revision",
    14: "corrupt: stored bytes are not what was stored",
    15: "no space left; what was there before is intact",
    16: "would lose data: refused without `--force`",
    130: "interrupted (Ctrl-C)",
}


class Topic(NamedTuple):
    """One page of help.

    Attributes:
        title: its heading.
        summary: a line for the list of topics.
        blocks: paragraphs, and tables as rows, the first of which is the head.
    """

    title: str
    summary: str
    blocks: tuple[str | tuple[Row, ...], ...]


TOPICS: dict[str, Topic] = {
    "revisions": Topic(
        "Revisions",
        "how to name a commit",
        (
            "Where a command takes REV, these are tried in order, and the first that fits decides:",
            (
                ("REV", "is"),
                ("`HEAD`, `@`", "the commit HEAD is on"),
                ("a branch, then a tag, then a remote's branch", "what it points at"),
                ("`latest`", "the tip of the current branch, also while HEAD is detached from it"),
                ("`step:N`", "the newest commit of the current branch with that step"),
                (
                    "`best:METRIC`",
                    "the commit of the current branch where it is best; the newest wins a tie, nan never does. Which"
                    " way is better: [configuration](config.md)",
                ),
                (
                    "4 to 64 hexadecimal digits",
                    "the commit whose id begins so; `id:DIGITS` forces this reading",
                ),
                (
                    "a slug such as `epoch-40`",
                    "the commit with that subject (`epoch 40`): nearest on the current branch, else anywhere if only"
                    " one has it",
                ),
            ),
            "`REV~n` is the n-th first parent, `REV^n` the n-th parent, `REF@{n}` what a branch, tag or HEAD pointed at"
            " n moves ago. `log` and `diff` also take `A..B`: what B descends from and A does not, or A against B;"
            " `diff --each A..B` goes through it one by one.",
        ),
    ),
    "files": Topic(
        "Files",
        "which files a commit takes, and how they come back",
        (
            "`commit PATH...` records the files that are named, and all files below directories that are named,"
            " relative to the vault's root. What lies outside the root is recorded by its own name. Links are followed."
            " The executable bit is kept; other permissions, times and empty directories are not.",
            "`.modelvaultignore` leaves files out of directories: gitignore's rules, one pattern a line, in the"
            " directory itself or any above it up to the root. What is named itself is taken all the same."
            " `.modelvault` and `.git` are never taken.",
            (
                ("pattern", "leaves out"),
                ("`*.log`", "files and directories of such names, at any depth"),
                ("`/cache/`", "the directory `cache` beside the file with the patterns"),
                ("`runs/**/tmp`", "`tmp` anywhere below `runs`"),
                ("`!keep.log`", "nothing: takes back what an earlier line said"),
            ),
            "`checkout REV` writes the files to their recorded paths and moves HEAD. With PATH only those, with `-o` to"
            " another place (`-` is stdout, a slash at the end means a directory); HEAD then stays. Files appear whole"
            " or not at all, and so does a directory that was not there. Bytes that are in no commit are overwritten"
            " only with `--force`.",
            "`checkout --into DIR REV...` restores several commits, or ranges `A..B`, each into `DIR/ID`. They are"
            " decoded side by side, so that neighbours take little more decoding than one of them. `bisect` and"
            " `diff --each A..B` go one by one and keep what was decoded, up to 512 MiB, for the next.",
        ),
    ),
    "mv": Topic(
        "mv",
        "the short name, and when it is the system's",
        (
            "`modelvault shell-init SHELL` prints a function `mv` for your shell, `modelvault install-shim` writes a"
            " script `mv` for everything else. Both hand every line that the system's `mv` could carry out to the"
            " system's `mv`. A line is ours only if its first word is a verb of ours, nothing here has that name, and"
            " there is a vault here or above (a few verbs need none).",
            "`MODELVAULT_MV=off` gives the line to the system's `mv` in any case; `modelvault VERB` is ours in any"
            " case. All rules: [Typing `mv`](../how-to/mv.md).",
        ),
    ),
    "environment": Topic(
        "Environment",
        "variables that are looked at",
        (
            (
                ("variable", "is"),
                ("`MODELVAULT_DIR`", "the directory that holds the vault, in place of the working directory and above"),
                ("`MODELVAULT_AUTHOR`", "who commits, before the configuration and git's user"),
                ("`MODELVAULT_MV`", "`off`: `mv` is the system's"),
            ),
            "Settings that belong to a vault are in its [configuration](config.md).",
        ),
    ),
    "exit-codes": Topic(
        "Exit codes",
        "what a command returns",
        (
            (("code", "meaning"), *((str(code), meaning) for code, meaning in EXIT_CODES.items())),
            "`diff --exit-code` returns 1 if there are differences, `identify` if the file is in no commit, `bisect` if"
            " skipped commits are in doubt, `doctor` if there is a problem. [Errors](errors.md) says which error has"
            " which code.",
        ),
    ),
}


_WIDTH = 100
_LINK = re.compile(r"\[([^]]+)]\(([^)]+)\)")


def plain_lines(topic: Topic) -> Iterator[str]:
    """Yield a topic as a terminal shows it."""
    yield topic.title
    for block in topic.blocks:
        yield ""
        if isinstance(block, str):
            yield from textwrap.wrap(_plain(block), _WIDTH)
            continue
        rows = [tuple(map(_plain, row)) for row in block[1:]]
        width = max(len(row[0]) for row in rows)
        for row in rows:
            texts = textwrap.wrap(" ".join(row[1:]), _WIDTH - width - 4) or [""]
            yield f"  {row[0]:<{width}}  {texts[0]}".rstrip()
            for text in texts[1:]:
                yield " " * (width + 4) + text


def markdown(topic: Topic) -> str:
    """Return a topic as a section of a page."""
    parts = [f"## {topic.title}"]
    for block in topic.blocks:
        if isinstance(block, str):
            parts.append("\n".join(textwrap.wrap(block, 120, break_long_words=False, break_on_hyphens=False)))
            continue
        head, *rows = block
        lines = [_row(head), "|" + "---|" * len(head), *map(_row, rows)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _row(cells: Row) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _plain(text: str) -> str:
    """Return a text without marks; of a link its words remain.

    >>> _plain("`mv` is explained [there](mv.md)")
    'mv is explained there'
    """
    return _LINK.sub(r"\1", text).replace("`", "")
