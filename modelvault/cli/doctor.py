"""`doctor`: versions, and how the vault and its place stand."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from modelvault.cli import render
from modelvault.cli.options import Json
from modelvault.repository.doctor import Examination, VaultState, examine

if TYPE_CHECKING:
    from modelvault.store.base import Holder


def doctor(json: Json = False) -> None:
    """Say what ModelVault runs on, how the vault here stands, and what keeps it from working.

    Exits with 1 if there is a problem. Outside a vault only the versions are looked at.
    """
    found = examine(Path())
    if json:
        render.json_object({"schema": "modelvault.doctor/1", **_json(found)})
    else:
        rows = [(name, version or "not installed") for name, version in found.versions.items()]
        rows.append(("codec kernels", found.kernels))
        if found.vault is not None:
            rows += _vault_rows(found.vault)
        render.table(rows)
        for problem in found.problems:
            render.data(f"problem: {render.one_line(problem)}")
        if not found.problems:
            render.data("no problem found")
    if found.problems:
        raise typer.Exit(1)


def _vault_rows(vault: VaultState) -> list[tuple[str, str]]:
    rows = [
        ("vault", str(vault.directory)),
        ("vault format", vault.format or "unknown"),
        ("file system", vault.file_system or "unknown"),
        ("free", render.size(vault.free_bytes)),
        ("on disk", render.size(vault.disk_bytes)),
        ("writer", _said(vault.writer) if vault.writer else "nobody"),
        ("under way", str(len(vault.sessions))),
    ]
    return rows + [("", _said(session.holder)) for session in vault.sessions]


def _said(holder: Holder) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
    return f"{render.one_line(str(holder))} since {since}"


def _json(found: Examination) -> dict[str, Any]:
    vault = found.vault
    return {
        "versions": found.versions,
        "kernels": found.kernels,
        "vault": None
        if vault is None
        else {
            "directory": str(vault.directory),
            "format": vault.format,
            "file_system": vault.file_system,
            "free_bytes": vault.free_bytes,
            "disk_bytes": vault.disk_bytes,
            "writer": _holder_json(vault.writer) if vault.writer else None,
            "sessions": [{"name": s.name, **_holder_json(s.holder)} for s in vault.sessions],
        },
        "problems": list(found.problems),
    }


def _holder_json(holder: Holder) -> dict[str, Any]:
    return {"pid": holder.pid, "host": holder.host, "since": holder.since, "command": holder.command}
