"""Does the comparison of whole systems run ours, notice one that alters a file, and account for every stage?"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

from tests.scripts import SCRIPTS
from tests.scripts.history import history  # noqa: F401 - a fixture

from peers import contenders, series, systems  # isort: skip


def test_ours_is_run_and_its_stages_add_up(history: Path, tmp_path: Path) -> None:  # noqa: F811
    table, budget, threads = (tmp_path / f"{name}.csv" for name in ("found", "budget", "threads"))
    words = f"{history} --work {tmp_path / 'work'} --system modelvault --rounds 1 --csv {table} --budget {budget}"
    words += f" --threads {threads}"
    done = subprocess.run(
        [sys.executable, "-m", "peers.systems", *words.split()],
        env={"PYTHONPATH": str(SCRIPTS), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Failed" not in done.stdout
    assert not (tmp_path / "work").exists()
    rows = list(csv.DictReader(table.read_text().splitlines()))
    for name in ("cp", "modelvault, in process", "modelvault"):
        mine = [(row["what"], row["version"]) for row in rows if row["system"] == name]
        assert {("save", "3"), ("restore", "0")} <= set(mine), name
    assert {row["depth"] for row in rows if row["system"] == "modelvault"} >= {"0", "1"}
    stages = list(csv.DictReader(budget.read_text().splitlines()))
    saved = {row["stage"]: float(row["wall_s"]) for row in stages if (row["what"], row["version"]) == ("save", "3")}
    assert set(saved) == {"read", "hash", "decode reference", "encode", "verify", "write", "rest", "all"}
    assert abs(sum(saved.values()) - 2 * saved["all"]) < 0.01
    assert min(saved.values()) >= 0
    counts = {str(count) for count in (0, 1, len(os.sched_getaffinity(0)))}
    some = list(csv.DictReader(threads.read_text().splitlines()))
    assert {(row["what"], row["threads"], row["version"]) for row in some} == {
        (what, count, str(version)) for what in ("commit", "checkout") for count in counts for version in range(4)
    } | {
        (what, count, "0")
        for what in ("copy of memory", "SHA-256", "encoding and comparing", "decoding")
        for count in counts - {"0"}
    } | {("commit by processes", count, str(version)) for count in counts - {"0"} for version in range(4)}
    assert "commit by processes: 1 do 1.00 times as much as one." in done.stdout
    assert "SHA-256: 1 threads do 1.00 times as much as one." in done.stdout
    assert "decoding: 1 threads are 1.00 times as fast as one." in done.stdout
    assert f"| checkout | {max(row['depth'] for row in some)} |" in done.stdout


class Careless(contenders.Copy):
    name = "careless"

    def restore(self, number: int) -> None:
        super().restore(number)
        with self.back.open("r+b") as file:
            file.write(b"x")


def test_a_system_that_alters_a_file_is_left_out(history: Path, tmp_path: Path) -> None:  # noqa: F811
    measurement = systems.Measurement(history, series.files(history)[:2], tmp_path / "work", say=False)
    measurement.run([contenders.Copy, Careless], 1)
    assert list(measurement.totals) == ["cp"]
    assert measurement.failed == {"careless": "RuntimeError: version 0 came back altered"}
