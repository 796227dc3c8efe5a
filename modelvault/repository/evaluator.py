"""What says how good a file of weights is: a command that gets its path and prints one number, higher is better.

The number is the last line of the command's output that is not empty. A command that fails, takes too long, or prints
anything else there is an error, and so is a callable that raises or returns what is no finite number: whatever wanted
to know must not go on.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from modelvault.errors import InputError, UsageError

Evaluate = Callable[[Path], float]
"""Gives the number for a file; higher is better."""

DEFAULT_TIMEOUT = 3600.0
"""Seconds for one file: a large network on a whole test split."""

_TAIL = 64 << 10
"""Bytes of its output that are kept, the last ones: a command may print for hours what nobody asked for."""


def command(text: str, timeout: float = DEFAULT_TIMEOUT) -> Evaluate:
    """Return what runs a command with the file's path as its last argument.

    Args:
        text: program and arguments, in the shell's quoting; no shell reads it.
        timeout: seconds after which the command and its children are killed.

    Raises:
        UsageError: it is empty, or its quotes do not close.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"cannot read the evaluator {text!a}: {error}") from None
    if not words:
        raise UsageError("the evaluator is empty", hint="--eval 'python evaluate.py'")

    def evaluate(path: Path) -> float:
        return _number(_output([*words, str(path)], text, timeout), text)

    return evaluate


def checked(evaluate: Callable[[Path], object], name: str) -> Evaluate:
    """Return a caller's function as an evaluator: what it raises or returns wrongly becomes an `InputError`."""

    def wrapped(path: Path) -> float:
        try:
            value = float(evaluate(path))  # type: ignore[arg-type]
        except Exception as error:  # the caller's code: anything may come out of it
            raise _failed(name, f"it raised {type(error).__name__}: {error}") from error
        if not math.isfinite(value):
            raise _failed(name, f"it returned {value}")
        return value

    return wrapped


def _output(words: list[str], text: str, timeout: float) -> str:
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=os.environ,  # and not what the command line has set for libraries
        )
    except OSError as error:
        raise _failed(text, f"{words[0]!a}: {error.strerror}") from None
    with process:
        try:
            out, err = _tails(process, timeout)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a session of its own: its children go too
            if isinstance(error, subprocess.TimeoutExpired):
                raise _failed(text, f"it took longer than {timeout:g} seconds") from None
            raise
    if process.returncode:
        how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        last = _last_line(err.decode("utf-8", "replace"))
        raise _failed(text, f"{how}{f': {last}' if last else ''}")
    return out.decode("utf-8", "replace")


def _tails(process: subprocess.Popen[bytes], timeout: float) -> tuple[bytes, bytes]:
    """Wait until a command has ended and closed both of its outputs, and return the end of each.

    Raises:
        subprocess.TimeoutExpired: it takes longer.
    """
    assert process.stdout is not None and process.stderr is not None
    end = time.monotonic() + timeout
    tails = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    with selectors.DefaultSelector() as selector:
        for descriptor in tails:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            if time.monotonic() >= end:
                raise subprocess.TimeoutExpired(process.args, timeout)
            for key, _ in selector.select(max(0.0, end - time.monotonic())):
                data = os.read(key.fd, _TAIL)
                if not data:
                    selector.unregister(key.fd)
                tails[key.fd] += data
                del tails[key.fd][:-_TAIL]
    process.wait(max(0.0, end - time.monotonic()))
    out, err = (bytes(tail) for tail in tails.values())
    return out, err


def _number(output: str, text: str) -> float:
    line = _last_line(output)
    try:
        value = float(line)
    except ValueError:
        found = f"it ended with {line[:80]!a}" if line else "it printed nothing"
        raise _failed(text, f"{found}, a number is wanted") from None
    if not math.isfinite(value):
        raise _failed(text, f"it printed {line}")
    return value


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _failed(name: str, why: str) -> InputError:
    return InputError(
        f"evaluator {name!a}: {why}; nothing was committed",
        hint="it must print one number for the file whose path is its last argument, higher is better",
    )
