"""Where the blocks of a chunk begin: runs of words, often rows of a matrix, that are coded alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from modelvault.codec.floats import Levels

_DEFAULT_WORDS = 128
_MIN_WORDS = 32
_MAX_WORDS = 1024
_CUT_WORDS = 512
"""Rows between the two bounds are blocks; shorter ones go together, longer ones are cut."""

_Item = TypeVar("_Item", bound=np.generic)


def block_length(row: int) -> int:
    """Return how many words a block takes where rows have `row` words, 0 or 1 if there are no rows."""
    length = row if row > 1 else _DEFAULT_WORDS
    if length < _MIN_WORDS:
        length *= -(-_MIN_WORDS // length)
    return _CUT_WORDS if length > _MAX_WORDS else length


@dataclass(frozen=True, slots=True)
class Blocks:
    """How some words are cut into blocks.

    Attributes:
        words: how many there are.
        length: words of every block but the first and the last.
        first: words of the first, if there are as many.
    """

    words: int
    length: int
    first: int

    @classmethod
    def along_rows(cls, words: int, row: int, start: int) -> Blocks:
        """Return blocks of about a row, in step with the rows.

        Args:
            words: how many there are.
            row: words of a row, 0 or 1 if there are no rows.
            start: which word of the tensor the first is.

        >>> Blocks.along_rows(1000, 300, 650)
        Blocks(words=1000, length=300, first=250)
        """
        length = block_length(row)
        first = length - start % length
        return cls(words, max(min(length, words), 1), max(min(first, words), 1))

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return 1 + -(-(self.words - self.first) // self.length) if self.words else 0

    def starts(self) -> Levels:
        """Return the first word of each."""
        later = np.arange(self.first, self.words, self.length, dtype=np.int64)
        return np.concatenate((np.zeros(min(self.words, 1), np.int64), later))

    def sums(self, values: npt.NDArray[_Item]) -> Levels:
        """Return the sum of each block's values, one for each word."""
        if not self.words:
            return np.empty(0, np.int64)
        found: Levels = np.add.reduceat(values, self.starts(), dtype=np.int64)
        return found

    def spread(self, values: npt.NDArray[_Item]) -> npt.NDArray[_Item]:
        """Return for each word its block's value."""
        return np.repeat(values, np.diff(self.starts(), append=self.words))
