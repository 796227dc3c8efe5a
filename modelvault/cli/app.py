"""The Typer application, and what becomes of errors.

Only the module of the verb that was typed is imported, so that `log` does not pay for `commit`. Help and unknown verbs
build the whole application.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from modelvault.cli import render
from modelvault.cli.commands import COMMANDS
from modelvault.errors import UsageError

_EPILOG = (
    "Exit codes: 0 done, 1 failed or no, 2 usage, 3 partly done, 10 no vault, 11 locked, 13 unknown revision, "
    "14 corrupt, 15 no space, 16 would lose data, 130 interrupted."
)


def run(arguments: list[str]) -> int:
    """Run one command line and return the exit code.

    Raises:
        UsageError: Typer does not understand the line.
        ModelVaultError: whatever the command raises.
        KeyboardInterrupt: the user had enough.
    """
    command = typer.main.get_command(build(_verb(arguments)))
    try:
        # Not the application itself: it would turn an interruption and a closed pipe into exit codes of its own.
        with command.make_context("modelvault", arguments or ["--help"]) as context:
            command.invoke(context)
    except typer.Exit as stop:
        return stop.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.TyperException as error:
        raise _usage_error(error, arguments) from None
    return 0


def help_text(verb: str | None) -> str:
    """Return what `modelvault VERB --help` prints, or of the whole program."""
    command = typer.main.get_command(build(verb))
    with command.make_context("modelvault", [verb] if verb else [], resilient_parsing=True) as context:
        if verb is None:
            return str(command.get_help(context))
        found = command.get_command(context, verb)  # type: ignore[attr-defined]  # a group's
        with found.make_context(verb, [], parent=context, resilient_parsing=True) as inner:
            return str(found.get_help(inner))


def build(verb: str | None = None) -> typer.Typer:
    """Return the application with one verb, or with all."""
    app = typer.Typer(
        name="modelvault",
        help="Git for model weights: keep every checkpoint, pay for the difference.",
        epilog=_EPILOG,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_globals)
    for name, info in COMMANDS.items():
        if verb in (None, name):
            module = import_module(f"modelvault.cli.{info.module}")
            app.command(name)(getattr(module, info.function))
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from modelvault.version import __version__

        render.data(f"modelvault {__version__}")
        raise typer.Exit


def _globals(
    directory: Annotated[
        Path | None, typer.Option("-C", metavar="DIR", help="Run as if started in DIR.", show_default=False)
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    del version
    if directory is not None:
        try:
            os.chdir(directory)
        except OSError as error:
            raise UsageError(f"cannot change to {str(directory)!a}: {error.strerror}") from None


def _verb(arguments: list[str]) -> str | None:
    """Return the verb of a command line if it is one we know, without parsing the rest."""
    place = 0
    while place < len(arguments) and arguments[place] == "-C":
        place += 2
    verb = arguments[place] if place < len(arguments) else None
    return verb if verb in COMMANDS else None


def _usage_error(error: typer.TyperException, arguments: list[str]) -> UsageError:
    message = str(getattr(error, "format_message", lambda: error)())
    verb = _verb(arguments)
    return UsageError(
        " ".join(message.split()).rstrip(".") or "a verb is missing",
        hint=f"modelvault {verb + ' ' if verb else ''}--help",
    )
