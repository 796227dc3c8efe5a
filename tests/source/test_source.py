"""Does the source keep the promises that no type checker reads?"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import modelvault

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "modelvault"
SOURCES = sorted(PACKAGE.rglob("*.py"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

TAKEN = """
    [ admin alias ar arch asa at awk b2sum base32 base64 basename basenc batch bc bg c17 cal cat cd cflow chcon
    chgrp chmod chown chroot cksum cmp comm command compress coreutils cp crontab csplit ctags cut cxref date dd
    delta df diff dir dircolors dirname du echo ed env ex expand expr factor false fc fg file find fmt fold fuser
    gencat get getconf getopts gettext grep groups hash head hostid hostname iconv id install ipcrm ipcs jobs join
    kill lex link ln locale localedef logger logname lp ls m4 mailx make man md5sum mesg mkdir mkfifo mknod mktemp
    more msgfmt mv newgrp ngettext nice nl nm nohup nproc numfmt od paste patch pathchk pax pinky pr printenv printf
    prs ps ptx pwd read readlink realpath renice rm rmdel rmdir runcon sact sccs sed seq sh sha1sum sha224sum
    sha256sum sha384sum sha512sum shred shuf sleep sort split stat stdbuf strings strip stty sum sync tabs tac tail
    talk tee test time timeout touch tput tr true truncate tsort tty type ulimit umask unalias uname uncompress
    unexpand unget uniq unlink uptime users uucp uudecode uuencode uustat uux val vdir vi wait wc what who whoami
    write xargs xgettext yacc yes zcat
"""
"""Utilities of POSIX.1-2024 and programs of the GNU coreutils."""


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), filename=str(file))


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", SOURCES, ids=_name)
def test_only_the_renderer_prints(file: Path) -> None:
    if file == PACKAGE / "cli" / "render.py":
        pytest.skip("the renderer")
    calls = [node for node in ast.walk(_tree(file)) if isinstance(node, ast.Call)]
    lines = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not lines


@pytest.mark.parametrize("file", SOURCES, ids=_name)
def test_every_module_says_what_it_is(file: Path) -> None:
    assert ast.get_docstring(_tree(file)) or not file.read_text().strip()


def test_no_module_is_a_junk_drawer() -> None:
    drawers = {"util", "utils", "helper", "helpers", "common", "misc", "tools", "shared", "base_utils"}
    assert not [_name(file) for file in PACKAGE.rglob("*") if file.stem in drawers]


def _bound_by_imports_of_ours(tree: ast.Module) -> set[str]:
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if node.module and node.module.partition(".")[0] == "modelvault"]
    return {alias.asname or alias.name for node in ours for alias in node.names if node.module != "modelvault"}


def test_the_package_exports_what_it_says() -> None:
    assert set(modelvault.__all__) == _bound_by_imports_of_ours(_tree(PACKAGE / "__init__.py"))
    assert len(set(modelvault.__all__)) == len(modelvault.__all__)
    for name in modelvault.__all__:
        assert getattr(modelvault, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = modelvault.absent


@pytest.mark.parametrize("file", [file for file in SOURCES if "\n__all__" in file.read_text()], ids=_name)
def test_what_is_declared_public_is_there(file: Path) -> None:
    module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@pytest.mark.parametrize("module", ["modelvault", "modelvault.cli.mv_name", "modelvault.cli.commands"])
def test_a_light_import_is_light(module: str) -> None:
    script = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    heavy = {"torch", "numpy", "typer", "lmdb", "zstandard", "yaml", "blake3"}
    assert heavy.isdisjoint(loaded.split())


def test_the_wheel_installs_one_command_and_takes_no_name_of_the_systems() -> None:
    assert PROJECT["scripts"] == {"modelvault": "modelvault.cli:main"}
    assert not {"gui-scripts", "entry-points"} & set(PROJECT)
    assert set(TAKEN.split()).isdisjoint(PROJECT["scripts"])


def _distribution(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return found[0].lower()


def _requirements(name: str) -> dict[str, str]:
    """Return a requirements file of scripts/ as distribution -> version; a line that pins nothing is an error."""
    lines = (ROOT / "scripts" / name).read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    return dict(re.fullmatch(r"([a-z0-9._-]+)==([0-9][0-9a-z.]*)", pin).groups() for pin in pins)  # type: ignore[union-attr,misc]


def test_every_dependency_has_its_reason() -> None:
    extras = PROJECT["optional-dependencies"]
    needed = {_distribution(item) for item in [*PROJECT["dependencies"], *extras["dev"], *extras["torch"]]}
    needed |= set(_requirements("requirements-demo.txt")) | set(_requirements("requirements-dev.txt"))
    rows = re.findall(r"^\| `([^`]+)` \|.+\|.+\|$", (ROOT / "docs" / "dependencies.md").read_text(), re.MULTILINE)
    assert len(set(rows)) == len(rows)
    assert needed <= set(rows)


def test_development_runs_on_pinned_versions() -> None:
    assert {_distribution(item) for item in PROJECT["optional-dependencies"]["dev"]} <= set(
        _requirements("requirements-dev.txt")
    )
    assert _requirements("requirements-torch.txt") == {"torch": "2.13.0"}


def test_the_licence_is_there() -> None:
    (licence,) = PROJECT["license-files"]
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in (ROOT / licence).read_text()


def test_every_script_is_listed() -> None:
    listed = re.findall(r"^\| `([^`]+)` \|", (ROOT / "scripts" / "README.md").read_text(), re.MULTILINE)
    there = {file.name for file in (ROOT / "scripts").iterdir() if file.is_file()} - {"README.md"}
    assert set(listed) == there
