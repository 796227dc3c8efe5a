"""The vault that a command works on."""

from __future__ import annotations

from pathlib import Path

from modelvault.cli import render
from modelvault.repository.repository import DEFAULT_LOCK_TIMEOUT, Repository, open_repository


def here(lock_timeout: float = DEFAULT_LOCK_TIMEOUT) -> Repository:
    """Open the vault of the working directory."""
    repository = open_repository(Path())
    repository.lock_timeout = lock_timeout
    repository.waiting = render.waiting
    return repository
