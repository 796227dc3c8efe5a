"""Which commits of a walk are wanted, and in what order: by message, by measured values. Light: no numpy."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from modelvault.errors import UsageError
from modelvault.ids import CommitId
from modelvault.objects.commit import Commit
from modelvault.repository.config import Config

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"([^<>=!].*?)\s*(>=|<=|!=|=|>|<)\s*([^<>=!]+)", re.DOTALL)

SORT_KEYS = ("time", "step", "size")
"""What commits can be sorted by besides their metrics."""


class Condition(NamedTuple):
    """A bound on a metric, such as `val_acc>=0.9`."""

    metric: str
    operator: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read NAME, one of >= <= > < = !=, and a number.

        Raises:
            UsageError: it is none.

        >>> Condition.parse("val_acc >= 0.9")
        Condition(metric='val_acc', operator='>=', value=0.9)
        """
        found = _CONDITION.fullmatch(text.strip())
        if found is not None:
            name, sign, number = found.groups()
            try:
                return cls(name.strip(), sign, float(number))
            except ValueError:
                pass
        raise UsageError(f"--metric {text!a}: no condition", hint="for example --metric 'val_acc>=0.9'")

    def holds(self, commit: Commit) -> bool:
        """Return whether a commit has the metric and it is within the bound; nan never is."""
        value = commit.metrics.get(self.metric, math.nan)
        return not math.isnan(value) and _OPERATORS[self.operator](value, self.value)


class Selection(NamedTuple):
    """What is wanted.

    Attributes:
        pattern: a regular expression that the message must contain, or None.
        conditions: bounds that must all hold.
        sort: "time" (newest first), "step" or "size" (largest first), a metric (best first), or None: as walked.
    """

    pattern: re.Pattern[str] | None = None
    conditions: tuple[Condition, ...] = ()
    sort: str | None = None

    @classmethod
    def parse(cls, grep: str | None, conditions: Iterable[str], sort: str | None) -> Selection:
        """Read what the user typed.

        Raises:
            UsageError: no regular expression, or no condition.
        """
        try:
            pattern = re.compile(grep) if grep is not None else None
        except re.error as error:
            raise UsageError(f"--grep {grep!a} is no regular expression: {error}") from None
        return cls(pattern, tuple(Condition.parse(text) for text in conditions), sort)

    def apply(self, commits: Iterable[tuple[CommitId, Commit]], config: Config) -> Iterator[tuple[CommitId, Commit]]:
        """Yield the commits that are wanted. Without an order of its own they come as they are walked, one by one.

        Raises:
            UsageError: commits are to be sorted by a metric that none of them has.
        """
        found = (item for item in commits if self._wants(item[1]))
        if self.sort is None:
            yield from found
            return
        chosen = list(found)
        if self.sort == "time":
            chosen.sort(key=lambda item: -item[1].time_ms)
        elif self.sort == "step":
            chosen.sort(key=lambda item: -math.inf if item[1].step is None else item[1].step, reverse=True)
        elif self.sort == "size":
            chosen.sort(key=lambda item: -item[1].raw_bytes)
        else:
            chosen.sort(key=_worse(self.sort, config))
            if chosen and self.sort not in chosen[0][1].metrics:
                known = sorted({name for _, commit in chosen for name in commit.metrics})
                raise UsageError(
                    f"--sort {self.sort!a}: no commit here has such a metric",
                    hint=f"one of {', '.join([*SORT_KEYS, *known])}",
                )
        yield from chosen

    def _wants(self, commit: Commit) -> bool:
        if self.pattern is not None and not self.pattern.search(commit.message):
            return False
        return all(condition.holds(commit) for condition in self.conditions)


def _worse(metric: str, config: Config) -> Callable[[tuple[CommitId, Commit]], tuple[int, float]]:
    """Return a key that puts the best first, then nan, then commits without the metric."""
    sign = -1 if config.direction(metric) == "max" else 1

    def key(item: tuple[CommitId, Commit]) -> tuple[int, float]:
        value = item[1].metrics.get(metric)
        if value is None:
            return 2, 0.0
        return (1, 0.0) if math.isnan(value) else (0, sign * value)

    return key
