"""Are the planner's pictures what the planner says now?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.scripts import SCRIPTS


def test_the_pictures_are_those_that_the_planner_gives(tmp_path: Path) -> None:
    subprocess.run([sys.executable, SCRIPTS / "make-planner-pictures", tmp_path], check=True, timeout=120)
    kept = SCRIPTS.parent / "docs" / "pictures"
    for picture in ("planner-orders.svg", "planner-tradeoff.svg"):
        assert (tmp_path / picture).read_text() == (kept / picture).read_text(), "run scripts/make-planner-pictures"
