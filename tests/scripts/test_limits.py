"""Does the measurement of limits know the entropy of what is known, and learn nothing by heart?"""

from __future__ import annotations

import csv
import importlib.machinery
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.scripts import SCRIPTS
from tests.scripts.history import history  # noqa: F401 - a fixture

PROGRAM = SCRIPTS / "bench" / "limits"


@pytest.fixture(scope="module")
def limits() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("limits", str(PROGRAM))
    spec = importlib.util.spec_from_loader("limits", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["limits"] = module
    loader.exec_module(module)
    return module


def bits(limits: ModuleType, symbols: np.ndarray, own: np.ndarray, more: np.ndarray) -> float:
    other = {"before": more, "column": np.zeros_like(more), "moments": np.zeros_like(more)}
    found: float = limits.entropy(symbols, own, other) / symbols.size
    return found


def test_entropies_that_are_known(limits: ModuleType) -> None:
    random = np.random.default_rng(0)
    count = 1 << 16
    symbols, none = random.integers(0, 8, count), np.zeros(count, np.int64)
    assert bits(limits, symbols, none, none) == pytest.approx(3, abs=0.01)
    assert bits(limits, symbols, symbols // 2, none) == pytest.approx(1, abs=0.01)
    assert bits(limits, symbols, symbols // 4, symbols % 4) == pytest.approx(0, abs=0.1)


def test_contexts_that_hold_everything_apart_teach_nothing(limits: ModuleType) -> None:
    random = np.random.default_rng(0)
    count = 1 << 16
    symbols = random.integers(0, 8, count)
    assert bits(limits, symbols, np.zeros(count, np.int64), np.arange(count)) == pytest.approx(3, abs=0.01)


def test_what_is_coded_without_factors_is_not_below_what_words_hold_one_by_one(history: Path, tmp_path: Path) -> None:  # noqa: F811
    table = tmp_path / "limits.csv"
    subprocess.run([sys.executable, PROGRAM, history, "--out", table], check=True, timeout=120)
    (weights, everything) = csv.DictReader(table.read_text().splitlines())
    assert (weights["part"], everything["part"]) == ("weights", "all")
    assert weights["words"] == str(128 * 256 + 64 * 300)
    for row in (weights, everything):
        assert 0 < float(row["one_by_one_bits"]) <= float(row["refined_bits"]) <= float(row["coded_bits"]) < 32
        assert float(row["one_by_one_bits"]) > 0.9 * float(row["refined_bits"])
