"""The command line: `modelvault VERB ...`.

    commands   the table of verbs: where each one's function is
    app        builds the Typer application, of one verb where that is enough
    options    options that several verbs share
    render     the only place that prints: tables, JSON, progress
    snapshots  commit, checkout
    history    log
    quick      a plain line of log, without Typer
    commit_text  what log prints of a commit
    vault      the vault a command works on
    names      tag, branch, switch
    moves      reflog, undo
    settings   config
    retention  forget
    inspect    show, fsck
    tensors    ls, cat, diff
    identify   identify
    upkeep     init, status, report
    doctor     doctor
    completion completion
    topics     the texts of help TOPIC
    mv         shell-init, install-shim, uninstall-shim, version, help
    mv_name    the text of the shell function and the shim
    graph      the lines of `log --graph`

`main` is what the console script calls: it runs the verb and turns every error into one line and an exit code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from modelvault.cli import render
from modelvault.cli.quick import parse_log
from modelvault.errors import ModelVaultError

INTERRUPTED = 130

_MATRIX_THREADS = "OPENBLAS_NUM_THREADS"


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code (docs/reference/cli.md lists them)."""
    words = sys.argv[1:] if arguments is None else arguments
    _spare_threads()
    plain = parse_log(words)
    if plain is not None:
        from modelvault.cli.commit_text import show_log

        return _guarded(lambda: show_log(**plain))
    from modelvault.cli.app import run

    return _guarded(lambda: run(words))


def _spare_threads() -> None:
    """Keep the matrix library that numpy brings from starting a thread for each processor.

    No command multiplies large ones, and each thread looks for work without rest for a tenth of a second: a commit of
    91 MB takes 0.94 of the time without, on two processors. Programs of users are run with `os.environ`, which stays
    as it is.
    """
    if _MATRIX_THREADS not in os.environ:
        os.putenv(_MATRIX_THREADS, "1")


def _guarded(command: Callable[[], int | None]) -> int:
    """Run a command; say what went wrong in one line and return the exit code that tells it."""
    try:
        code = command()
        sys.stdout.flush()
    except ModelVaultError as error:
        render.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        render.note("interrupted; nothing was left half-written")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough of it. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code or 0
