"""Is the paper's method what its text says, and are its tables made of what was measured?"""

from __future__ import annotations

import csv
import itertools
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import modelvault

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "scripts" / "bench" / "paper"
sys.path.insert(0, str(PAPER))

import deltadnn  # noqa: E402
import guarantee  # noqa: E402
import tables  # noqa: E402


def test_the_paper_restores_within_its_bound() -> None:
    random = np.random.default_rng(1)
    before = {"w": random.normal(0, 0.05, (30, 40)).astype("<f4")}
    target = {"w": before["w"] + random.normal(0, 0.01, (30, 40)).astype("<f4")}
    multiples, restored = deltadnn.quantise(target, before, 0.001)
    assert np.abs(restored["w"].astype(float) - target["w"]).max() <= math.log1p(0.001) * (1 + 1e-4)
    sizes = {back_end: deltadnn.packed_bytes(multiples, back_end) for back_end in deltadnn.BACK_ENDS}
    assert deltadnn.best_back_end(multiples)[0] == min(sizes.values())
    assert len(set(sizes.values())) == 4


@pytest.mark.parametrize("back_end", deltadnn.BACK_ENDS)
def test_what_a_back_end_packed_it_unpacks(back_end: str) -> None:
    random = np.random.default_rng(1)
    layers = {
        "mostly still": random.integers(-1, 2, (40, 50)) * (random.random((40, 50)) < 0.02),
        "far": random.integers(-70_000, 70_000, (7,)),
        "farther": random.integers(-(2**40), 2**40, (5,)),  # variances that exploded in the first steps of a network
        "still": np.zeros((3, 1000), np.int64),
        "one": np.array(300),
        "empty": np.zeros((0, 4), np.int64),
    }
    back = deltadnn.unpack(*deltadnn.pack(layers, back_end), back_end)
    for one, other in zip(layers.values(), back, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def test_a_ratio_at_the_budget_lies_between_two_bounds() -> None:
    rows = [{"kl": str(kl), "ratio": str(ratio), "budget": "2"} for kl, ratio in ((1, 10), (4, 40))]
    assert tables.at_budget(rows) == pytest.approx(20)
    assert tables.at_budget(rows[:1]) == 10
    assert tables.at_budget(rows[1:]) is None
    assert tables.at_budget([]) is None


def test_the_tables_of_the_docs_are_those_of_their_rows() -> None:
    file = ROOT / "docs" / "benchmarks" / "lossy.csv"
    done = subprocess.run([sys.executable, PAPER / "tables.py", file], capture_output=True, text=True, check=True)
    page = (ROOT / "docs" / "benchmarks" / "lossy.md").read_text()
    with file.open(newline="") as opened:
        assert {row["network"] for row in csv.DictReader(opened)}
    for line in done.stdout.splitlines():
        if line.startswith("| ") and line.count("|") > 3:
            assert line in page


def test_the_guarantee_is_looked_at_from_outside() -> None:
    done = subprocess.run(
        [sys.executable, PAPER / "guarantee.py", "--numbers", "1", "--size", "1024"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert re.search(r"^all +92,160 numbers, 0 violations$", done.stdout, re.MULTILINE)


def test_a_broken_promise_is_seen() -> None:
    old = np.array([[1.0, 1.0, 0.0, -0.0, math.nan, 2.0, 2.0, 1e-40]], "<f4")
    new = np.array([[1.01, 1.02, 1e-9, 0.0, 0.0, math.inf, 1.985, 0.0]], "<f4")
    was, came = old.view("<u4"), new.view("<u4")
    promise = guarantee.Promise("abs", math.expm1(0.0151), 0.001)
    assert guarantee.violations("F32", was, came, promise) == (5, 8)
    assert guarantee.violations("F32", was, was.copy(), promise) == (0, 0)
    assert guarantee.violations("F32", was[0], came[0], promise) == (8, 8)
    assert guarantee.violations("F32", was, came, promise._replace(bound="rel", eps=0.012)) == (6, 8)


@pytest.mark.torch
def test_what_is_measured_of_ours_is_what_a_vault_keeps(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import methods

    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.BatchNorm1d(64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
    vault = modelvault.open(tmp_path / "vault", create=True)
    torch.save(net.state_dict(), vault.root / "model.pt")
    first = vault.commit(vault.root / "model.pt", message="before")
    for parameter in net.parameters():
        parameter.data.add_(0.01 * torch.randn(parameter.shape))
    torch.save(net.state_dict(), tmp_path / "after.pt")
    ways: tuple[tuple[str, tuple[object, float]], ...] = (
        ("rounded", (0.016, 0.001)),
        ("by_inputs", (methods.Network(net, [torch.randn(32, 8)]), 0.001)),
    )
    for name, asked in ways:
        tried = getattr(methods.Following(vault.root, tmp_path / "after.pt"), name)(*asked)
        assert 0 < tried.stored < first.added_bytes
        assert [info.id for info in vault.log()] == [first.id]
        made = getattr(methods.Following(vault.root, tmp_path / "after.pt", stays=True), name)(*asked)
        assert made.stored == tried.stored
        methods.check_same(made.state, vault.load())
        vault.undo()


@pytest.mark.torch
@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize("octave", [1, 2])
def test_a_search_ends_between_two_bounds_and_soon(power: int, octave: int) -> None:
    pytest.importorskip("torch")
    import measure
    import methods

    bounds = [2.0 ** (place / octave) for place in range(12 * octave)]
    way = methods.Way("any", "", lambda eps: methods.Made({"eps": eps}, lambda: (0, "")), bounds, octave)

    class Judge(measure.Judge):
        """Has a divergence of 0.9 at the last bound within a budget of 1, and no number from 2^11 on."""

        def __init__(self, last: float) -> None:
            self.last = last

        def fidelity(self, original: object, state: methods.State) -> measure.Fidelity:
            eps = state["eps"]
            return measure.Fidelity(math.inf if eps > 2**11 else 0.9 * (eps / self.last) ** power, 0, 0)

    tried: list[int] = []
    for last, guess in itertools.product((bounds[0] / 8, *bounds[:-1]), (0, 5, 99)):
        search = measure.Search(way.method, Judge(last), None, 1.0)
        found = bounds[search.largest(way, guess)]
        assert found == max(last, bounds[0])
        tried.append(len(search.tried))
    assert sum(tried) / len(tried) < 6
