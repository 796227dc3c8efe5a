"""Do the import contracts hold, and would each of them notice if it did not?

A contract that was never seen to fail may be looking the other way. So every one of them meets a copy of the package
with one offending line planted, and has to name that line.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS: dict[str, str] = {
    contract["id"]: contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
}


COMPUTES = next(
    (
        f"modelvault.codec.{file.stem}"
        for file in sorted((ROOT / "modelvault" / "codec").glob("[a-z]*.py"))
        if "import numpy" in file.read_text()
    ),
    "modelvault.codec",
)
"""Some module that imports numpy, for a line that reaches numpy through it."""


class Plant(NamedTuple):
    """A line that breaks a contract: which contract, in which module, and what is imported there."""

    contract: str
    module: str
    imported: str


PLANTS = [
    # Upwards, and from one island to another.
    Plant("layers", "modelvault.errors", "modelvault.ids"),
    Plant("layers", "modelvault.wire", "modelvault.ids"),
    Plant("layers", "modelvault.ids", "modelvault.tensors"),
    Plant("layers", "modelvault.tensors", "modelvault.planner"),
    Plant("layers", "modelvault.store", "modelvault.codec"),
    Plant("layers", "modelvault.codec", "modelvault.objects"),
    Plant("layers", "modelvault.planner", "modelvault.store"),
    Plant("layers", "modelvault.objects", "modelvault.checkpoint"),
    Plant("layers", "modelvault.checkpoint", "modelvault.store"),
    Plant("layers", "modelvault.codec", "modelvault.repository"),
    Plant("layers", "modelvault.repository", "modelvault.report"),
    Plant("layers", "modelvault.repository.history", "modelvault.api"),
    Plant("layers", "modelvault.report", "modelvault.cli"),
    Plant("layers", "modelvault.api", "modelvault.cli"),
    # Past the bridge.
    Plant("bridge", "modelvault.report", "modelvault.store"),
    Plant("bridge", "modelvault.report", "modelvault.planner"),
    Plant("bridge", "modelvault.cli", "modelvault.codec"),
    Plant("bridge", "modelvault.cli", "modelvault.checkpoint"),
    # Light commands: once at first hand, once through somebody else.
    Plant("light", "modelvault.ids", "numpy"),
    Plant("light", "modelvault.report", COMPUTES),
    Plant("light", "modelvault.repository.history", COMPUTES),
    # Through the wall beside the door.
    Plant("door-blake3", "modelvault.wire", "blake3"),
    Plant("door-zlib-ng", "modelvault.codec", "zlib_ng"),
    Plant("door-lmdb", "modelvault.cli", "lmdb"),
    Plant("door-lmdb", "modelvault.repository", "lmdb"),
    Plant("door-numpy", "modelvault.repository", "numpy"),
    Plant("door-pyfastcdc", "modelvault.checkpoint", "pyfastcdc"),
    Plant("door-torch", "modelvault.repository", "torch"),
    Plant("door-torch", "modelvault.checkpoint", "torch"),
    Plant("door-typer", "modelvault.report", "typer"),
    Plant("door-yaml", "modelvault.repository", "yaml"),
    Plant("door-zstandard", "modelvault.repository", "zstandard"),
]


class Verdict(NamedTuple):
    """What lint-imports said: names of the contracts kept and broken, and all it printed."""

    kept: frozenset[str]
    broken: frozenset[str]
    output: str


def judge(root: Path) -> Verdict:
    """Run the contracts of `root`/pyproject.toml on the package beside it."""
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"],
        cwd=root,
        # The package of the working directory goes before an installed one.
        env={**os.environ, "PYTHONPATH": str(root), "COLUMNS": "500", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    output = done.stdout + done.stderr
    verdicts = re.findall(r"^(.+?) +(KEPT|BROKEN)(?: \(\d+ ignored imports?\))?$", output, re.MULTILINE)
    kept, broken = (frozenset(name for name, verdict in verdicts if verdict == word) for word in ("KEPT", "BROKEN"))
    assert kept | broken == set(CONTRACTS.values()), output
    assert (done.returncode == 0) == (not broken), output
    return Verdict(kept, broken, output)


def copy_of_the_tree(place: Path) -> Path:
    """Copy what lint-imports reads: the package's Python files and the configuration."""
    shutil.copytree(ROOT / "modelvault", place / "modelvault", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copy(ROOT / "pyproject.toml", place)
    return place


def file_of(root: Path, module: str) -> Path:
    path = root.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def test_the_tree_keeps_every_contract() -> None:
    verdict = judge(ROOT)
    assert not verdict.broken, verdict.output


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: f"{plant.module} imports {plant.imported}")
def test_a_planted_line_is_reported(plant: Plant, tmp_path: Path) -> None:
    file = file_of(copy_of_the_tree(tmp_path), plant.module)
    text = file.read_text().rstrip("\n")
    # Inside a function, where most hidden imports live.
    text += f"\n\n\ndef planted() -> None:\n    import {plant.imported}\n"
    file.write_text(text)
    verdict = judge(tmp_path)
    assert CONTRACTS[plant.contract] in verdict.broken
    assert f"{plant.module} -> {plant.imported} (l.{len(text.splitlines())})" in verdict.output


def test_a_cycle_is_reported(tmp_path: Path) -> None:
    root = copy_of_the_tree(tmp_path)
    for one, other in (("one", "other"), ("other", "one")):
        package = root / "modelvault" / "repository" / one
        package.mkdir()
        (package / "__init__.py").write_text(f"import modelvault.repository.{other}\n")
    verdict = judge(root)
    assert CONTRACTS["cycles"] in verdict.broken
    assert "No cycles are allowed in modelvault.repository" in verdict.output


def test_a_module_without_a_layer_is_reported(tmp_path: Path) -> None:
    root = copy_of_the_tree(tmp_path)
    (root / "modelvault" / "helpers.py").write_text("")
    verdict = judge(root)
    assert CONTRACTS["layers"] in verdict.broken
    assert "helpers" in verdict.output


def test_what_the_contracts_allow_is_allowed(tmp_path: Path) -> None:
    """The planted lines are reported because they are wrong, not because they are planted."""
    root = copy_of_the_tree(tmp_path)
    before = judge(root).broken
    allowed = {
        "modelvault.api": "torch",
        "modelvault.cli": "modelvault.report",
        "modelvault.codec": "numpy",
        "modelvault.objects": "modelvault.wire",
        "modelvault.repository": "modelvault.planner",
    }
    for module, imported in allowed.items():
        with file_of(root, module).open("a") as file:
            file.write(f"\n\ndef planted() -> None:\n    import {imported}\n")
    assert judge(root).broken == before


def test_every_contract_was_seen_to_fail() -> None:
    assert {plant.contract for plant in PLANTS} | {"cycles"} == set(CONTRACTS)
