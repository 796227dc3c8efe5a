"""Does the tabulator key do what the scripts promise, in shells that somebody types into?"""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .terminal import done, weights, write

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0

SHELLS = {
    "bash": (["bash", "--norc", "-i"], 'eval "$(modelvault completion bash)"'),
    "fish": (["fish", "--no-config", "-i"], "modelvault completion fish | source"),
}

PROGRAM = f"""\
#!/bin/sh
case $1 in
    completion) PYTHONPATH="{ROOT}" exec "{sys.executable}" -m modelvault "$@" ;;
esac
printf 'typed:'
printf '<%s>' "$@"
printf ':end\\n'
"""


class Terminal:
    """A shell on a terminal of its own, in a vault, with a `modelvault` that repeats its arguments."""

    def __init__(self, shell: str, home: Path) -> None:
        command, setup = SHELLS[shell]
        program = home / "bin" / "modelvault"
        program.parent.mkdir()
        program.write_text(PROGRAM)
        program.chmod(0o755)
        self._controller, terminal = pty.openpty()
        environment = os.environ | {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home),
            "XDG_DATA_HOME": str(home),
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "PS1": "$ ",
            "TERM": "xterm",
        }
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *command], stdin=terminal, stdout=terminal, stderr=terminal, env=environment
        )
        os.close(terminal)
        self.enter(setup + "; modelvault ready")

    def enter(self, line: str) -> list[str]:
        """Type a line, then Enter; return the arguments that our program got."""
        self._quiet()
        for key in line:
            os.write(self._controller, key.encode())
            if key == "\t":
                self._quiet()
        os.write(self._controller, b"\r")
        shown, deadline = "", time.monotonic() + PATIENCE
        while "typed:<" not in shown or ":end" not in shown.rpartition("typed:<")[2]:
            assert time.monotonic() < deadline, shown
            shown += self._read(1.0)
        return shown.rpartition("typed:<")[2].partition(">:end")[0].split("><")

    def _quiet(self) -> None:
        """Wait until the shell has nothing more to say."""
        while self._read(0.6):
            pass

    def _read(self, patience: float) -> str:
        ready, _, _ = select.select([self._controller], [], [], patience)
        return os.read(self._controller, 65536).decode(errors="replace") if ready else ""

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._controller)


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_what_the_tabulator_completes(vault: Path, tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    for epoch in (1, 2):
        write("model weights.safetensors", weights(epoch))
        done("commit", "model weights.safetensors", "-m", f"training {epoch}", "--tag", f"v{epoch}")
    home = tmp_path / "home"
    home.mkdir()
    terminal = Terminal(shell, home)
    try:
        assert terminal.enter("modelvault chec\t training-2") == ["checkout", "training-2"]
        assert terminal.enter("modelvault show lat\t") == ["show", "latest"]
        assert terminal.enter("modelvault diff v1 v\x7fHE\t") == ["diff", "v1", "HEAD"]
        assert terminal.enter("modelvault -C . fors\x7f\x7f\x7forg\t mai\t") == ["-C", ".", "forget", "main"]
        assert terminal.enter("modelvault help exit\t") == ["help", "exit-codes"]
        assert terminal.enter("modelvault commit model\t") == ["commit", "model weights.safetensors"]
        assert terminal.enter("modelvault checkout latest model\t") == [
            "checkout",
            "latest",
            "model weights.safetensors",
        ]
    finally:
        terminal.close()
