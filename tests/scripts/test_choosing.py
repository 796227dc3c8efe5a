"""Do the benchmarks of what commits choose run, and say what they should?"""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

from tests.scripts import SCRIPTS
from tests.scripts.history import history  # noqa: F401 - a fixture


def lines_of(script: str, table: Path, *words: str | Path) -> dict[tuple[str, str], str]:
    """Run a benchmark; return its values by the first two columns."""
    command = [sys.executable, SCRIPTS / "bench" / script, *words, "--rounds", "1", "--out", table]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    with open(table, newline="") as file:
        return {(line[0], line[1]): line[2] for line in list(csv.reader(file))[1:]}


def test_what_samples_foretell(history: Path, tmp_path: Path) -> None:  # noqa: F811
    found = lines_of("prediction", tmp_path / "found.csv", history)
    assert int(found["walk", "references tried"]) >= 5  # the second matrix leans on one less
    assert float(found["walk", "error of one tensor, median"]) < 5
    assert abs(float(found["walk", "error of all deltas together"])) < 5
    assert 0 <= float(found["walk", "taken by what looks cheapest, by what is"]) < 2
    assert int(found["all", "work units of a second of CPU"]) > 0


def test_what_a_commit_takes_as_history_grows(history: Path, tmp_path: Path) -> None:  # noqa: F811
    found = lines_of("growth", tmp_path / "found.csv", history, "--commits", "12", "--short", "4")
    assert float(found["growth", "the last 4 of 12, each"]) > 0
    assert float(found["growth", "one more commit to 12 by one to 4, in turn"]) > 0
    stored = float(found["walk", "stored with planning, by without"])
    assert 0.9 < stored < 1.02  # sketches take a little, and nothing else is there to be found


def test_what_neighbours_take(history: Path, tmp_path: Path) -> None:  # noqa: F811
    found = lines_of("neighbours", tmp_path / "found.csv", history, "--count", "2")
    assert int(found["walk", "windows of 2 commits"]) >= 1
    assert 1 <= float(found["walk", "chunks decoded for 2 by those for one"]) <= 2
    assert float(found["walk", "decoding 2 commits by decoding one"]) > 0
