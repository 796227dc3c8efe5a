"""Vaults for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelvault.repository.repository import Repository

from .vaults import STORES, new_vault


@pytest.fixture(autouse=True)
def _author(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's git configuration matters here."""
    monkeypatch.setenv("MODELVAULT_AUTHOR", "Ada <ada@example.org>")
    monkeypatch.delenv("MODELVAULT_DIR", raising=False)


@pytest.fixture(params=STORES)
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    """An empty vault on each store."""
    return new_vault(tmp_path / "run", request.param)


@pytest.fixture
def disk_vault(tmp_path: Path) -> Repository:
    """An empty vault on disk."""
    return new_vault(tmp_path / "run")
