"""`shell-init`, `install-shim`, `uninstall-shim`, `version` and `help`: the name `mv`, and ourselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from modelvault.cli import render
from modelvault.cli.commands import COMMANDS, verbs
from modelvault.cli.options import Json
from modelvault.errors import UsageError
from modelvault.version import __version__

if TYPE_CHECKING:
    from modelvault.cli.mv_name import VerbTable

Directory = Annotated[Path | None, typer.Option("--dir", help="Where; ~/.local/bin if left out.", show_default=False)]


def shell_init(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="Which shell is to evaluate this.")],
    json: Json = False,
) -> None:
    """Print a shell function `mv` that runs modelvault where the system's mv could only fail.

    Put  eval "$(modelvault shell-init bash)"  into ~/.bashrc, the like for zsh, or
    modelvault shell-init fish | source  into config.fish.
    """
    from modelvault.cli import mv_name

    text = mv_name.shell_function(shell, _verbs())
    if json:
        render.json_object({"schema": "modelvault.shell-init/1", "shell": shell, "script": text})
    else:
        render.data(text.rstrip("\n"))


def install_shim(
    directory: Directory = None,
    force: Annotated[bool, typer.Option("--force", help="Even in a directory of the system.")] = False,
    json: Json = False,
) -> None:
    """Write a small script `mv` that does the same for scripts and Makefiles."""
    from modelvault.cli import mv_name

    placed = mv_name.install_shim(directory or mv_name.default_directory(), _verbs(), force=force)
    if json:
        render.json_object({"schema": "modelvault.install-shim/1", "path": str(placed)})
    else:
        render.data(f"wrote {placed}")


def uninstall_shim(directory: Directory = None, json: Json = False) -> None:
    """Remove the script that install-shim wrote."""
    from modelvault.cli import mv_name

    removed = mv_name.uninstall_shim(directory or mv_name.default_directory())
    if json:
        render.json_object({"schema": "modelvault.uninstall-shim/1", "path": str(removed)})
    else:
        render.data(f"removed {removed}")


def _verbs() -> VerbTable:
    from modelvault.cli.mv_name import VerbTable

    return VerbTable(verbs(anywhere=True), verbs(anywhere=False))


def version(json: Json = False) -> None:
    """Print the version."""
    from modelvault.repository.repository import FORMAT_VERSION

    if json:
        render.json_object({"schema": "modelvault.version/1", "version": __version__, "format": FORMAT_VERSION})
    else:
        render.data(f"modelvault {__version__} (format {FORMAT_VERSION})")


def help_(
    about: Annotated[
        str | None, typer.Argument(metavar="VERB|TOPIC", help="Which verb, or topic.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Show help: of one verb, of all, or on a topic (revisions, files, mv, environment, exit-codes)."""
    from modelvault.cli.topics import TOPICS

    if about is not None and about not in COMMANDS and about not in TOPICS:
        raise UsageError(f"there is no verb or topic {about!a}", hint="modelvault help")
    text = _help_on(about)
    if json:
        found = {"about": about, "text": text, "verbs": list(COMMANDS), "topics": list(TOPICS)}
        render.json_object({"schema": "modelvault.help/1", **found})
    else:
        render.data(text.rstrip("\n"))


def _help_on(about: str | None) -> str:
    """Return the help text of a verb or a topic, or of the whole program."""
    from modelvault.cli.app import help_text
    from modelvault.cli.topics import TOPICS, plain_lines

    if about in TOPICS:
        return "\n".join(plain_lines(TOPICS[about]))
    text = help_text(about)
    if about is None:
        width = max(map(len, TOPICS))
        rows = (f"  {name:<{width}}  {topic.summary}" for name, topic in TOPICS.items())
        text = "\n".join((text.rstrip("\n"), "", "Topics (modelvault help TOPIC):", *rows))
    return text
