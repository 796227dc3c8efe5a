"""The table of verbs. The `mv` shim, the completion and the reference are generated from it."""

from __future__ import annotations

from typing import NamedTuple


class CommandInfo(NamedTuple):
    """Where a verb's function is, and whether it means anything outside a vault."""

    module: str
    function: str
    anywhere: bool = False


COMMANDS: dict[str, CommandInfo] = {
    "init": CommandInfo("upkeep", "init", anywhere=True),
    "commit": CommandInfo("snapshots", "commit"),
    "checkout": CommandInfo("snapshots", "checkout"),
    "log": CommandInfo("history", "log"),
    "show": CommandInfo("inspect", "show"),
    "diff": CommandInfo("tensors", "diff"),
    "ls": CommandInfo("tensors", "ls"),
    "cat": CommandInfo("tensors", "cat"),
    "identify": CommandInfo("identify", "identify"),
    "bisect": CommandInfo("bisect", "bisect"),
    "status": CommandInfo("upkeep", "status"),
    "tag": CommandInfo("names", "tag"),
    "branch": CommandInfo("names", "branch"),
    "switch": CommandInfo("names", "switch"),
    "reflog": CommandInfo("moves", "reflog"),
    "undo": CommandInfo("moves", "undo"),
    "report": CommandInfo("upkeep", "report"),
    "plan": CommandInfo("planning", "plan"),
    "repack": CommandInfo("planning", "repack"),
    "gc": CommandInfo("garbage", "gc"),
    "forget": CommandInfo("retention", "forget"),
    "bundle": CommandInfo("bundles", "bundle"),
    "unbundle": CommandInfo("bundles", "unbundle"),
    "config": CommandInfo("settings", "config"),
    "fsck": CommandInfo("inspect", "fsck"),
    "doctor": CommandInfo("doctor", "doctor", anywhere=True),
    "completion": CommandInfo("completion", "completion", anywhere=True),
    "shell-init": CommandInfo("mv", "shell_init", anywhere=True),
    "install-shim": CommandInfo("mv", "install_shim", anywhere=True),
    "uninstall-shim": CommandInfo("mv", "uninstall_shim", anywhere=True),
    "version": CommandInfo("mv", "version", anywhere=True),
    "help": CommandInfo("mv", "help_", anywhere=True),
}

NOT_FOR_MV = frozenset({"shell-init", "install-shim", "uninstall-shim"})
"""Verbs that set up `mv` and are only reached by the long name."""


def verbs(*, anywhere: bool) -> tuple[str, ...]:
    """Return the verbs that `mv` hands over, those that work outside a vault or those that need one."""
    return tuple(
        sorted(verb for verb, info in COMMANDS.items() if info.anywhere == anywhere and verb not in NOT_FOR_MV)
    )
