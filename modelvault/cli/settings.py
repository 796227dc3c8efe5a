"""`config`: settings shown, set and taken out. Light: neither numpy nor torch is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelvault.cli import render
from modelvault.cli.options import Json
from modelvault.errors import InputError, UsageError
from modelvault.repository import config as settings
from modelvault.repository.config import Setting
from modelvault.repository.repository import find_directory


def config(
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY",
            help="author, max_depth, max_restore_seconds or metrics.NAME; all are listed without.",
            show_default=False,
        ),
    ] = None,
    value: Annotated[
        str | None,
        typer.Argument(metavar="VALUE", help="What to set it to; a metric is min or max.", show_default=False),
    ] = None,
    unset: Annotated[bool, typer.Option("--unset", help="Take KEY out of the file.")] = False,
    user: Annotated[
        bool, typer.Option("--user", help="The user's own file, for all vaults, and nothing else.")
    ] = False,
    show_origin: Annotated[bool, typer.Option("--show-origin", help="Say where each value comes from.")] = False,
    json: Json = False,
) -> None:
    """Show settings as they are in force, or set one in the vault's or the user's config.yaml.

    Setting rewrites the file: comments in it are lost. --user also works where there is no vault.
    """
    if unset and (key is None or value is not None):
        raise UsageError("--unset takes a key and no value", hint="modelvault config --unset author")
    vault = None if user else find_directory(Path())
    changes = key is not None and (unset or value is not None)
    if key is not None and changes:
        settings.change(settings.user_directory() if vault is None else vault, key, value)
    found = _of_user(key) if vault is None else _in_force(vault, key)
    if not found and key is not None and not changes:
        raise InputError(
            f"{key} is not set in {settings.user_directory() / settings.FILE_NAME}", hint="leave out --user"
        )
    if json:
        listed = [setting._asdict() for setting in found]
        render.json_object({"schema": "modelvault.config/1", "settings": listed})
    elif not changes:
        _print(found, vault, with_key=key is None, show_origin=show_origin)
    elif value is not None and vault is not None and found[0].origin != "vault":
        shown = render.one_line(found[0].value)
        render.note(f"{found[0].key} stays {shown}: {found[0].origin} goes before the vault's file")


def _of_user(key: str | None) -> list[Setting]:
    everything = settings.settings_of_file(settings.user_directory(), "user")
    return [setting for setting in everything if key in (None, setting.key)]


def _in_force(vault: Path, key: str | None) -> list[Setting]:
    if key is None:
        return settings.settings_in_force(vault, vault.parent)
    return [settings.setting_in_force(vault, vault.parent, key)]


def _print(found: list[Setting], vault: Path | None, *, with_key: bool, show_origin: bool) -> None:
    places = {
        "environment": settings.AUTHOR_VARIABLE,
        "vault": str(vault / settings.FILE_NAME) if vault is not None else "",
        "user": str(settings.user_directory() / settings.FILE_NAME),
    }
    rows = []
    for setting in found:
        row = [setting.key] if with_key else []
        row.append(render.one_line(setting.value))
        if show_origin:
            place = places.get(setting.origin)
            row.append(f"{setting.origin} {place}" if place else setting.origin)
        rows.append(row)
    render.table(rows)
