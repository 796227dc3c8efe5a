"""Saves and restores of a whole history by whole systems, side by side, against `cp` of the same file.

Versions are the outer loop and systems the inner one, so that all meet the same machine; everything is repeated in new
directories. Wall seconds: a save ends when all that it wrote is on the disk, a restore when the file is. What a system
did not sync itself is synced for it, under its clock. `cp` is the yardstick twice: synced, and as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import os
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from peers import series, threads
from peers.budget import kept
from peers.contenders import Copy, System, Vault, installed


@dataclass(frozen=True)
class Row:
    """One save or restore."""

    history: str
    system: str
    round: int
    version: int
    depth: int | None
    what: str
    wall_s: float
    cpu_s: float
    load: float


@dataclass(frozen=True)
class Total:
    """What a system holds in the end."""

    system: str
    raw_bytes: int
    stored_bytes: int


def cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def sync(place: Path, since: float) -> None:
    """Sync every file and directory under `place` that was changed at or after `since`."""
    for path in (place, *place.rglob("*")):
        with contextlib.suppress(OSError):
            if path.lstat().st_mtime >= since and not path.is_symlink():
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)


class Measurement:
    """All systems on one history."""

    def __init__(self, history: Path, files: list[Path], work: Path, say: bool) -> None:
        self.history, self.files, self.work, self.say = history, files, work, say
        self.rows, self.totals = list[Row](), dict[str, Total]()
        self.failed = dict[str, str]()

    def run(self, kinds: list[type[System]], rounds: int) -> None:
        for number in range(rounds):
            shutil.rmtree(self.work, ignore_errors=True)
            systems = [made for kind in kinds if (made := self._make(kind))]
            for version, file in enumerate(self.files):
                for system in systems:
                    self._save(system, number, version, file)
            for version, file in enumerate(self.files):
                for system in systems:
                    self._restore(system, number, version, file)
            for system in systems:
                if system.name not in self.failed:
                    raw = sum(file.stat().st_size for file in self.files)
                    self.totals[system.name] = Total(system.name, raw, system.size())
        shutil.rmtree(self.work, ignore_errors=True)

    def _make(self, kind: type[System]) -> System | None:
        if kind.name in self.failed:
            return None
        try:
            return kind(self.work / kind.__name__, self.files[0].suffix)
        except Exception as error:  # noqa: BLE001 - whatever a peer raises, the others go on
            self._fail(kind.name, error)
            return None

    def _fail(self, name: str, error: Exception) -> None:
        self.failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"{name} fails: {self.failed[name]}", file=sys.stderr)

    def _save(self, system: System, number: int, version: int, file: Path) -> None:
        if system.name in self.failed:
            return
        try:
            system.stage(file)
            os.sync()  # what the trainer wrote is not the system's to wait for
            since = time.time()
            wall, used = time.perf_counter(), cpu()
            system.save()
            sync(system.place, since)
            wall, used = time.perf_counter() - wall, cpu() - used
            system.saved += 1
            self._note(system, number, version, "save", wall, used)
        except Exception as error:  # noqa: BLE001
            self._fail(system.name, error)

    def _restore(self, system: System, number: int, version: int, file: Path) -> None:
        if system.name in self.failed:
            return
        try:
            system.back.unlink(missing_ok=True)
            os.sync()
            wall, used = time.perf_counter(), cpu()
            system.restore(version)
            if system.back.exists():
                unsynced = time.perf_counter() - wall
                with system.back.open("rb") as back:
                    os.fsync(back.fileno())
                if isinstance(system, Copy):
                    self._note(system, number, version, "restore, not synced", unsynced, cpu() - used)
            self._note(system, number, version, "restore", time.perf_counter() - wall, cpu() - used)
            if not system.is_exact(file):
                raise RuntimeError(f"version {version} came back altered")
        except Exception as error:  # noqa: BLE001
            self._fail(system.name, error)

    def _note(self, system: System, number: int, version: int, what: str, wall: float, used: float) -> None:
        depth = system.depth(version)
        row = Row(
            self.history.name, system.name, number, version, depth, what, round(wall, 4), round(used, 4),
            round(os.getloadavg()[0], 2),
        )  # fmt: skip
        self.rows.append(row)
        if self.say:
            print(row, file=sys.stderr)


def budgets(history: Path, files: list[Path], work: Path) -> Iterator[dict[str, object]]:
    """Yield what each stage of each commit and checkout of the vault took, on one processor, in one process."""
    shutil.rmtree(work, ignore_errors=True)
    vault = Vault(work / "budget", files[0].suffix)
    for what in ("save", "restore"):
        for version, file in enumerate(files):
            if what == "save":
                vault.stage(file)
                os.sync()
                stages = kept(vault.save)
                vault.saved += 1
            else:
                vault.back.unlink(missing_ok=True)
                os.sync()
                stages = kept(functools.partial(vault.restore, version))
            for stage, spent in stages.items():
                yield {
                    "history": history.name,
                    "what": what,
                    "version": version,
                    "depth": vault.depth(version),
                    "stage": stage,
                    "wall_s": round(spent.wall_s, 4),
                    "cpu_s": round(spent.cpu_s, 4),
                }
    shutil.rmtree(work, ignore_errors=True)


def summary(rows: list[Row], totals: dict[str, Total]) -> Iterator[str]:
    """Yield a Markdown table: medians over rounds and versions after the first, as multiples of cp's."""

    def median(system: str, what: str, depth: int | None = None) -> float:
        found = [
            row.wall_s
            for row in rows
            if row.system == system and row.what == what and (row.version if depth is None else row.depth == depth)
        ]
        return statistics.median(found) if found else float("nan")

    copy = Copy.name
    base = {what: median(copy, what) for what in ("save", "restore", "restore, not synced")}
    first = next(iter(totals.values()))
    loads = [row.load for row in rows]
    yield f"{rows[0].history}: {first.raw_bytes / 1e6:.0f} MB in all; load {min(loads)} to {max(loads)}. cp takes " + (
        f"{base['save']:.3f} s with fsync; back, {base['restore']:.3f} s with fsync, "
        f"{base['restore, not synced']:.3f} s without."
    )
    yield ""
    yield "| system | ratio | save, x cp + fsync | restore, x cp + fsync | restore, x cp |"
    yield "|---|---|---|---|---|"
    for system, total in totals.items():
        depths = sorted({row.depth for row in rows if row.system == system and row.depth is not None})
        for depth in [None, *depths]:
            save, restore = median(system, "save", depth), median(system, "restore", depth)
            label = system if depth is None else f"{system}, depth {depth}"
            ratio = f"{total.raw_bytes / total.stored_bytes:.2f}" if depth is None else ""
            yield f"| {label} | {ratio} | {save / base['save']:.1f} | {restore / base['restore']:.1f} | " + (
                f"{restore / base['restore, not synced']:.1f} |"
            )


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench/systems", description=__doc__.splitlines()[0])
    parser.add_argument("history", metavar="DIR", type=Path, help="a directory of snapshots")
    parser.add_argument("--work", metavar="DIR", type=Path, help="a new directory to work in, on the disk to measure")
    parser.add_argument("--snapshots", metavar="N", type=int, default=5, help="the newest N; 5 reach depth 4")
    parser.add_argument("--system", metavar="TEXT", default="", help="only systems whose name contains this, and cp")
    parser.add_argument("--rounds", metavar="N", type=int, default=3)
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write a row for each save and restore")
    parser.add_argument("--budget", metavar="FILE", type=Path, help="write the vault's seconds by stage")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument(
        "--threads", metavar="FILE", type=Path, help="write the vault's seconds on one processor and on all"
    )
    words = parser.parse_args()
    files = series.files(words.history)[-words.snapshots :]
    if len(files) < 2:
        parser.error(f"{words.history} is no history: it holds fewer than two snapshots")
    work = words.work or Path.cwd() / "systems-at-work"
    if work.exists():
        parser.error(f"{work} is there already: give a directory that is not")
    missing = [system.name for system, here in installed() if not here]
    chosen = [kind for kind, here in installed() if here and (kind is Copy or words.system in kind.name)]
    measurement = Measurement(words.history, files, work, words.verbose)
    measurement.run(chosen, words.rounds)
    print(f"Not installed: {', '.join(missing) or 'nothing is missing'}.")
    for name, reason in measurement.failed.items():
        print(f"Failed: {name}: {reason}")
    print()
    print("\n".join(summary(measurement.rows, measurement.totals)))
    if words.csv:
        write_csv(words.csv, [asdict(row) for row in measurement.rows])
    if words.budget:
        rows = list(budgets(words.history, files, work))
        write_csv(words.budget, rows)
    if words.threads:
        counts = sorted({1, len(os.sched_getaffinity(0))})
        found = list(threads.measured(words.history, files, work, counts, words.rounds))
        print()
        print("\n".join(threads.summary(found)))
        write_csv(words.threads, [asdict(row) for row in found])
    return 0


def write_csv(file: Path, rows: list[dict[str, object]]) -> None:
    with file.open("w", newline="") as table:
        writer = csv.DictWriter(table, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
