"""The lines of `log --graph`: which column each commit stands in, and what joins the columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

Node = TypeVar("Node")


def draw(nodes: Iterable[tuple[Node, Sequence[Node]]]) -> Iterator[tuple[str, Node | None]]:
    """Yield (graph text, node), or (graph text, None) for a line that only joins columns.

    Args:
        nodes: (node, its parents), every node before its parents.

    >>> for text, node in draw([("c", ["a"]), ("b", ["a"]), ("a", [])]):
    ...     print(f"{text} {node or ''}".rstrip())
    * c
    | * b
    |/
    * a
    """
    columns: list[Node] = []  # the node each column leads down to
    for node, parents in nodes:
        if node not in columns:
            columns.append(node)
        place = columns.index(node)
        # Other columns that lead to the same node end here: draw how they join.
        others = [column for column in range(place + 1, len(columns)) if columns[column] == node]
        for column in reversed(others):
            yield _join(len(columns), column, place), None
            del columns[column]
        yield " ".join("*" if column == place else "|" for column in range(len(columns))), node
        if not parents:
            del columns[place]
            if place < len(columns):
                yield " ".join("|" if column < place else "/" for column in range(len(columns))), None
            continue
        columns[place] = parents[0]
        for parent in parents[1:]:
            columns.insert(place + 1, parent)
            yield " ".join("|" for _ in range(place + 1)) + "\\" + " |" * (len(columns) - place - 2), None


def _join(width: int, column: int, place: int) -> str:
    """Return the line on which a column turns left into another."""
    cells = ["| "] * column + ["/ "] + ["/ "] * (width - column - 1)
    text = list("".join(cells).rstrip())
    text[2 * column - 1 : 2 * column + 1] = ["/"]
    for cell in range(2 * place + 1, 2 * column - 1):
        if text[cell] == " ":
            text[cell] = "_"
    return "".join(text)
