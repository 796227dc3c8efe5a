"""`config.yaml`: what a vault's owner decides. The one door to yaml.

    author: Ada <ada@example.org>       who commits, unless MODELVAULT_AUTHOR says so
    metrics:
      psnr: max                         whether `best:psnr` is the highest or the lowest

The format version is not here but in the database, so that nobody can edit it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from modelvault.errors import UsageError

Direction = Literal["min", "max"]

FILE_NAME = "config.yaml"
_LOWER_IS_BETTER = ("loss", "err", "perplexity", "ppl", "mae", "mse", "rmse", "nll", "wer", "cer", "fid")
_TEMPLATE = """\
# ModelVault configuration; see docs/reference/config.md
# author: Ada <ada@example.org>
# metrics:
#   psnr: max
"""


class Config(NamedTuple):
    """What `config.yaml` says: an author, and which way each metric is better."""

    author: str | None = None
    metrics: Mapping[str, Direction] = {}

    def direction(self, metric: str) -> Direction:
        """Return whether the best of a metric is its lowest or highest value."""
        if metric in self.metrics:
            return self.metrics[metric]
        lowered = metric.lower()
        return "min" if any(word in lowered for word in _LOWER_IS_BETTER) else "max"


def write_default(directory: Path) -> None:
    """Write a configuration that says nothing yet."""
    (directory / FILE_NAME).write_text(_TEMPLATE, encoding="utf-8")


def read_config(directory: Path) -> Config:
    """Read the configuration; a missing file says nothing.

    Raises:
        UsageError: not YAML, or a value that is not understood; the message names the key.
    """
    path = directory / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Config()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    if all(not line.strip() or line.lstrip().startswith("#") for line in text.splitlines()):
        return Config()  # the common case needs no yaml

    import yaml

    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{where} is not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
    if loaded is None:
        return Config()
    if not isinstance(loaded, dict):
        raise UsageError(f"{path} holds no table of settings")
    unknown = sorted(str(key) for key in loaded if key not in ("author", "metrics"))
    if unknown:
        raise UsageError(f"{path}: unknown setting {unknown[0]!a}", hint="known settings: author, metrics")
    author, metrics = loaded.get("author"), loaded.get("metrics") or {}
    if author is not None and not isinstance(author, str):
        raise UsageError(f"{path}: author is not text")
    if not isinstance(metrics, dict) or any(value not in ("min", "max") for value in metrics.values()):
        raise UsageError(f"{path}: metrics takes lines of NAME: min or NAME: max")
    return Config(author, {str(name): value for name, value in metrics.items()})


def author_of(config: Config, directory: Path) -> str:
    """Return who commits: MODELVAULT_AUTHOR, the configuration, git's user, or the login name."""
    named = os.environ.get("MODELVAULT_AUTHOR") or config.author
    if named:
        return named
    name, email = _git_setting("user.name", directory), _git_setting("user.email", directory)
    if name:
        return f"{name} <{email}>" if email else name
    return os.environ.get("LOGNAME") or os.environ.get("USER") or "unknown"


def _git_setting(key: str, directory: Path) -> str:
    import subprocess

    try:
        done = subprocess.run(
            ["git", "config", "--get", key], cwd=directory, capture_output=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace").strip()
