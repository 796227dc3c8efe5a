"""Does the comparison of plans measure every pair, and do the rules of others do what they are said to?"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

import pytest

from modelvault.planner import Graph
from modelvault.planner.arborescence import least_bytes, least_work
from tests.scripts.history import history  # noqa: F401 - a fixture
from tests.unit.planner.graphs import walk

from planning import bench  # isort: skip


def test_every_rule_is_compared(history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    min(history.iterdir()).unlink()  # the one that holds other tensors
    table, plot = tmp_path / "found.csv", tmp_path / "found.svg"
    words = ["planner", str(history.parent), "--csv", str(table), "--plot", str(plot)]
    monkeypatch.setattr(sys, "argv", words)
    assert bench.main() == 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert {row["rule"] for row in rows} >= {"star, best", "chain", "git's window", "MST", "SPT", "modelvault, depth 7"}
    (chain,) = [row for row in rows if row["rule"] == "chain"]
    assert (chain["versions"], chain["depth"]) == ("3", "2")
    costs = bench.matrix(history)
    assert int(chain["bytes"]) == costs[0][0] + costs[1][0] + costs[2][1]
    assert plot.read_text().count("<circle") == len([row for row in rows if not row["rule"].startswith("modelvault")])


def complete(versions: int) -> Graph:
    chance = random.Random(3)
    costs = [[chance.randint(500, 900) + 600 * (one == other) for other in range(versions)] for one in range(versions)]
    return bench.graph_of(costs, 1000)


def test_the_greedy_rule_stays_within_its_budget_and_saves_work() -> None:
    graph = complete(10)
    least = least_bytes(graph)
    plan = bench.lmg(graph, 1.2)
    assert least.nbytes <= plan.nbytes <= 1.2 * least.nbytes
    assert least_work(graph).total_work <= plan.total_work < least.total_work
    assert bench.lmg(graph, 10).total_work == least_work(graph).total_work


def test_the_window_looks_at_ten_newer_versions() -> None:
    graph = complete(30)
    plan = bench.git_window(graph)
    assert all(edge.base == 0 or 0 < edge.base - edge.version <= 10 for edge in plan.edges[1:])
    assert plan.nbytes < sum(edge.nbytes for edge in graph.keyframe[1:])


def test_a_graph_that_lacks_pairs_is_not_compared() -> None:
    with pytest.raises(AssertionError):
        bench.git_window(walk(random.Random(1), 40))
