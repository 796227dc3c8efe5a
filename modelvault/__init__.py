"""ModelVault: git for model weights.

    import modelvault

    vault = modelvault.open("runs/exp1", create=True)
    vault.commit("model.pt", message="epoch 40", metrics={"val_acc": 0.934})
    state = vault.load("epoch-40")

Everything public is importable from here; what is heavy is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelvault.errors import ModelVaultError
from modelvault.version import __version__

if TYPE_CHECKING:
    from modelvault.api import CommitInfo, Vault, apply_bundle, open
    from modelvault.report import Report

__all__ = ["open", "apply_bundle", "Vault", "CommitInfo", "Report", "ModelVaultError", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("open", "apply_bundle", "Vault", "CommitInfo"):
        from modelvault import api

        return getattr(api, name)
    if name == "Report":
        from modelvault.report import Report

        return Report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
