#!/usr/bin/env python3
"""Measure the paper's method and ours on snapshots that `train.py` made, at the fidelity that each of them gives.

    snapshots  one snapshot against an exact predecessor, early, in the middle and late in a run: every method with the
               largest bound within the budget and with the next larger one; the paper's four back ends; its baselines
    final      what stayed within the budget, once more on the whole test split; in the small setting of the last of
               these snapshots, and of the paper's two forms the better one alone, without SZ
    history    all snapshots of a run in a row, each with the largest bound within its budget; ours once more after
               `repack`, each byte with the oldest commit that needs it

Fidelity is the mean KL divergence of the network's outputs from the original's on the first test images, the share of
predictions that flipped, and the accuracy. The budget of a snapshot A with predecessor B is KL(A||A') <= 1 % of
KL(A||B). In a history the paper's method begins with the raw bytes of the first snapshot packed by zstd 19 and goes on
from what was restored.

Rows go to a CSV as they are measured; what is there already is not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import lzma
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import zstandard
from images import Images, load_images
from methods import (
    BY_INPUTS,
    EXACT,
    INPUTS,
    LABELS,
    OURS,
    OURS_ALONE,
    PAPER,
    REPACKED,
    SZ,
    SZ_DELTA,
    VECTORS,
    Following,
    Made,
    Method,
    Network,
    Span,
    State,
    Way,
    load,
    our_ways,
    paper_bounds,
    papers,
    raw_of,
    ways_of,
)
from networks import BATCH, NETWORKS
from torch import Tensor
from torch.nn import functional

import modelvault

FIELDS = (
    "seed",
    "network",
    "kind",
    "snapshot",
    "method",
    "eps",
    "vectors",
    "raw",
    "stored",
    "ratio",
    "kl",
    "budget",
    "flips",
    "accuracy",
    "original",
    "images",
    "note",
)

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": zstandard.ZstdCompressor(level=19).compress,
    "lzma": partial(lzma.compress, preset=6),
}

KINDS = ("snapshots", "final", "history")

IMAGES, FULL_IMAGES = 512, 1000
"""Test images for the search, in the small setting and in the full one."""

WITHOUT_INPUTS = {"snapshots": {"resnet101", "googlenet"}, "history": set(NETWORKS)}
"""Not measured with inputs in the small setting, by kind. A search takes each input back through the network for every
bound that it tries: seven minutes of one processor for GoogLeNet, nine for ResNet101, and one for each snapshot of
ShuffleNet."""

HISTORY = f"{OURS}, vectors {max(VECTORS):g}"
"""Of ours, what histories are measured with in the small setting: never larger there than with the smaller bound, by up
to 16 % smaller (MobileNet 31.7x and 26.5x)."""

FIRST_BUDGET = 0.0001
"""Of a history's first snapshot, which has no predecessor. The paper's is exact."""


class Fidelity(NamedTuple):
    """How near a network is to another: mean KL divergence, share of predictions flipped, share of images right."""

    kl: float
    flips: float
    accuracy: float


class Judge:
    """Runs one network on the test images."""

    def __init__(self, name: str, images: Images, count: int) -> None:
        self._model = NETWORKS[name].make().eval().to(memory_format=torch.channels_last)
        self._images, self._labels, self.count = images.test[:count], images.test_labels[:count], count

    def outputs(self, state: State) -> Tensor:
        """Return log probabilities, (images, classes)."""
        self._model.load_state_dict(state)
        with torch.no_grad():
            parts = [self._model(batch).double() for batch in self._images.split(BATCH)]
        return functional.log_softmax(torch.cat(parts), 1)

    def fidelity(self, original: Tensor, state: State) -> Fidelity:
        """Compare a state's outputs with the original's; a network that gives NaN is infinitely far off."""
        found = self.outputs(state)
        flips = (original.argmax(1) != found.argmax(1)).double().mean().item()
        return Fidelity(divergence(original, found), flips, self.accuracy(found))

    def accuracy(self, outputs: Tensor) -> float:
        """Return the share of images that are recognised."""
        return float((outputs.argmax(1) == self._labels).double().mean())


def divergence(original: Tensor, found: Tensor) -> float:
    """Return the mean KL divergence of log probabilities, (images, classes), from the original's; infinite for NaN."""
    kl = float((original.exp() * (original - found)).sum(1).mean())
    return kl if math.isfinite(kl) else math.inf


class Table:
    """A CSV that grows row by row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))

    def has(self, **wanted: object) -> bool:
        """Return whether a row has these values."""
        return any(all(row[key] == str(value) for key, value in wanted.items()) for row in self.rows)

    def add_all(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Write rows that belong together, once all of them are known."""
        for row in rows:
            self.add(**row)

    def add(self, **values: object) -> None:
        """Write a row."""
        is_new = not self._path.exists()
        row = {field: str(values.get(field, "")) for field in FIELDS}
        self.rows.append(row)
        with self._path.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            if is_new:
                writer.writeheader()
            writer.writerow(row)
        print(*(f"{row[key]}" for key in FIELDS if row[key]), flush=True)


class Search:
    """Looks for the largest bound with which a method stays within a budget, and keeps what it tried."""

    def __init__(self, method: Method, judge: Judge, original: Tensor, budget: float) -> None:
        self._method, self._judge, self._original, self._budget = method, judge, original, budget
        self.tried: dict[float, tuple[Made, Fidelity]] = {}

    def at(self, eps: float) -> tuple[Made, Fidelity]:
        """Return what the method gives with this bound."""
        if eps not in self.tried:
            made = self._method(eps)
            self.tried[eps] = made, self._judge.fidelity(self._original, made.state)
        return self.tried[eps]

    def largest(self, way: Way, guess: float) -> int:
        """Return the place of a bound that is within the budget while the next larger one is not; 0 if none is.

        Fidelity is not quite monotone in the bound: there may be others. Looked at next is where the divergence would
        be the budget if it grew with the bound's square; two octaves down where it is no number.
        """
        inside, outside = -1, len(way.bounds)
        place = min(max(way.place(guess), 0), outside - 1)
        while outside - inside > 1:
            kl = self.at(way.bounds[place])[1].kl
            if kl <= self._budget:
                inside = place
            else:
                outside = place
            octaves = math.log2(self._budget / kl) / 2 if 0 < kl < math.inf else -2.0 if kl > 0 else 0.0
            place = min(max(place + math.floor(octaves * way.octave), inside + 1), outside - 1)
        return max(inside, 0)


class Pair(NamedTuple):
    """A snapshot and the one before."""

    target: Path
    before: Path


class Asked(NamedTuple):
    """What is to be measured: methods by label, bounds, and the network with inputs for the one that needs them."""

    methods: Sequence[str]
    span: Span
    network: Network


def numbers(eps: float, made: Made, found: Fidelity, raw: int, who: Judge) -> dict[str, object]:
    """Return what a row says of a method's result."""
    return {
        "eps": f"{eps:.6g}",
        "raw": raw,
        "stored": made.stored,
        "ratio": round(raw / made.stored, 3),
        "kl": f"{found.kl:.4g}",
        "flips": f"{found.flips:.5f}",
        "accuracy": f"{found.accuracy:.5f}",
        "images": who.count,
        "note": made.note,
    }


def snapshot(table: Table, key: dict[str, object], pair: Pair, judge: Judge, asked: Asked) -> None:
    """Measure one snapshot against its exact predecessor, with every method that is asked for."""
    state = load(pair.target)
    original = judge.outputs(state)
    budget = 0.01 * judge.fidelity(original, load(pair.before)).kl
    raw = raw_of(state)
    common = {**key, "budget": f"{budget:.4g}"}
    guess = 8.0  # in octaves
    with ways_of_pair(pair, asked, budget) as ways:
        for way in ways:
            if way.label not in asked.methods or table.has(**key, method=way.label):
                continue
            search = Search(way.method, judge, original, budget)
            chosen = search.largest(way, guess)
            if way.start is None:
                guess = chosen / way.octave
            rows = [
                {
                    **common,
                    **numbers(eps, *search.at(eps), len(raw), judge),
                    "method": way.label,
                    "vectors": way.vectors,
                    "original": f"{judge.accuracy(original):.5f}",
                }
                for eps in way.bounds[chosen : chosen + 2]
            ]
            table.add_all(rows)  # both or none: a method that has a row is not measured again
    for packer, pack in PACKERS.items():
        if not table.has(**key, method=packer):
            size = len(pack(raw))
            table.add(**common, method=packer, raw=len(raw), stored=size, ratio=round(len(raw) / size, 3))


def once_more(
    table: Table, key: dict[str, object], pair: Pair, judge: Judge, asked: Asked, variants: Sequence[Sequence[str]]
) -> None:
    """Measure what was within the budget on more images: every method, of variants the one that takes the least."""
    rows = [row for row in table.rows if all(row[name] == str(value) for name, value in key.items()) and row["kl"]]
    inside = [row for row in rows if float(row["kl"]) <= float(row["budget"])]
    if not inside:
        return
    chosen = {row["method"]: row for row in sorted(inside, key=lambda row: float(row["eps"]))}
    for labels in variants:
        group = sorted((chosen[name] for name in labels if name in chosen), key=lambda row: int(row["stored"]))
        for row in group[1:]:
            del chosen[row["method"]]
    outputs: Tensor | None = None
    with ways_of_pair(pair, asked, float(inside[0]["budget"])) as found_ways:
        ways = {way.label: way for way in found_ways}
        for row in chosen.values():
            is_asked = row["method"] in asked.methods
            if not is_asked or table.has(**{**key, "kind": "final"}, method=row["method"]):
                continue
            if outputs is None:
                outputs = judge.outputs(load(pair.target))
            way = ways[row["method"]]
            eps = min(way.bounds, key=lambda eps: abs(eps - float(row["eps"])))
            found = judge.fidelity(outputs, way.method(eps).state)
            more = {
                "kind": "final",
                "kl": f"{found.kl:.4g}",
                "flips": f"{found.flips:.5f}",
                "accuracy": f"{found.accuracy:.5f}",
                "original": f"{judge.accuracy(outputs):.5f}",
                "images": judge.count,
            }
            table.add(**{**row, **more})


@contextlib.contextmanager
def ways_of_pair(pair: Pair, asked: Asked, budget: float) -> Iterator[list[Way]]:
    """Give all methods, ours behind an exact commit of the snapshot before."""
    with tempfile.TemporaryDirectory() as directory:
        vault = modelvault.open(directory, create=True)
        vault.commit(shutil.copy(pair.before, Path(directory, "model.pt")), message="before")
        following = Following(Path(directory), pair.target)
        yield ways_of(following, load(pair.before), asked.network, budget, asked.span)


def history(table: Table, key: dict[str, object], paths: list[Path], judge: Judge, asked: Asked) -> None:
    """Measure all snapshots in a row, each with the largest bound that stays within its budget."""
    wanted = [
        label
        for label in (EXACT, *OURS_ALONE, BY_INPUTS)
        if label in asked.methods and not table.has(**key, method=label)
    ]
    originals = [judge.outputs(load(path)) for path in paths] if wanted else []
    for label in wanted:
        with tempfile.TemporaryDirectory() as directory:
            modelvault.open(directory, create=True)
            rows: list[dict[str, object]] = []
            guess = 7.0  # in octaves
            chain: State | None = None
            for place, (path, original) in enumerate(zip(paths, originals, strict=True)):
                budget = 0.01 * divergence(original, originals[place - 1]) if place else FIRST_BUDGET
                following = Following(Path(directory), path, stays=True)
                if label == EXACT:
                    way = next_of_chain(load(path), chain, asked.span)
                else:
                    ways = our_ways(following, asked.network, budget, asked.span)
                    way = next(way for way in ways if way.label == label)
                search = Search(way.method, judge, original, budget)
                chosen = search.largest(way, guess)
                if len(way.bounds) > 1:
                    guess = chosen / way.octave
                made, found = search.at(way.bounds[chosen])
                chain = made.state
                rows.append(
                    {
                        **key,
                        **numbers(way.bounds[chosen], made, found, len(raw_of(chain)), judge),
                        "snapshot": path.stem,
                        "method": label,
                        "vectors": way.vectors,
                        "budget": f"{budget:.4g}",
                        "original": f"{judge.accuracy(original):.5f}",
                    }
                )
            if label in OURS_ALONE:
                for row, stored in zip(list(rows), following.repacked(), strict=True):
                    ratio = round(float(str(row["raw"])) / stored, 3)
                    rows.append({**row, "method": REPACKED.format(label), "stored": stored, "ratio": ratio})
        table.add_all(rows)  # whole or not at all: a history that has a row is not measured again


def next_of_chain(target: State, chain: State | None, span: Span) -> Way:
    """Return the paper's method for a snapshot behind what was restored of others; its first one is exact."""
    if chain is not None:
        return Way(EXACT, "", partial(papers, target, chain, True), paper_bounds(*span))
    size = len(PACKERS["zstd"](raw_of(target)))
    return Way(EXACT, "", lambda _: Made(target, lambda: (size, "exact")), [0.0])


def methods_of(given: argparse.Namespace, name: str, kind: str) -> Sequence[str]:
    """Return the methods to measure a network with: those that are given, else all that the setting has time for."""
    if given.methods or given.full:
        return given.methods or LABELS
    left_out = {BY_INPUTS} if name in WITHOUT_INPUTS.get(kind, ()) else set[str]()
    if kind == "final":
        left_out |= {SZ, SZ_DELTA}
    if kind == "history":
        left_out |= set(OURS_ALONE) - {HISTORY}
    return [label for label in LABELS if label not in left_out]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="where the snapshots are")
    parser.add_argument("table", type=Path, help="the CSV to write")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--methods", nargs="+", choices=LABELS, metavar="METHOD", help="by their names in the CSV")
    parser.add_argument("--seed", type=int, default=1, help="the seed that the snapshots were trained with")
    parser.add_argument("--places", nargs="+", type=float, help="where in a run snapshots are taken, 0 to 1")
    parser.add_argument("--range", default="0.0000125:0.1", help="bounds to search; the paper's are 0.01:0.1")
    parser.add_argument("--full", action="store_true", help="more images, every method everywhere")
    parser.add_argument("--cifar", type=Path, help="the directory that holds cifar-10-batches-py")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    table = Table(given.table)
    os.environ.setdefault("MODELVAULT_AUTHOR", "bench")
    torch.set_num_threads(given.threads)
    images = load_images(given.cifar, training=INPUTS)
    for name in given.networks:
        paths = sorted((given.root / name).glob("epoch-*.pt"))[1:]  # the first is noise
        if len(paths) < 2:
            continue
        last = len(paths) - 1
        judge = Judge(name, images, FULL_IMAGES if given.full else IMAGES)
        samples = images.train.contiguous(memory_format=torch.channels_last)
        network = Network(NETWORKS[name].make(), samples.split(BATCH))
        span = Span(*map(float, given.range.split(":")))
        asked = Asked(methods_of(given, name, "snapshots"), span, network)
        shares = given.places or ((0.25, 0.55, 1) if last >= 19 else (0.5, 1) if last >= 5 else (0.5,))
        if given.seed != 1 and not given.places and not given.full:
            shares = (shares[0], shares[-1])  # enough to see how far seeds lie apart
        places = sorted({min(max(round(share * last), 1), last) for share in shares})
        for place in places:
            key = {"seed": given.seed, "network": name, "kind": "snapshot", "snapshot": paths[place].stem}
            pair = Pair(paths[place], paths[place - 1])
            if "snapshots" in given.kinds:
                snapshot(table, key, pair, judge, asked)
            if "final" in given.kinds and (given.full or place == places[-1]):
                fewer = asked._replace(methods=methods_of(given, name, "final"))
                variants = (tuple(OURS_ALONE),) if given.full else (tuple(OURS_ALONE), (EXACT, PAPER))
                once_more(table, key, pair, Judge(name, images, len(images.test)), fewer, variants)
        if "history" in given.kinds:
            asked = asked._replace(methods=methods_of(given, name, "history"))
            history(table, {"seed": given.seed, "network": name, "kind": "history"}, paths, judge, asked)


if __name__ == "__main__":
    main()
