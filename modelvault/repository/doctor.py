"""What ModelVault runs on, and whether this is a place it can work in. Opens nothing for writing."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from modelvault import codec
from modelvault.errors import ModelVaultError, NoVaultError
from modelvault.repository.repository import find_directory
from modelvault.store.base import FORMAT_KEY, FORMAT_VERSION, Holder, LiveSession
from modelvault.store.lmdb_store import LmdbStore
from modelvault.store.mountpoint import NETWORK_FILE_SYSTEMS, file_system_of
from modelvault.version import __version__

PACKAGES = ("blake3", "lmdb", "numpy", "pyfastcdc", "pyyaml", "typer", "zlib-ng", "zstandard")
OPTIONAL_PACKAGES = ("torch",)

LOW_SPACE = 1_000_000_000
"""Free bytes below which we say so: a commit of a network of today may not fit."""


class VaultState(NamedTuple):
    """How a vault stands.

    Attributes:
        directory: where it is.
        format: the format version it says it has, or None.
        file_system: the type of the file system it is on, None if nobody knows.
        free_bytes: what the file system has left for us.
        disk_bytes: what the vault takes.
        writer: who holds the lock for writing, or None.
        sessions: operations under way.
    """

    directory: Path
    format: str | None
    file_system: str | None
    free_bytes: int
    disk_bytes: int
    writer: Holder | None
    sessions: tuple[LiveSession, ...]


class Examination(NamedTuple):
    """What was found.

    Attributes:
        versions: of ModelVault, Python, the system, the format we write, and each package (None: not installed).
        kernels: what computes the codecs.
        vault: the vault of the working directory, None if there is none or it cannot be read.
        problems: what keeps it from working, one line each.
    """

    versions: dict[str, str | None]
    kernels: str
    vault: VaultState | None
    problems: tuple[str, ...]


def examine(start: Path) -> Examination:
    """Look at the programs, and at the vault of a directory if it has one."""
    versions: dict[str, str | None] = {
        "modelvault": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "format": str(FORMAT_VERSION),
    }
    versions |= {name: _version(name) for name in (*PACKAGES, *OPTIONAL_PACKAGES)}
    problems = [f"package {name} is not installed" for name in PACKAGES if versions[name] is None]
    vault = None
    try:
        vault = _look_at(find_directory(start), problems)
    except NoVaultError as error:
        if os.environ.get("MODELVAULT_DIR"):
            problems.append(error.message)
    return Examination(versions, codec.kernels_in_use(), vault, tuple(problems))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _look_at(directory: Path, problems: list[str]) -> VaultState | None:
    kind = file_system_of(directory)
    free = shutil.disk_usage(directory).free
    if free < LOW_SPACE:
        problems.append(f"{free} bytes are left on the file system of {directory}")
    if kind in NETWORK_FILE_SYSTEMS:
        problems.append(f"{directory} is on a network file system ({kind})")
    try:
        store = LmdbStore(directory)
        with store.read() as txn:
            stored = txn.get("meta", FORMAT_KEY)
        version = stored.decode("ascii", "replace") if stored is not None else None
        return VaultState(
            directory, version, kind, free, store.disk_bytes(), store.writer(), tuple(store.live_sessions())
        )
    except ModelVaultError as error:
        problems.append(error.message)
        return None
