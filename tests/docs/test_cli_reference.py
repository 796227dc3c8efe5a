"""Is docs/reference/cli.md what the commands are now?"""

from __future__ import annotations

import runpy
import subprocess
import sys

from modelvault import errors
from modelvault.cli import INTERRUPTED
from modelvault.cli.commands import COMMANDS

from .pages import ROOT, anchors

SCRIPT = ROOT / "scripts" / "make-cli-reference"
PAGE = ROOT / "docs" / "reference" / "cli.md"


def test_the_page_is_not_stale() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_verb_has_a_section() -> None:
    assert set(COMMANDS) <= anchors(PAGE)


def test_every_exit_code_is_listed() -> None:
    listed = set(runpy.run_path(str(SCRIPT))["EXIT_CODES"])
    raised = {
        value.exit_code
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.ModelVaultError)
    }
    assert raised | {0, INTERRUPTED} <= listed
    assert listed - raised - {0, INTERRUPTED} == {12}  # reserved
