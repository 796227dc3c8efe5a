"""Whole systems that keep versions of a file: how each is set up, saves one, and brings one back.

A system is a directory with a file `model` in it that a trainer has just written. Saving and restoring run under the
clock; putting the file there, and comparing what came back, do not.
"""

from __future__ import annotations

import filecmp
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from peers.series import read
from peers.stores import bytes_under

MODEL = "model"


class System:
    """One system at work in a directory of its own.

    Args:
        place: the directory; it is made.
        suffix: what the file's name ends in.
    """

    name = ""
    started = False
    """Whether every save and restore starts processes."""

    def __init__(self, place: Path, suffix: str) -> None:
        self.place, self.model = place, place / f"{MODEL}{suffix}"
        self.back = self.model  # where restore writes
        self.saved = 0
        place.mkdir(parents=True)
        self.set_up()

    def set_up(self) -> None:
        """Make what saving needs."""

    def stage(self, file: Path) -> None:
        """Put the file there, as a trainer would."""
        self.model.unlink(missing_ok=True)
        shutil.copyfile(file, self.model)

    def save(self) -> None:
        """Keep the file as it is now, as one more version."""
        raise NotImplementedError

    def restore(self, number: int) -> None:
        """Bring a version back."""
        raise NotImplementedError

    def is_exact(self, file: Path) -> bool:
        """Return whether what was brought back is `file`."""
        return filecmp.cmp(self.back, file, shallow=False)

    def depth(self, number: int) -> int | None:
        """Return the length of the chain of a version, if the system has such a thing and says so."""
        return None

    def size(self) -> int:
        """Return the bytes of all that is kept: of files, without the one in work."""
        out = self.model.stat().st_size if self.model.exists() else 0
        return bytes_under(self.place) - out - (self.back.stat().st_size if self.back != self.model else 0)


class Copy(System):
    """The yardstick: one more copy of the file."""

    name = "cp"

    def set_up(self) -> None:
        self.back = self.place / "back"

    def save(self) -> None:
        shutil.copyfile(self.model, self.place / f"version-{self.saved}")

    def restore(self, number: int) -> None:
        shutil.copyfile(self.place / f"version-{number}", self.back)


class Commands(System):
    """A system of command lines; `{n}` is the version, `{ago}` how many were saved after it."""

    started = True
    first: tuple[str, ...] = ()
    saving: tuple[str, ...] = ()
    restoring: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def set_up(self) -> None:
        for line in self.first:
            self._run(line, 0)

    def save(self) -> None:
        for line in self.saving:
            self._run(line, self.saved)

    def restore(self, number: int) -> None:
        for line in self.restoring:
            self._run(line, number)

    def _run(self, line: str, number: int) -> str:
        line = line.format(n=number, ago=self.saved - 1 - number, model=self.model.name, place=self.place)
        done = subprocess.run(
            ["bash", "-ec", line], cwd=self.place, env=_environment(), capture_output=True, text=True, timeout=600
        )
        if done.returncode:
            raise RuntimeError(f"{line}: {done.stderr.strip()[-500:]}")
        return done.stdout


class GitLfs(Commands):
    """Git, with large files beside it."""

    name = "git-lfs"
    needs = ("git", "git-lfs")
    first = (
        "git init -q . && git config gc.auto 0 && git lfs install --local && git lfs track {model}",
        "git add .gitattributes && git commit -qm start",
    )
    saving = ("git add {model} && git commit -qm {n}",)
    restoring = ("git checkout -q HEAD~{ago} -- {model}",)


class Borg(Commands):
    """Content-defined chunks, zstd 3."""

    name = "borg"
    needs = ("borg",)
    first = ("borg init -e none repo",)
    saving = ("borg create -C zstd,3 repo::{n} {model}",)
    restoring = ("borg extract repo::{n}",)


class Restic(Commands):
    """Content-defined chunks, zstd."""

    name = "restic"
    needs = ("restic",)
    first = ("restic init -r repo --no-cache",)
    saving = ("restic -r repo --no-cache backup --tag v{n} {model}",)
    restoring = ("restic -r repo --no-cache dump --tag v{n} latest /{model} > {model}",)


class Dvc(Commands):
    """Whole files, by their hash; git for the pointers."""

    name = "dvc"
    needs = ("git", "dvc")
    first = ("git init -q . && dvc init -q && git commit -qm start",)
    saving = ("dvc add -q {model} && git add {model}.dvc .gitignore && git commit -qm {n}",)
    restoring = ("git checkout -q HEAD~{ago} -- {model}.dvc && dvc checkout -q -f {model}.dvc",)


class VaultCommands(Commands):
    """This project, by its command line."""

    name = "modelvault"
    needs = ("modelvault",)
    first = ("modelvault init",)
    saving = ("modelvault commit {model} -m v{n}",)
    restoring = ("modelvault checkout HEAD~{ago} -o back",)

    def set_up(self) -> None:
        super().set_up()
        self.back = self.place / "back"

    def depth(self, number: int) -> int | None:
        found = re.search(r'"depth": (\d+)', self._run("modelvault show --json HEAD~{ago}", number))
        return int(found[1]) if found else None


class Vault(System):
    """This project in one process, the vault open."""

    name = "modelvault, in process"

    def set_up(self) -> None:
        import modelvault

        self.back = self.place / "back"
        self.vault = modelvault.open(self.place, create=True)
        self.commits = list[modelvault.CommitInfo]()

    def save(self) -> None:
        self.commits.append(self.vault.commit(self.model, message=f"v{self.saved}"))

    def restore(self, number: int) -> None:
        self.vault.checkout(self.commits[number].id, self.back)

    def depth(self, number: int) -> int | None:
        return self.commits[number].depth


class Moonclip(System):
    """XOR with the one before and zstd, in one process; it takes tensors from memory, so it need not read the file."""

    name = "moonclip, in process"

    def set_up(self) -> None:
        from moonclip import MoonclipManager

        ever = 10**9
        self.manager = MoonclipManager(
            str(self.place / "store"),
            async_save=False,
            max_full_snapshots=ever,
            max_deltas_per_full=ever,
            merge_max_chain=ever,
            max_total_snapshots=ever,
            full_every_steps=ever,
            rollback_interval_steps=0,
        )
        self.ids = list[Any]()

    def stage(self, file: Path) -> None:
        super().stage(file)
        self.tensors = {
            tensor.name: ((tensor.words.size,), self._kind(tensor.words), tensor.words.tobytes())
            for tensor in read(file).tensors
        }

    @staticmethod
    def _kind(words: np.ndarray[Any, Any]) -> str:
        return {2: "bfloat16", 4: "float32"}[words.itemsize]

    def save(self) -> None:
        self.ids.append(self.manager.save_tensors(self.saved, self.tensors))

    def restore(self, number: int) -> None:
        self.found: Mapping[str, bytearray] = self.manager.load(self.ids[number])

    def is_exact(self, file: Path) -> bool:
        return all(bytes(self.found[tensor.name]) == tensor.words.tobytes() for tensor in read(file).tensors)

    def size(self) -> int:
        return bytes_under(self.place / "store")


class Oxen(System):
    """Whole files, by their hash, in one process."""

    name = "oxen, in process"

    def set_up(self) -> None:
        import oxen
        import oxen.user

        oxen.user.config_user("bench", "bench@example.org")
        self.repo = oxen.Repo(str(self.place))
        self.repo.init()
        self.ids = list[str]()

    def save(self) -> None:
        self.repo.add(str(self.model))
        self.ids.append(self.repo.commit(f"v{self.saved}").id)

    def restore(self, number: int) -> None:
        self.repo.restore(self.model.name, source=self.ids[number])


class Glyd(System):
    """A store that looks for the object most like the new one, in one process."""

    name = "glyd, in process"

    def set_up(self) -> None:
        import glyd

        self.back = self.place / "back"
        self.store = glyd.Store(str(self.place / "store"))
        self.ids = list[Any]()

    def save(self) -> None:
        self.ids.append(self.store.put(self.model.name, self.model.read_bytes()))

    def restore(self, number: int) -> None:
        self.back.write_bytes(self.store.get(self.ids[number]))


SYSTEMS: tuple[type[System], ...] = (
    Copy, Vault, VaultCommands, Moonclip, Oxen, Glyd, GitLfs, Borg, Restic, Dvc,
)  # fmt: skip

_MODULES = {"Moonclip": "moonclip", "Oxen": "oxen", "Glyd": "glyd"}


def installed() -> Iterator[tuple[type[System], bool]]:
    """Yield every system and whether it can be run here."""
    for system in SYSTEMS:
        module = _MODULES.get(system.__name__)
        here = module is None or importlib.util.find_spec(module) is not None
        if issubclass(system, Commands):
            here = all(shutil.which(name, path=_environment()["PATH"]) for name in system.needs)
        yield system, here


def _environment() -> dict[str, str]:
    """Return the environment of command lines: this one's programs, one thread, nobody's settings."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_AUTHOR_NAME": "bench",
        "GIT_AUTHOR_EMAIL": "bench@example.org",
        "GIT_COMMITTER_NAME": "bench",
        "GIT_COMMITTER_EMAIL": "bench@example.org",
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        "RESTIC_PASSWORD": "bench",
        "DVC_NO_ANALYTICS": "1",
    }
