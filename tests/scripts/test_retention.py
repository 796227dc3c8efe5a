"""Does the measurement of what giving up history gives back see a gc that gives back less than it foretells?"""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts import SCRIPTS
from tests.scripts.history import history  # noqa: F401 - a fixture


@pytest.mark.slow  # some sixty processes
def test_every_question_is_answered(history: Path, tmp_path: Path) -> None:  # noqa: F811
    table = tmp_path / "found.csv"
    words = f"{history} --epochs 5 --commits 110 --gigabytes 0.002 --out {table}"
    done = subprocess.run(
        [sys.executable, SCRIPTS / "bench" / "retention", *words.split()],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = csv.DictReader(table.read_text().splitlines())
    found = {(row["question"], row["what"]): float(row["value"]) for row in rows}
    for flags in ("gc", "gc --compact"):
        lost, foretold = found["keep", f"{flags}: lost by du"], found["keep", f"{flags}: foretold"]
        assert lost > 50_000
        assert abs(lost - foretold) <= max(0.01 * lost, 4 * 4096)
    assert found["few", "110 commits, none dead: gc"] > 0
    assert found["diff", "diff by restoring both, least"] > 0
