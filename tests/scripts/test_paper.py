"""Is the paper's method what its text says, and are its tables made of what was measured?"""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "scripts" / "bench" / "paper"
sys.path.insert(0, str(PAPER))

import deltadnn  # noqa: E402
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
