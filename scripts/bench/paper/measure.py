#!/usr/bin/env python3
"""Measure the paper's method and ours on snapshots that `train.py` made, at the fidelity that each of them gives.

    snapshots  one snapshot against an exact predecessor, early, in the middle and late in a run: every method with the
               largest bound within the budget and with the next larger one; the paper's four back ends; its baselines
    final      what stayed within the budget, once more on the whole test split
    history    all snapshots of a run in a row, each with the largest bound within its budget

Fidelity is the mean KL divergence of the network's outputs from the original's on the first test images, the share of
predictions that flipped, and the accuracy. The budget of a snapshot A with predecessor B is KL(A||A') <= 1 % of
KL(A||B). Ours are bytes that a real
vault says a commit added, everything included; the paper's are those of its best back end over every floating-point
tensor, and 0 for container and names. Its history begins with the raw bytes of the first snapshot packed by zstd 19 and
goes on from what was restored.

Rows go to a CSV as they are measured; what is there already is not measured again.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import lzma
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import deltadnn
import numpy as np
import torch
import zstandard
from images import Images, load_images
from networks import NETWORKS
from torch import Tensor
from torch.nn import functional

import modelvault
from modelvault import codec
from modelvault.tensors import DType

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

KINDS = ("snapshots", "final", "history")

VECTORS = (0.002, 0.016)
"""Relative bounds of tensors of one dimension, the one with the best ratio counts."""

IMAGES = {"shufflenet": 256, "vgg16": 256, "resnet101": 64}
"""Test images for the search in the small setting, 128 for the other networks; 1,000 in the full one."""

FINAL = {"googlenet": 1000, "resnet101": 1000}
"""Test images for what was found in the small setting, all of them for the other networks; all in the full one."""

OURS = "modelvault"

EXACT = "delta-dnn, statistics exact"
"""The paper's formula over parameters alone, running statistics packed exactly by LZMA: rounded by an absolute step, a
variance near 0 may come out below it, and the network gives NaN."""

FIRST_BUDGET = 0.0001
"""Of a history's first snapshot, which has no predecessor. The paper's is exact."""

State = dict[str, Tensor]


class Fidelity(NamedTuple):
    """How near a network is to another: mean KL divergence, share of predictions flipped, share of images right."""

    kl: float
    flips: float
    accuracy: float


class Made:
    """What a method makes of a snapshot with some bound: the state, and once somebody asks for it, its bytes.

    Args:
        state: what is restored.
        pack: returns bytes, and a note.
    """

    def __init__(self, state: State, pack: Callable[[], tuple[int, str]]) -> None:
        self.state, self._pack = state, pack
        self._packed: tuple[int, str] | None = None

    @property
    def stored(self) -> int:
        """Bytes."""
        return self._pack_once()[0]

    @property
    def note(self) -> str:
        """What is to be said of them."""
        return self._pack_once()[1]

    def _pack_once(self) -> tuple[int, str]:
        if self._packed is None:
            self._packed = self._pack()
        return self._packed


Method = Callable[[float], Made]


class Judge:
    """Runs one network on the test images."""

    def __init__(self, name: str, images: Images, count: int) -> None:
        self._model = NETWORKS[name].make().eval()
        self._images, self._labels, self.count = images.test[:count], images.test_labels[:count], count

    def outputs(self, state: State) -> Tensor:
        """Return log probabilities, (images, classes)."""
        self._model.load_state_dict(state)
        with torch.no_grad():
            parts = [self._model(batch).double() for batch in self._images.split(128)]
        return functional.log_softmax(torch.cat(parts), 1)

    def fidelity(self, original: Tensor, state: State) -> Fidelity:
        """Compare a state's outputs with the original's; a network that gives NaN is infinitely far off."""
        found = self.outputs(state)
        kl = (original.exp() * (original - found)).sum(1).mean().item()
        flips = (original.argmax(1) != found.argmax(1)).double().mean().item()
        return Fidelity(kl if math.isfinite(kl) else math.inf, flips, self.accuracy(found))

    def accuracy(self, outputs: Tensor) -> float:
        """Return the share of images that are recognised."""
        return float((outputs.argmax(1) == self._labels).double().mean())


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


def paper_bounds(low: float, high: float) -> list[float]:
    """Return the bounds that the paper's method is tried with: two an octave.

    >>> [f"{eps:.3g}" for eps in paper_bounds(0.001, 0.003)]
    ['0.001', '0.00141', '0.002', '0.00283']
    """
    return [low * 2 ** (place / 2) for place in range(int(2 * math.log2(high / low) + 1e-9) + 1)]


def our_bounds(low: float, high: float) -> list[float]:
    """Return bounds whose steps are powers of two, all that there are."""
    found = [math.expm1(2.0 ** (exponent - 1)) * (1 + 1e-12) for exponent in range(-20, 2)]
    return [eps for eps in found if low <= eps <= high]


def load(path: Path) -> State:
    state: State = torch.load(path, weights_only=True)
    return state


def layers(state: State) -> deltadnn.Layers:
    return {name: tensor.numpy() for name, tensor in state.items() if tensor.is_floating_point()}


def with_layers(state: State, restored: deltadnn.Layers) -> State:
    return state | {name: torch.from_numpy(layer) for name, layer in restored.items()}


def raw_of(state: State) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in state.values())


# Methods


def papers(target: State, reference: State, statistics_exact: bool, eps: float) -> Made:
    """Return what the paper's method gives, over all tensors or over those that training itself moves."""
    kept = _statistics(target) if statistics_exact else []
    rounded = {name: layer for name, layer in layers(target).items() if name not in kept}
    multiples, restored = deltadnn.quantise(rounded, layers(reference), eps)

    def pack() -> tuple[int, str]:
        sizes = {back_end: deltadnn.packed_bytes(multiples, back_end) for back_end in deltadnn.BACK_ENDS}
        beside = _lzma_bytes(target, kept)
        return min(sizes.values()) + beside, " ".join(f"{name}:{size + beside}" for name, size in sizes.items())

    return Made(with_layers(target, restored), pack)


def sz(target: State, reference: State | None, eps: float) -> Made:
    """Return what SZ3 makes of a snapshot, or of its difference to another, running statistics packed exactly."""
    kept = _statistics(target)
    base = {} if reference is None else layers(reference)
    rounded = {name: layer for name, layer in layers(target).items() if name not in kept}
    packed = deltadnn.sz_bytes(
        {name: layer - base[name] if base else layer for name, layer in rounded.items()}, eps, relative=False
    )
    assert packed is not None  # it was looked for
    size, restored = packed
    state = with_layers(target, {name: layer + base[name] if base else layer for name, layer in restored.items()})
    return Made(state, lambda: (size + _lzma_bytes(target, kept), ""))


def _statistics(state: State) -> list[str]:
    return sorted(name for name in layers(state) if ".running_" in name)


def _lzma_bytes(state: State, names: Sequence[str]) -> int:
    return len(lzma.compress(b"".join(state[name].numpy().tobytes() for name in names), preset=6)) if names else 0


def rounded_alone(target: State, vectors: float, eps: float) -> State:
    """Return what a checkout of a lossy commit gives; `Vaults` sees to it that it does."""
    found = {}
    for name, layer in layers(target).items():
        raw = layer.tobytes()
        if layer.ndim > 1:
            done = codec.round_elements(raw, DType.F32, codec.Bound.ABS, eps)
        else:
            done = codec.round_within_both(raw, DType.F32, eps, vectors)
        found[name] = np.frombuffer(bytearray(done.raw), np.float32).reshape(layer.shape)
    return with_layers(target, found)


class Vaults:
    """A vault with an exact commit of a snapshot, copied for each trial of the next one."""

    def __init__(self, directory: Path, before: Path, target: Path) -> None:
        self._directory, self._target, self._trials = directory, target, 0
        self._state = load(target)
        vault = modelvault.open(directory / "exact", create=True)
        shutil.copy(before, directory / "exact" / "model.pt")
        vault.commit(directory / "exact" / "model.pt", message="before")

    def commit(self, vectors: float, eps: float) -> Made:
        """Return what a lossy commit of the target with these bounds is."""
        state = rounded_alone(self._state, vectors, eps)
        return Made(state, partial(self._pack, state, vectors, eps))

    def _pack(self, state: State, vectors: float, eps: float) -> tuple[int, str]:
        self._trials += 1
        place = self._directory / f"trial-{self._trials}"
        shutil.copytree(self._directory / "exact", place, symlinks=True)
        vault = modelvault.open(place)
        shutil.copy(self._target, place / "model.pt")
        done = vault.commit(place / "model.pt", message="after", lossy=eps, vectors=vectors)
        check_same(state, vault.load(done.id))
        shutil.rmtree(place)
        return done.added_bytes, ""


def commit_next(vault: modelvault.Vault, path: Path, target: State, vectors: float, eps: float) -> Made:
    """Return what a lossy commit behind all others is; it is made when its bytes are asked for."""
    state = rounded_alone(target, vectors, eps)

    def pack() -> tuple[int, str]:
        shutil.copy(path, vault.root / "model.pt")
        done = vault.commit(vault.root / "model.pt", message=path.stem, lossy=eps, vectors=vectors)
        check_same(state, vault.load(done.id))
        return done.added_bytes, ""

    return Made(state, pack)


def check_same(expected: State, found: State) -> None:
    """Check that a vault gave what was measured.

    Raises:
        SystemExit: it did not.
    """
    for name, tensor in expected.items():
        if tensor.numpy().tobytes() != found[name].numpy().tobytes():
            raise SystemExit(f"{name}: the vault gave something else than what was measured")


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

    def within(self, eps: float) -> bool:
        """Return whether that is within the budget."""
        return self.at(eps)[1].kl <= self._budget

    def largest(self, bounds: Sequence[float], guess: int) -> int:
        """Return the place of a bound that is within the budget while the next larger one is not; 0 if none is.

        Fidelity is not quite monotone in the bound: what is found is the first such place from `guess` on.
        """
        place = min(max(guess, 0), len(bounds) - 1)
        if self.within(bounds[place]):
            while place + 1 < len(bounds) and self.within(bounds[place + 1]):
                place += 1
            return place
        while place > 0:
            place -= 1
            if self.within(bounds[place]):
                break
        return place


# What is measured


class Span(NamedTuple):
    """The range of bounds to search."""

    low: float
    high: float


class Way(NamedTuple):
    """A method, and the bounds it is tried with."""

    label: str
    vectors: float | str
    method: Method
    bounds: Sequence[float]


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


def methods_for(target: Path, before: Path, directory: Path, span: Span) -> list[Way]:
    """Return all methods for a snapshot with an exact predecessor."""
    state, reference = load(target), load(before)
    vaults = Vaults(directory, before, target)
    found = [Way(EXACT, "", partial(papers, state, reference, True), paper_bounds(*span))]
    for each in VECTORS:
        found.append(Way(f"{OURS}, vectors {each:g}", each, partial(vaults.commit, each), our_bounds(*span)))
    found.append(Way("delta-dnn", "", partial(papers, state, reference, False), paper_bounds(*span)))
    if importlib.util.find_spec("pysz"):
        found += [
            Way("sz, statistics exact", "", partial(sz, state, None), paper_bounds(*span)),
            Way("sz of the delta, statistics exact", "", partial(sz, state, reference), paper_bounds(*span)),
        ]
    return found


def snapshot(table: Table, key: dict[str, object], target: Path, before: Path, judge: Judge, span: Span) -> None:
    """Measure one snapshot against its exact predecessor, with every method."""
    state, reference = load(target), load(before)
    original = judge.outputs(state)
    budget = 0.01 * judge.fidelity(original, reference).kl
    raw = raw_of(state)
    common = {**key, "budget": f"{budget:.4g}"}
    with tempfile.TemporaryDirectory() as directory:
        guess = 8.0  # in octaves
        for way in methods_for(target, before, Path(directory), span):
            if table.has(**key, method=way.label):
                continue
            search = Search(way.method, judge, original, budget)
            octave = 1 if way.label.startswith(OURS) else 2
            chosen = search.largest(way.bounds, round(guess * octave))
            guess = chosen / octave
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
    if not table.has(**key, method="zstd"):
        for packer, size in (
            ("zstd", len(zstandard.ZstdCompressor(level=19).compress(raw))),
            ("lzma", len(lzma.compress(raw, preset=6))),
        ):
            table.add(**common, method=packer, raw=len(raw), stored=size, ratio=round(len(raw) / size, 3))


def once_more(table: Table, key: dict[str, object], target: Path, before: Path, judge: Judge, span: Span) -> None:
    """Measure what was within the budget on more images: every method but ours, and the smallest of ours."""
    rows = [row for row in table.rows if all(row[name] == str(value) for name, value in key.items()) and row["kl"]]
    inside = [row for row in rows if float(row["kl"]) <= float(row["budget"])]
    ours = [row for row in inside if row["method"].startswith(OURS)]
    chosen = [
        max((r for r in inside if r["method"] == name), key=lambda r: float(r["eps"]))
        for name in dict.fromkeys(r["method"] for r in inside if not r["method"].startswith(OURS))
    ]
    if ours:
        chosen.append(min(ours, key=lambda row: int(row["stored"])))
    outputs: Tensor | None = None
    with tempfile.TemporaryDirectory() as directory:
        ways = {way.label: way for way in methods_for(target, before, Path(directory), span)}
        for row in chosen:
            if table.has(**{**key, "kind": "final"}, method=row["method"]):
                continue
            if outputs is None:
                outputs = judge.outputs(load(target))
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


def history(table: Table, name: str, seed: int, paths: list[Path], judge: Judge, span: Span) -> None:
    """Measure all snapshots in a row, each with the largest bound that stays within its budget."""
    if table.has(seed=seed, network=name, kind="history"):
        return
    guesses = {EXACT: 14, **{f"modelvault, vectors {v:g}": 7 for v in VECTORS}}
    with tempfile.TemporaryDirectory() as directory:
        vaults = {v: modelvault.open(Path(directory, f"{v:g}"), create=True) for v in VECTORS}
        rows: list[dict[str, object]] = []
        chain: State | None = None
        before: State | None = None
        for path in paths:
            target = load(path)
            original = judge.outputs(target)
            raw = len(raw_of(target))
            budget = FIRST_BUDGET if before is None else 0.01 * judge.fidelity(original, before).kl
            common = {
                "seed": seed,
                "network": name,
                "kind": "history",
                "snapshot": path.stem,
                "budget": f"{budget:.4g}",
                "original": f"{judge.accuracy(original):.5f}",
            }
            if chain is None:
                stored = len(zstandard.ZstdCompressor(level=19).compress(raw_of(target)))
                exact = Made(target, partial(tuple[int, str], (stored, "exact")))
                rows.append(
                    {**common, **numbers(0, exact, judge.fidelity(original, target), raw, judge), "method": EXACT}
                )
                chain = target
            else:
                search = Search(partial(papers, target, chain, True), judge, original, budget)
                guesses[EXACT] = search.largest(paper_bounds(*span), guesses[EXACT])
                eps = paper_bounds(*span)[guesses[EXACT]]
                made, found = search.at(eps)
                rows.append({**common, **numbers(eps, made, found, raw, judge), "method": EXACT})
                chain = made.state
            for vectors, vault in vaults.items():
                label = f"modelvault, vectors {vectors:g}"
                search = Search(partial(commit_next, vault, path, target, vectors), judge, original, budget)
                guesses[label] = search.largest(our_bounds(*span), guesses[label])
                eps = our_bounds(*span)[guesses[label]]
                made, found = search.at(eps)
                rows.append({**common, **numbers(eps, made, found, raw, judge), "method": label, "vectors": vectors})
            before = target
    table.add_all(rows)  # whole or not at all: a history that has a row is not measured again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="where the snapshots are")
    parser.add_argument("table", type=Path, help="the CSV to write")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--seed", type=int, default=1, help="the seed that the snapshots were trained with")
    parser.add_argument("--places", nargs="+", type=float, help="where in a run snapshots are taken, 0 to 1")
    parser.add_argument("--range", default="0.0000125:0.1", help="bounds to search; the paper's are 0.01:0.1")
    parser.add_argument("--full", action="store_true", help="all test images for every network")
    parser.add_argument("--cifar", type=Path, help="the directory that holds cifar-10-batches-py")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    table = Table(given.table)
    span = Span(*(float(end) for end in given.range.split(":")))
    os.environ.setdefault("MODELVAULT_AUTHOR", "bench")
    torch.set_num_threads(given.threads)
    images = load_images(given.cifar, training=False)
    for name in given.networks:
        paths = sorted((given.root / name).glob("epoch-*.pt"))[1:]  # the first is noise
        if len(paths) < 2:
            continue
        count = len(paths)
        judge = Judge(name, images, 1000 if given.full else IMAGES.get(name, 128))
        shares = given.places or ((0.25, 0.55, 1) if count >= 20 else (0.5, 1) if count > 5 else (0.5,))
        for place in sorted({min(max(round(share * (count - 1)), 1), count - 1) for share in shares}):
            key = {"seed": given.seed, "network": name, "kind": "snapshot", "snapshot": paths[place].stem}
            if "snapshots" in given.kinds:
                snapshot(table, key, paths[place], paths[place - 1], judge, span)
            if "final" in given.kinds:
                final = Judge(name, images, 10000 if given.full else FINAL.get(name, 10000))
                once_more(table, key, paths[place], paths[place - 1], final, span)
        if "history" in given.kinds:
            history(table, name, given.seed, paths, judge, span)


if __name__ == "__main__":
    main()
