"""A vault as Python sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

import modelvault


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> modelvault.Vault:
    """An empty vault."""
    monkeypatch.setenv("MODELVAULT_AUTHOR", "Ada <ada@example.org>")
    return modelvault.open(tmp_path / "run", create=True)
