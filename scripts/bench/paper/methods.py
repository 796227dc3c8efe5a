"""What is measured: the paper's method, SZ, and lossy commits of a real vault, each as a function of its bound.

Ours are bytes that a vault says a commit added, everything included; the paper's are those of its best back end over
every floating-point tensor, and 0 for container and names.
"""

from __future__ import annotations

import importlib.util
import json
import lzma
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import deltadnn
import numpy as np
import torch
from torch import Tensor, nn

import modelvault
from modelvault import codec
from modelvault.tensors import DType

PAPER = "delta-dnn"

EXACT = "delta-dnn, statistics exact"
"""The paper's formula over parameters alone, running statistics packed exactly by LZMA: rounded by an absolute step, a
variance near 0 may come out below it, and the network gives NaN."""

SZ, SZ_DELTA = "sz, statistics exact", "sz of the delta, statistics exact"

OURS = "modelvault"

INPUTS = 256
"""Unlabelled training images that a commit chooses numbers by, where it may."""

BY_INPUTS = f"{OURS}, {INPUTS} inputs"
"""Its bound is the `max_drop` for these images."""

GENEROUS = {"lossy": 0.1, "vectors": 0.25}
"""Bounds of a commit that chooses by inputs: as in the documentation, and larger than any that it chose here."""

VECTORS = (0.002, 0.016)
"""Relative bounds of tensors of one dimension, the one with the best ratio counts."""

OURS_ALONE = {f"{OURS}, vectors {vectors:g}": vectors for vectors in VECTORS}

REPACKED = "{}, repacked"
"""What a whole history of ours is after `repack`."""

LABELS = (EXACT, *OURS_ALONE, BY_INPUTS, PAPER, SZ, SZ_DELTA)

State = dict[str, Tensor]


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


class Span(NamedTuple):
    """The range of bounds to search."""

    low: float
    high: float


class Way(NamedTuple):
    """A method, and the bounds it is tried with.

    Attributes:
        octave: how many bounds there are in one.
        start: where to look first; where the method before ended, if None.
    """

    label: str
    vectors: float | str
    method: Method
    bounds: Sequence[float]
    octave: int = 2
    start: float | None = None

    def place(self, guess: float) -> int:
        """Return the place of the bound to look at first, given how many octaves from the least to begin otherwise."""
        if self.start is None:
            return round(guess * self.octave)
        return round(self.octave * math.log2(max(self.start / self.bounds[0], 1)))


class Network(NamedTuple):
    """A network, and batches of inputs for it. Its own numbers are set where they are needed."""

    model: nn.Module
    samples: Sequence[Tensor]


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


class Following:
    """What lossy commits of a file would be behind all others of a vault.

    Args:
        vault: where the vault is.
        target: the file.
        stays: a commit whose bytes are asked for is made in the vault itself, not in a copy.
    """

    def __init__(self, vault: Path, target: Path, *, stays: bool = False) -> None:
        self.target, self._vault, self._stays = target, vault, stays

    def rounded(self, vectors: float, eps: float) -> Made:
        """Return what one with these bounds is."""
        state = rounded_alone(load(self.target), vectors, eps)
        return Made(state, partial(self._pack, state, {"lossy": eps, "vectors": vectors}))

    def by_inputs(self, network: Network, drop: float) -> Made:
        """Return what one is that chooses numbers by what they do to a network's outputs."""
        network.model.load_state_dict(load(self.target))
        how = {**GENEROUS, "model": network.model, "samples": network.samples, "max_drop": drop}
        state, stored = self._try(how)
        if self._stays:
            return Made(state, partial(self._pack, state, how))
        return Made(state, partial(tuple[int, str], (stored, "")))

    def _pack(self, state: State, how: dict[str, Any]) -> tuple[int, str]:
        found, stored = self._commit(self._vault, how) if self._stays else self._try(how)
        check_same(state, found)
        return stored, ""

    def _try(self, how: dict[str, Any]) -> tuple[State, int]:
        with tempfile.TemporaryDirectory() as directory:
            trial = shutil.copytree(self._vault, Path(directory, "vault"), symlinks=True)
            return self._commit(trial, how)

    def repacked(self) -> list[int]:
        """Plan the vault's history anew; return what each commit takes then, the oldest first."""
        command = [sys.executable, "-m", "modelvault", "-C", str(self._vault)]
        subprocess.run([*command, "repack"], check=True, stdout=subprocess.DEVNULL)
        told = subprocess.run([*command, "report", "--by", "commit", "--json"], check=True, capture_output=True)
        lines = json.loads(told.stdout)["lines"]
        return [line["stored_bytes"] for line in lines if not line["name"].startswith("(")]  # the vault's own

    def _commit(self, root: Path, how: dict[str, Any]) -> tuple[State, int]:
        vault = modelvault.open(root)
        shutil.copy(self.target, root / "model.pt")
        done = vault.commit(root / "model.pt", message=self.target.stem, **how)
        return vault.load(done.id), done.added_bytes


def check_same(expected: State, found: State) -> None:
    """Check that a vault gave what was measured.

    Raises:
        SystemExit: it did not.
    """
    for name, tensor in expected.items():
        if tensor.numpy().tobytes() != found[name].numpy().tobytes():
            raise SystemExit(f"{name}: the vault gave something else than what was measured")


def our_ways(following: Following, network: Network, budget: float, span: Span) -> list[Way]:
    """Return the ways of committing a file."""
    found = [Way(label, v, partial(following.rounded, v), our_bounds(*span), 1) for label, v in OURS_ALONE.items()]
    drops = paper_bounds(2.0**-20, 2.0**-5)
    return [*found, Way(BY_INPUTS, "", partial(following.by_inputs, network), drops, 2, budget)]


def ways_of(following: Following, before: State, network: Network, budget: float, span: Span) -> list[Way]:
    """Return all methods for a snapshot with an exact predecessor; SZ where it is installed."""
    target = load(following.target)
    found = [
        Way(EXACT, "", partial(papers, target, before, True), paper_bounds(*span)),
        *our_ways(following, network, budget, span),
        Way(PAPER, "", partial(papers, target, before, False), paper_bounds(*span)),
    ]
    if importlib.util.find_spec("pysz"):
        found += [
            Way(SZ, "", partial(sz, target, None), paper_bounds(*span)),
            Way(SZ_DELTA, "", partial(sz, target, before), paper_bounds(*span)),
        ]
    return found
