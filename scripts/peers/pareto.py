"""Ratio over speed, one panel for each history: what is up and to the right of all others is worth having."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peers.codecs import ZIPNN

if TYPE_CHECKING:
    from peers.lossless import Row

OURS = "modelvault"


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other beats in both coordinates, from left to right.

    >>> front([(1, 3), (2, 2), (1, 2), (3, 1), (2, 1)])
    [(1, 3), (2, 2), (3, 1)]
    """
    found = list[tuple[float, float]]()
    for x, y in sorted(set(points), reverse=True):
        if not found or y > found[-1][1]:
            found.append((x, y))
    return found[::-1]


def plot(rows: Sequence[Row], file: Path) -> None:
    """Write the picture: deltas only; speeds are sums over a history's pairs, against ZipNN's delta."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "lossless", "svg.fonttype": "none", "font.size": 8})
    from matplotlib import pyplot

    panels: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if row.reference and math.isfinite(row.encode_vs_zipnn):
            panels.setdefault(f"{row.history} ({row.dtype})", {}).setdefault(f"{row.codec}, {row.form}", []).append(row)
    columns = 2
    lines = math.ceil(len(panels) / columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(11, 4 * lines), squeeze=False, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, codecs) in zip(axes.flat, panels.items(), strict=False):
        points = dict[str, tuple[float, float]]()
        for name, found in codecs.items():
            # The speed of ZipNN's delta in these pairs, by theirs: seconds of the base are ours times the quotient.
            base = sum(row.encode_s * row.encode_vs_zipnn for row in found)
            spent = sum(row.encode_s for row in found)
            ratio = sum(row.raw_bytes for row in found) / sum(row.encoded_bytes for row in found)
            points[name] = base / max(spent, 1e-9), ratio
        best = front(list(points.values()))
        axis.plot(*zip(*best, strict=True), color="0.7", linewidth=1, zorder=1)
        for name, (speed, ratio) in points.items():
            color = "tab:red" if name.startswith(OURS) else "tab:blue"
            axis.scatter([speed], [ratio], color=color, s=14, zorder=2)
            if (speed, ratio) not in best and not name.startswith((OURS, ZIPNN)):
                continue  # all are in the table
            axis.annotate(name, (speed, ratio), xytext=(3, 3), textcoords="offset points", fontsize=6, color=color)
        axis.set(xscale="log", title=title, xlabel="encoding speed, ZipNN's delta = 1", ylabel="ratio, lossless")
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
