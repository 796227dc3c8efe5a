"""Which tensors an optimizer keeps beside each weight: what its next steps follow, and what they will do to the weight.

Checkpoints number optimizer state (`state.17.exp_avg`) and name weights; both stand in the order of the parameters. So
the n-th weight of a size belongs to the n-th state of that size, unless some weight has no state: then it is the state
whose signs go with how the weight moved.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from modelvault.ids import FileId
from modelvault.repository import history
from modelvault.repository.liveness import Liveness
from modelvault.repository.versions import in_order_of_history, slots_of
from modelvault.store.base import ReadTransaction
from modelvault.tensors import DType


class Moments(NamedTuple):
    """State of one parameter: the mean of its gradients, and that of their squares where the optimizer keeps one."""

    mean: int
    square: int | None


_MEANS = frozenset({"exp_avg", "momentum_buffer", "mu", "m"})
_SQUARES = frozenset({"exp_avg_sq", "square_avg", "nu", "v"})


class Beside(NamedTuple):
    """What is known of the optimizer's state when tensors came into being.

    Attributes:
        weights: of each weight, the states that may be its own, the likeliest first.
        squares: of each mean of squares, the mean that goes with it.
    """

    weights: dict[int, tuple[Moments, ...]]
    squares: dict[int, int]


def find_moments(txn: ReadTransaction, live: Liveness) -> Beside:
    """Return the states of every live tensor, each in the first commit that has it.

    Raises:
        CorruptError: a record is missing or damaged.
    """
    commits = [(commit_id, history.read_as_kept(txn, commit_id)) for commit_id, parts in live.commits.items() if parts]
    found = Beside({}, {})
    known: set[FileId] = set()
    for commit in in_order_of_history(commits):
        weights: dict[tuple[DType, int], dict[int, None]] = {}
        states: dict[tuple[DType, int], dict[str, Moments]] = {}
        if all(entry.file_id in known for entry in commit.files):
            continue
        for entry in commit.files:
            known.add(entry.file_id)
            slots = list(slots_of(txn, entry.file_id, live))
            for (name, dtype, nbytes), number, part in slots:
                if part == 0 and not name.startswith("\0"):
                    weights.setdefault((dtype, nbytes), {})[number] = None
            for size, name, moments in _states([(key, number) for key, number, part in slots if part == 1]):
                states.setdefault(size, {})[f"{entry.path}\0{name}"] = moments
                if moments.square is not None:
                    found.squares.setdefault(moments.square, moments.mean)
        for size, numbers in weights.items():
            here = list(states.get(size, {}).values())
            for place, number in enumerate(numbers):
                if here and number not in found.weights:
                    likeliest = here[min(place, len(here) - 1)]
                    found.weights[number] = (likeliest, *(one for one in here if one is not likeliest))
    return found


def _states(slots: list[tuple[tuple[str, DType, int], int]]) -> Iterator[tuple[tuple[DType, int], str, Moments]]:
    """Yield size, name and moments of each parameter's state, in order."""
    means: dict[str, tuple[tuple[DType, int], int]] = {}
    squares: dict[str, tuple[tuple[DType, int], int]] = {}
    for (name, dtype, nbytes), number in slots:
        stem, _, leaf = name.rpartition(".")
        if leaf in _MEANS:
            means[stem] = (dtype, nbytes), number
        elif leaf in _SQUARES:
            squares[stem] = (dtype, nbytes), number
    for stem, (size, mean) in means.items():
        other, square = squares.get(stem, (None, 0))
        yield size, stem, Moments(mean, square if other == size else None)
