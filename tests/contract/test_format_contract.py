"""Does every format come back to the byte, cost little when little changes, and reach the user by its name?"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from modelvault.checkpoint import BytesSource, read_layout
from tests.unit.checkpoint.archives import FORMAT_FILES, FORMAT_FIXTURES, FORMATS, format_expectations

TREE = Path(__file__).parents[2]
PAGE = TREE / "docs" / "format" / "index.md"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(TREE), "MODELVAULT_AUTHOR": "A <a@b>"}


def modelvault(root: Path, *words: str) -> str:
    command = [sys.executable, "-m", "modelvault", *words]
    run = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True, env=ENVIRONMENT)
    return run.stdout


def trained(data: bytes) -> bytes:
    """Return a file of the same shape, one byte of each of its tensors another one."""
    out = bytearray(data)
    for segment in read_layout(BytesSource(data)).segments:
        out[segment.offset + segment.length // 2] ^= 1
    return bytes(out)


def deflated(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    return out.getvalue()


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vault of two commits: every fixture, and every fixture a step further."""
    root = tmp_path_factory.mktemp("vault")
    modelvault(root, "init")
    for path in FORMAT_FILES:
        shutil.copyfile(path, root / path.name)
    (root / "packed-anew.npz").write_bytes(deflated((FORMAT_FIXTURES / "every-dtype.npz").read_bytes()))
    names = sorted(path.name for path in root.iterdir() if path.is_file())
    modelvault(root, "commit", *names, "-m", "one")
    for name in names:
        (root / name).write_bytes(trained((root / name).read_bytes()))
    modelvault(root, "commit", *names, "-m", "two")
    return root


def test_every_file_comes_back(vault: Path, tmp_path: Path) -> None:
    for revision, change in (("one", bytes), ("two", trained)):
        modelvault(vault, "checkout", revision, "-o", str(tmp_path / revision))
        for path in FORMAT_FILES:
            assert (tmp_path / revision / path.name).read_bytes() == change(path.read_bytes()), path.name


def test_show_names_each_format_and_what_hides_its_tensors(vault: Path) -> None:
    files: list[dict[str, Any]] = json.loads(modelvault(vault, "show", "two", "--json"))["files"]
    found = {file["path"]: file["format"] for file in files}
    expected = {name: form for name, (form, _) in format_expectations().items()}
    assert found == expected | {"packed-anew.npz": "npz (deflated)"}
    assert "npz (deflated)" in modelvault(vault, "show", "two")
    for file in files:
        tensors = format_expectations().get(file["path"], ("", []))[1]
        assert file["understood_share"] == pytest.approx(sum(t.length for t in tensors) / file["size"], abs=1e-4)


def test_a_step_further_costs_a_fraction(vault: Path) -> None:
    found = json.loads(modelvault(vault, "log", "--json"))["commits"]
    added = [commit["added_bytes"] for commit in found]  # newest first
    assert added[0] < added[1] / 4


def test_every_format_has_its_line_in_the_specification() -> None:
    text = PAGE.read_text()
    assert all(f"`{name}`" in text for name in FORMATS)
