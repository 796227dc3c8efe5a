"""`config.yaml`: what a vault's owner decides. The one door to yaml.

    author: Ada <ada@example.org>       who commits, unless MODELVAULT_AUTHOR says so
    metrics:
      psnr: max                         whether `best:psnr` is the highest or the lowest
    max_depth: 8                        longest chain of references
    max_restore_seconds: 2.5            most that decoding a commit may take
    lossy:                              round what is committed, unless a commit says otherwise
      eps: 0.001                        or eval and max_drop, to have a bound found

A vault has such a file and so may its user; what the vault's says goes before what the user's says. The format version
is not here but in the database, so that nobody can edit it.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from modelvault.errors import InputError, UsageError

Direction = Literal["min", "max"]
BoundName = Literal["abs", "rel", "paper"]
Origin = Literal["environment", "vault", "user", "git", "built in"]

FILE_NAME = "config.yaml"
AUTHOR_VARIABLE = "MODELVAULT_AUTHOR"
MAX_DEPTH = 16
"""Longest chain of references where nothing else is said, and the longest there may be (docs/decisions, 0007)."""

KEYS = ("author", "metrics", "max_depth", "max_restore_seconds", "lossy")
_METRIC = "metrics."
_LOSSY = "lossy."
_DEPTH, _SECONDS = "max_depth", "max_restore_seconds"
_LOWER_IS_BETTER = ("loss", "err", "perplexity", "ppl", "mae", "mse", "rmse", "nll", "wer", "cer", "fid")
_TEMPLATE = """\
# ModelVault configuration; see docs/reference/config.md
# author: Ada <ada@example.org>
# metrics:
#   psnr: max
# max_depth: 16
# max_restore_seconds: 10
"""


class LossyPolicy(NamedTuple):
    """How a vault rounds what is committed to it; each as the option of `commit` of that name.

    Attributes:
        eps: the bound, None if it is to be found.
        bound: what it is measured by.
        vectors: that of one-dimensional tensors, 0 to keep them exactly.
        optimizer: that of optimizer state, 0 to keep it exactly.
        eval: a command that judges a bound, or None.
        max_drop: what share of its number may be lost.
        alpha: the weight of the ratio; None as everywhere below: what `commit` takes if nothing is said.
        range: lowest and highest bound to try.
        eval_timeout: seconds that the command may take for one file.
    """

    eps: float | None = None
    bound: BoundName = "abs"
    vectors: float = 0.0
    optimizer: float = 0.0
    eval: str | None = None
    max_drop: float = 0.0
    alpha: float | None = None
    range: tuple[float, float] | None = None
    eval_timeout: float | None = None


class Config(NamedTuple):
    """What configuration files say.

    Attributes:
        author: who commits, None if no file says.
        metrics: which way each metric is better.
        lossy: how commits are rounded, None if they are not.
        max_depth: the longest chain of references, None if no file says.
        max_restore_seconds: the most seconds that decoding a commit may take, None if no file says: no bound.
    """

    author: str | None = None
    metrics: Mapping[str, Direction] = {}
    lossy: LossyPolicy | None = None
    max_depth: int | None = None
    max_restore_seconds: float | None = None

    @property
    def longest_chain(self) -> int:
        """The longest chain of references in force."""
        return MAX_DEPTH if self.max_depth is None else self.max_depth

    def direction(self, metric: str) -> Direction:
        """Return whether the best of a metric is its lowest or highest value."""
        if metric in self.metrics:
            return self.metrics[metric]
        lowered = metric.lower()
        return "min" if any(word in lowered for word in _LOWER_IS_BETTER) else "max"


class Setting(NamedTuple):
    """One setting in force: its key (`author`, `metrics.NAME`, ...), its value, and where that comes from."""

    key: str
    value: str
    origin: Origin


_NO_BOUND = Setting(_SECONDS, "no bound", "built in")


def user_directory() -> Path:
    """Return where the user's own `config.yaml` is, whether it exists or not."""
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if not base.is_absolute():  # which that standard wants ignored
        base = Path(os.path.expanduser("~/.config"))  # noqa: PTH111 (Path's own fails where there is no home)
    return base / "modelvault"


def write_default(directory: Path) -> None:
    """Write a configuration that says nothing yet."""
    (directory / FILE_NAME).write_text(_TEMPLATE, encoding="utf-8")


def read_config(directory: Path) -> Config:
    """Return what the vault in `directory` is configured to, the user's own file included.

    Raises:
        UsageError: not YAML, or a value that is not understood; the message names the key.
    """
    vault, user = read_file(directory), read_file(user_directory())
    if user.lossy is not None:
        raise UsageError(
            f"{user_directory() / FILE_NAME}: lossy is a vault's own setting",
            hint=f"put it into {directory / FILE_NAME}",
        )
    return Config(
        vault.author or user.author,
        {**user.metrics, **vault.metrics},
        vault.lossy,
        user.max_depth if vault.max_depth is None else vault.max_depth,
        user.max_restore_seconds if vault.max_restore_seconds is None else vault.max_restore_seconds,
    )


def read_file(directory: Path) -> Config:
    """Return what one configuration file says; a missing one says nothing.

    Raises:
        UsageError: as `read_config`.
    """
    return _understood(directory / FILE_NAME, _load(directory / FILE_NAME))


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    if all(not line.strip() or line.lstrip().startswith("#") for line in text.splitlines()):
        return {}  # the common case needs no yaml

    import yaml

    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{where} is not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UsageError(f"{path} holds no table of settings")
    return loaded


def _understood(path: Path, loaded: Mapping[str, Any]) -> Config:
    unknown = sorted(str(key) for key in loaded if key not in KEYS)
    if unknown:
        raise UsageError(f"{path}: unknown setting {unknown[0]!a}", hint=f"known settings: {', '.join(KEYS)}")
    author, metrics = loaded.get("author"), loaded.get("metrics") or {}
    if author is not None and not isinstance(author, str):
        raise UsageError(f"{path}: author is not text")
    if not isinstance(metrics, dict) or any(value not in ("min", "max") for value in metrics.values()):
        raise UsageError(f"{path}: metrics takes lines of NAME: min or NAME: max")
    depth, seconds = loaded.get(_DEPTH), loaded.get(_SECONDS)
    if depth is not None and not _is_depth(depth):
        raise UsageError(f"{path}: {_DEPTH} is no whole number from 0 to {MAX_DEPTH}")
    if seconds is not None and not _is_seconds(seconds):
        raise UsageError(f"{path}: {_SECONDS} is no number above 0", hint="such as 2.5")
    return Config(
        author,
        {str(name): value for name, value in metrics.items()},
        _policy(path, loaded.get("lossy")),
        depth,
        None if seconds is None else float(seconds),
    )


def _is_depth(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_DEPTH


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")


def _policy(path: Path, said: Any) -> LossyPolicy | None:
    if said is None:
        return None
    if not isinstance(said, dict):
        raise UsageError(f"{path}: lossy takes lines of its own", hint="such as eps: 0.001")
    for key in said:
        if key not in LossyPolicy._fields:
            raise UsageError(
                f"{path}: unknown setting lossy.{key!s:.40}", hint=f"known are {', '.join(LossyPolicy._fields)}"
            )
    numbers = {
        name: _number(path, name, said[name], most)
        for name, most in _LOSSY_NUMBERS.items()
        if said.get(name) is not None
    }
    if said.get("bound", "abs") not in get_args(BoundName):
        raise UsageError(f"{path}: lossy.bound is none of {', '.join(get_args(BoundName))}")
    command = said.get("eval")
    if command is not None and (not isinstance(command, str) or not command.strip()):
        raise UsageError(f"{path}: lossy.eval is no command")
    if (command is None) != ("max_drop" not in numbers):
        raise UsageError(f"{path}: lossy.eval and lossy.max_drop go together", hint="such as max_drop: 0.002")
    if command is None and not numbers.get("eps"):
        raise UsageError(f"{path}: lossy has neither eps nor eval", hint="leave lossy out to keep every bit")
    if numbers.get("eps") == 0:
        raise UsageError(f"{path}: lossy.eps is 0", hint="leave lossy out to keep every bit")
    span = said.get("range")
    if span is not None:
        if not isinstance(span, list) or len(span) != 2:
            raise UsageError(f"{path}: lossy.range is no list of two numbers", hint="such as [0.0001, 0.1]")
        low, high = (_number(path, "range", bound, 1) for bound in span)
        if not 0 < low <= high:
            raise UsageError(f"{path}: lossy.range goes from {low:g} to {high:g}", hint="such as [0.0001, 0.1]")
        span = low, high
    return LossyPolicy(bound=said.get("bound", "abs"), eval=command, range=span, **numbers)


_LOSSY_NUMBERS: dict[str, float] = {
    "eps": 1,
    "vectors": 1,
    "optimizer": 1,
    "max_drop": math.inf,
    "alpha": 1,
    "eval_timeout": math.inf,
}
"""Settings that are numbers from 0 on, and the most that each may be."""


def _number(path: Path, name: str, value: Any, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most or math.isinf(value):
        span = f"from 0 to {most:g}" if math.isfinite(most) else "from 0 on"
        raise UsageError(f"{path}: lossy.{name} is no number {span}", hint="such as 0.001")
    return float(value)


def change(directory: Path, key: str, value: str | None) -> None:
    """Set a key in one configuration file, or take it out (None). Comments in the file are lost.

    Raises:
        UsageError: there is no such key, the value is none of its values, or the file is not understood.
        InputError: it is to be taken out and is not in there, or the file cannot be written.
    """
    path = directory / FILE_NAME
    metric = _metric_of(key)
    config = read_file(directory)
    if value is None:
        if metric is None:
            is_set = getattr(config, key) is not None
            cleared: dict[str, Any] = {key: None}
            config = config._replace(**cleared)
        else:
            is_set = metric in config.metrics
            config = config._replace(metrics={name: way for name, way in config.metrics.items() if name != metric})
        if not is_set:
            raise InputError(f"{key} is not set in {path}", hint="modelvault config --show-origin")
    elif metric is None:
        config = config._replace(**{key: _SCALARS[key](value)})
    elif value in ("min", "max"):
        config = config._replace(metrics={**config.metrics, metric: "min" if value == "min" else "max"})
    else:
        raise UsageError(f"{key} takes min or max, not {value!a}")
    _write(path, config)


def _author_said(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise UsageError("an author is one line of text", hint='for example "Ada <ada@example.org>"')
    return value


def _depth_said(value: str) -> int:
    with contextlib.suppress(ValueError):
        if _is_depth(depth := int(value)):
            return depth
    raise UsageError(f"{_DEPTH} takes a whole number from 0 to {MAX_DEPTH}, not {value!a}")


def _seconds_said(value: str) -> float:
    with contextlib.suppress(ValueError):
        if _is_seconds(seconds := float(value)):
            return seconds
    raise UsageError(f"{_SECONDS} takes a number above 0, not {value!a}", hint="such as 2.5")


_SCALARS: Mapping[str, Callable[[str], Any]] = {
    "author": _author_said,
    _DEPTH: _depth_said,
    _SECONDS: _seconds_said,
}
"""What reads a value from the command line, by key."""


def _metric_of(key: str) -> str | None:
    """Return the metric that a key is about, None for a key of `_SCALARS`.

    Raises:
        UsageError: there is no such key.
    """
    if key in _SCALARS:
        return None
    if key == "lossy" or key.startswith(_LOSSY):
        raise UsageError("how a vault rounds is not set from here", hint=f"write it into {FILE_NAME} of the vault")
    metric = key.removeprefix(_METRIC)
    if not key.startswith(_METRIC) or not metric or not metric.isprintable():
        raise UsageError(f"there is no setting {key!a}", hint=f"{', '.join(_SCALARS)}, or metrics.NAME")
    return metric


def _write(path: Path, config: Config) -> None:
    """Put a configuration in place of a file, whole or not at all."""
    settings: dict[str, Any] = {}
    if config.author is not None:
        settings["author"] = config.author
    if config.metrics:
        settings["metrics"] = dict(sorted(config.metrics.items()))
    if config.max_depth is not None:
        settings[_DEPTH] = config.max_depth
    if config.max_restore_seconds is not None:
        settings[_SECONDS] = config.max_restore_seconds
    if config.lossy is not None:
        settings["lossy"] = _lossy_settings(config.lossy)
    text = _TEMPLATE
    if settings:
        import yaml

        text = yaml.safe_dump(settings, allow_unicode=True, sort_keys=False, width=1000)
    import tempfile  # not for those who only read

    target = Path(os.path.realpath(path))  # a link to a file that is kept elsewhere stays one
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{FILE_NAME}.", suffix=".tmp", dir=target.parent)
        temporary = Path(name)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o644)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def settings_of_file(directory: Path, origin: Origin) -> list[Setting]:
    """Return what one configuration file sets, by key."""
    config = read_file(directory)
    found = [Setting("author", config.author, origin)] if config.author is not None else []
    found += [Setting(_METRIC + name, value, origin) for name, value in sorted(config.metrics.items())]
    if config.max_depth is not None:
        found.append(Setting(_DEPTH, str(config.max_depth), origin))
    if config.max_restore_seconds is not None:
        found.append(Setting(_SECONDS, f"{config.max_restore_seconds:g}", origin))
    if config.lossy is not None:
        for name, value in _lossy_settings(config.lossy).items():
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            found.append(Setting(_LOSSY + name, shown, origin))
    return found


def _lossy_settings(policy: LossyPolicy) -> dict[str, Any]:
    """Return what a policy says, without what is as if nothing were said of it."""
    default = LossyPolicy()
    said = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in policy._asdict().items()
        if value != getattr(default, name) or name == "bound"
    }
    if policy.eval is not None:
        said["max_drop"] = policy.max_drop
    return said


def settings_in_force(directory: Path, root: Path) -> list[Setting]:
    """Return everything that is in force in a vault: the author first, then by key; of metrics, those a file names.

    Args:
        directory: the `.modelvault` directory.
        root: where git is asked who its user is.
    """
    found = {setting.key: setting for setting in (Setting(_DEPTH, str(MAX_DEPTH), "built in"), _NO_BOUND)}
    for where, origin in _files(directory):
        found.update({setting.key: setting for setting in settings_of_file(where, origin) if setting.key != "author"})
    return [_author(directory, root), *(found[key] for key in sorted(found))]


def setting_in_force(directory: Path, root: Path, key: str) -> Setting:
    """Return one setting as it is in force; every known key has a value.

    Raises:
        UsageError: there is no such key.
    """
    if key.startswith(_LOSSY) and key.removeprefix(_LOSSY) in LossyPolicy._fields:
        said = [setting for setting in settings_in_force(directory, root) if setting.key == key]
        return said[0] if said else Setting(key, "not set", "built in")
    metric = _metric_of(key)
    if key == "author":
        return _author(directory, root)
    named = [setting for setting in settings_in_force(directory, root) if setting.key == key]
    return named[0] if named or metric is None else Setting(key, Config().direction(metric), "built in")


def _files(directory: Path) -> tuple[tuple[Path, Origin], ...]:
    """Return the directories of configuration files, the strongest last."""
    return (user_directory(), "user"), (directory, "vault")


def _author(directory: Path, root: Path) -> Setting:
    named = os.environ.get(AUTHOR_VARIABLE)
    if named:
        return Setting("author", named, "environment")
    for where, origin in reversed(_files(directory)):
        author = read_file(where).author
        if author:
            return Setting("author", author, origin)
    author = _git_author(root)
    return Setting("author", author, "git") if author else Setting("author", _login_name(), "built in")


def author_of(config: Config, directory: Path) -> str:
    """Return who commits: MODELVAULT_AUTHOR, the configuration, git's user, or the login name."""
    return os.environ.get(AUTHOR_VARIABLE) or config.author or _git_author(directory) or _login_name()


def _login_name() -> str:
    return os.environ.get("LOGNAME") or os.environ.get("USER") or "unknown"


def _git_author(directory: Path) -> str:
    name = _git_setting("user.name", directory)
    email = _git_setting("user.email", directory) if name else ""
    return f"{name} <{email}>" if email else name


def _git_setting(key: str, directory: Path) -> str:
    import subprocess

    try:
        done = subprocess.run(
            ["git", "config", "--get", key], cwd=directory, capture_output=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace").strip()
