#!/usr/bin/env python3
"""Print the paper's tables from what `measure.py` wrote, as Markdown, and draw them, as SVG.

    tables.py TABLE.csv [--pictures DIR]

A ratio *at the budget* lies between those of the largest bound within it and the next larger one, in logarithms.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

Row = dict[str, str]

METHODS = (
    ("SZ", "sz, statistics exact"),
    ("SZ of the delta", "sz of the delta, statistics exact"),
    ("Delta-DNN", "delta-dnn"),
    ("Delta-DNN, statistics exact", "delta-dnn, statistics exact"),
    ("ours", "modelvault"),
    ("ours, 256 inputs", "modelvault, 256 inputs"),
)

PAPERS = ("delta-dnn", "delta-dnn, statistics exact")

BANDWIDTHS = (("mobile down", 35.96), ("mobile up", 11.22), ("fixed down", 85.73), ("fixed up", 45.74))
"""World averages in Mbit/s by Speedtest's Global Index of September 2020, the year of the paper."""

PAPER_LOSS = 0.002
"""The share of its accuracy that a network may lose in the paper."""


def rows_of(rows: Sequence[Row], **wanted: object) -> list[Row]:
    """Return the rows with these values."""
    return [row for row in rows if all(row[key] == str(value) for key, value in wanted.items())]


def at_budget(rows: Sequence[Row]) -> float | None:
    """Return the ratio at the budget; None if no bound is within it.

    >>> at_budget([{"kl": "1", "ratio": "10", "budget": "2"}, {"kl": "4", "ratio": "40", "budget": "2"}])
    20.0
    """
    if not rows:
        return None
    points = sorted((float(row["kl"]), float(row["ratio"])) for row in rows)
    budget = float(rows[0]["budget"])
    inside = [ratio for kl, ratio in points if kl <= budget]
    if not inside:
        return None
    best = max(inside)
    for (low, small), (high, large) in itertools.pairwise(points):
        if 0 < low <= budget < high < math.inf and large > small:
            best = max(best, small * (large / small) ** (math.log(budget / low) / math.log(high / low)))
    return round(best, 3)


def ratio_of(rows: Sequence[Row], method: str) -> float | None:
    """Return a method's ratio at the budget, the best of its variants."""
    names = {row["method"] for row in rows if row["method"] == method or row["method"].startswith(f"{method}, vectors")}
    found = [at_budget([row for row in rows if row["method"] == name]) for name in names]
    return max((ratio for ratio in found if ratio is not None), default=None)


def cell(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1f}x"


def snapshot_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line a snapshot: ratios at the budget, and both of ours by the better one of the paper's."""
    names = " | ".join(name for name, _ in METHODS)
    yield f"| network, seed, snapshot | budget KL | zstd | LZMA | {names} | ours by Delta-DNN | with inputs |"
    yield "|" + "---|" * (6 + len(METHODS))
    keys = dict.fromkeys((row["network"], row["seed"], row["snapshot"]) for row in rows_of(rows, kind="snapshot"))
    for network, seed, snapshot in keys:
        mine = rows_of(rows, kind="snapshot", network=network, seed=seed, snapshot=snapshot)
        lossless = [next((r["ratio"] for r in mine if r["method"] == method), "-") for method in ("zstd", "lzma")]
        some = [row for row in mine if row["kl"]]
        ratios = {method: ratio_of(some, method) for _, method in METHODS}
        paper = max((ratio for ratio in map(ratios.get, PAPERS) if ratio), default=None)
        ours = (ratios["modelvault"], ratios["modelvault, 256 inputs"])
        by = [f"{ratio / paper:.2f}" if ratio and paper else "-" for ratio in ours]
        cells = [*lossless, *map(cell, ratios.values()), *by]
        yield f"| {network}, {seed}, {snapshot} | {mine[0]['budget']} | {' | '.join(cells)} |"


def accuracy_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line for each method on each snapshot: what its largest bound within the budget does to the network.

    One column says whether the paper's rule would let it pass.
    """
    yield (
        "| network, seed, snapshot | method | eps | ratio | images | accuracy | by the original's |"
        " at most 0.2 % lost | flipped | KL |"
    )
    yield "|" + "---|" * 10
    for row in rows_of(rows, kind="final"):
        was = float(row["original"])
        change = (float(row["accuracy"]) - was) / was if was else math.nan
        yield (
            f"| {row['network']}, {row['seed']}, {row['snapshot']} | {row['method']} | {float(row['eps']):.2g} |"
            f" {float(row['ratio']):.1f}x | {row['images']} | {100 * float(row['accuracy']):.2f} % |"
            f" {100 * change:+.2f} % | {'yes' if change >= -PAPER_LOSS else 'no'} |"
            f" {100 * float(row['flips']):.2f} % | {row['kl']} |"
        )


def back_end_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the paper's four back ends, each at the largest bound within the budget, statistics packed by LZMA."""
    yield "| network, seed, snapshot | eps | zstd | LZMA | RLE+zstd | RLE+LZMA |"
    yield "|---|---|---|---|---|---|"
    for row in rows_of(rows, kind="snapshot", method="delta-dnn, statistics exact"):
        if float(row["kl"]) > float(row["budget"]):
            continue
        sizes = [int(part.split(":")[1]) for part in row["note"].split()]
        ratios = " | ".join(f"{int(row['raw']) / size:.1f}x" for size in sizes)
        yield f"| {row['network']}, {row['seed']}, {row['snapshot']} | {float(row['eps']):.2g} | {ratios} |"


def history_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line for each method and network: its first snapshot, its deltas, and all of it."""
    yield "| network | snapshots | method | keyframe | deltas | whole history | accuracy by the original's, mean |"
    yield "|" + "---|" * 7
    for network in dict.fromkeys(row["network"] for row in rows_of(rows, kind="history")):
        some = rows_of(rows, kind="history", network=network)
        for method in dict.fromkeys(row["method"] for row in some):
            mine = [row for row in some if row["method"] == method]
            sizes = [(int(row["raw"]), int(row["stored"])) for row in mine]
            whole = sum(raw for raw, _ in sizes) / sum(stored for _, stored in sizes)
            deltas = sum(raw for raw, _ in sizes[1:]) / max(1, sum(stored for _, stored in sizes[1:]))
            change = sum(float(row["accuracy"]) / float(row["original"]) - 1 for row in mine) / len(mine)
            first = sizes[0][0] / sizes[0][1]
            # A plan of the whole may have its keyframes anywhere.
            parts = "- | -" if method.endswith("repacked") else f"{first:.2f}x | {deltas:.1f}x"
            yield f"| {network} | {len(sizes)} | {method} | {parts} | {whole:.1f}x | {100 * change:+.3f} % |"


def transmission_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the seconds that each network's last snapshot measured takes to a device that has the one before."""
    yield "| network | over | as it is | SZ | Delta-DNN | ours | ours, 256 inputs |"
    yield "|" + "---|" * 7
    for network in dict.fromkeys(row["network"] for row in rows_of(rows, kind="snapshot", seed=1)):
        mine = [row for row in rows_of(rows, kind="snapshot", network=network, seed=1) if row["kl"]]
        if not mine:
            continue
        last = [row for row in mine if row["snapshot"] == max(row["snapshot"] for row in mine)]
        raw = int(last[0]["raw"])
        paper = max(ratio_of(last, method) or 1 for method in PAPERS)
        others = ("sz, statistics exact", "modelvault", "modelvault, 256 inputs")
        sz, ours, by_inputs = (ratio_of(last, method) for method in others)
        ratios = (1, sz, paper, ours, by_inputs)
        for name, bandwidth in BANDWIDTHS:
            seconds = " | ".join(f"{raw * 8 / ratio / bandwidth / 1e6:.3f} s" if ratio else "-" for ratio in ratios)
            yield f"| {network}, {last[0]['snapshot']} | {name}, {bandwidth} Mbit/s | {seconds} |"


def draw(rows: Sequence[Row], directory: Path) -> None:
    """Draw KL against ratio for every snapshot, and ratios by snapshot of histories."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "modelvault", "font.size": 8})
    from matplotlib import pyplot

    keys = list(dict.fromkeys((r["network"], r["seed"], r["snapshot"]) for r in rows_of(rows, kind="snapshot")))
    across = 3
    figure, axes = pyplot.subplots(
        -(-len(keys) // across), across, figsize=(10, 2.6 * -(-len(keys) // across)), squeeze=False
    )
    for axis in axes.flat[len(keys) :]:
        axis.set_visible(False)
    for axis, (network, seed, snapshot) in zip(axes.flat, keys, strict=False):
        mine = [r for r in rows_of(rows, kind="snapshot", network=network, seed=seed, snapshot=snapshot) if r["kl"]]
        for method in dict.fromkeys(row["method"] for row in mine):
            points = [(float(row["ratio"]), float(row["kl"])) for row in mine if row["method"] == method]
            points = sorted(point for point in points if 0 < point[1] < math.inf)
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=method)
        if mine:
            axis.axhline(float(mine[0]["budget"]), color="grey", linestyle=":")
        axis.set(xscale="log", yscale="log", title=f"{network}, {snapshot}, seed {seed}", xlabel="ratio", ylabel="KL")
    axes.flat[0].legend(fontsize=5)
    figure.tight_layout()
    figure.savefig(directory / "lossy-fidelity.svg", metadata={"Date": None})

    histories = list(dict.fromkeys(row["network"] for row in rows_of(rows, kind="history")))
    if not histories:
        return
    figure, axes = pyplot.subplots(1, len(histories), figsize=(5 * len(histories), 3), squeeze=False)
    for axis, network in zip(axes.flat, histories, strict=True):
        methods = dict.fromkeys(row["method"] for row in rows_of(rows, kind="history", network=network))
        for method in (method for method in methods if not method.endswith("repacked")):
            mine = rows_of(rows, kind="history", network=network, method=method)
            axis.plot([int(row["snapshot"][-3:]) for row in mine], [float(row["ratio"]) for row in mine], label=method)
        axis.set(yscale="log", title=network, xlabel="snapshot", ylabel="ratio")
        axis.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(directory / "lossy-history.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="what measure.py wrote")
    parser.add_argument("--pictures", type=Path, help="where to draw; needs matplotlib")
    given = parser.parse_args()
    with given.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for title, lines in (
        ("One snapshot against an exact predecessor, ratio at the budget", snapshot_table(rows)),
        ("With the largest bound within the budget", accuracy_table(rows)),
        ("The four back ends", back_end_table(rows)),
        ("Whole histories", history_table(rows)),
        ("Transmission", transmission_table(rows)),
    ):
        print(f"## {title}\n", *lines, "", sep="\n")
    if given.pictures is not None:
        draw(rows, given.pictures)


if __name__ == "__main__":
    main()
