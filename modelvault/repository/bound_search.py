"""Which bound to round with: the Delta-DNN paper's search (Hu et al., ICPP 2020, error bound optimization).

Each bound is tried: how small the file becomes, and what an evaluator says of it. Of those that lose no more than they
may, the one with the highest `Score = alpha * Phi + (1 - alpha) * Omega` is taken, where Phi and Omega are ratio and
metric, scaled so that the least of those bounds has 0 and the largest 1. A pure choice: no file, no clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from modelvault.errors import InputError, UsageError
from modelvault.objects.lossy import Trial

DEFAULT_RANGE = (0.0001, 0.1)
"""Bounds from 0.01 % to 10 %. The paper searches from 1 % to 10 %, which as an absolute step is more than a whole epoch
changes on every network we trained (docs/benchmarks/lossy.md)."""

_PER_DECADE = 4

DEFAULT_ALPHA = 0.5


def bounds_between(low: float, high: float) -> tuple[float, ...]:
    """Return bounds at equal ratios, four a decade, both ends included.

    Raises:
        UsageError: not 0 < low <= high <= 1.

    >>> [f"{eps:.3g}" for eps in bounds_between(0.001, 0.01)]
    ['0.001', '0.00178', '0.00316', '0.00562', '0.01']
    """
    if not 0 < low <= high <= 1:
        raise UsageError(f"no bounds between {low:g} and {high:g}", hint="0 < LOW <= HIGH <= 1, such as 0.0001:0.1")
    steps = max(1, round(_PER_DECADE * math.log10(high / low)))
    found = [low * (high / low) ** (place / steps) for place in range(steps)]
    return (*found, high) if high > low else (low,)


def is_good_enough(metric: float, original: float, max_drop: float) -> bool:
    """Return whether a metric is no more than `max_drop` of the original's magnitude below it.

    >>> is_good_enough(0.9234, 0.9245, 0.002), is_good_enough(0.92, 0.9245, 0.002)
    (True, False)
    """
    return metric >= original - max_drop * abs(original)


def best_trial(trials: Sequence[Trial], original: float, max_drop: float, alpha: float) -> tuple[Trial, list[Trial]]:
    """Return the trial to take, and all of them with their scores, 0 for those that lose too much.

    Args:
        trials: what was tried; their scores are not looked at.
        original: the metric of the original.
        max_drop: by what share of that a trial may be worse.
        alpha: the weight of the ratio.

    Raises:
        InputError: all of them lose too much.
    """
    good = [trial for trial in trials if is_good_enough(trial.metric, original, max_drop)]
    if not good:
        best = max(trials, key=lambda trial: trial.metric)
        raise InputError(
            f"no bound keeps the metric within {max_drop:g} of {original:g}: the best, {best.eps:g}, gives"
            f" {best.metric:g}; nothing was committed",
            hint="try smaller bounds, a larger --max-drop, or commit without rounding",
        )

    def scaled(value: float, values: list[float]) -> float:
        low, high = min(values), max(values)
        return (value - low) / (high - low) if high > low else 1.0

    ratios, metrics = [trial.ratio for trial in good], [trial.metric for trial in good]
    scored = [
        trial._replace(
            score=alpha * scaled(trial.ratio, ratios) + (1 - alpha) * scaled(trial.metric, metrics)
            if trial in good
            else 0.0
        )
        for trial in trials
    ]
    chosen = max(
        (trial for trial, plain in zip(scored, trials, strict=True) if plain in good),
        key=lambda trial: (trial.score, trial.ratio),
    )
    return chosen, scored
