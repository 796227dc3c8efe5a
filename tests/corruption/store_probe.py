"""Looks into vaults that may be damaged, each in a process of its own: a dead one is a finding, not the end.

    python -m tests.corruption.store_probe VAULT...

prints one line for each vault: how its process ended (`exit` or `signal`, and a number), then what it found.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from modelvault.errors import ModelVaultError
from modelvault.store.base import TABLES
from modelvault.store.lmdb_store import LmdbStore

ROOT = Path(__file__).parents[2]


class Finding(NamedTuple):
    """How a probe ended: its wait status (negative: the signal that killed it), error class and message."""

    status: int
    error: str
    message: str


def probe(vaults: list[Path]) -> list[Finding]:
    """Read all there is in each vault, then write to it; every vault in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.corruption.store_probe", *map(str, vaults)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    findings = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(findings) == len(vaults), done.stdout + done.stderr
    return [Finding(int(status), error, message) for status, error, message in findings]


def _look(vault: Path) -> str:
    try:
        store = LmdbStore(vault)
        with store.read() as reading:
            for table in TABLES:
                for key, value in reading.scan(table):
                    assert reading.get(table, key) == value
                assert reading.count(table) == sum(1 for _ in reading.scan(table, reverse=True))
            content = sorted((key, len(value)) for key, value in reading.scan("packs"))
        with store.write() as transaction:
            for number in range(20):
                transaction.put("refs", b"probe-%d" % number, b"x" * 3_000)
    except ModelVaultError as error:
        return f"{type(error).__name__}\t{error.message}"
    return f"\t{content}"


def main(vaults: list[str]) -> None:
    for vault in vaults:
        reading_end, writing_end = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading_end)
            try:
                os.write(writing_end, _look(Path(vault)).encode()[:4_000])
            except BaseException as error:  # noqa: BLE001 - reported, whatever it is
                os.write(writing_end, f"{type(error).__name__}\t{error}"[:4_000].encode())
                os._exit(1)
            os._exit(0)
        os.close(writing_end)
        with os.fdopen(reading_end, "rb") as pipe:
            found = pipe.read().decode().replace("\n", " ") or "\t"
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(f"{status}\t{found}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
