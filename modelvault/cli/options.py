"""Options that several verbs share, and how their texts become values."""

from __future__ import annotations

from typing import Annotated

import typer

from modelvault.errors import UsageError
from modelvault.repository.config import BoundName

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object; sizes are in bytes.")]
LockTimeout = Annotated[
    float,
    typer.Option("--lock-timeout", metavar="SECONDS", help="How long to wait for another writer.", min=0),
]
Eps = Annotated[
    float | None,
    typer.Option("--lossy", metavar="EPS", help="Round weights within this bound.", show_default=False),
]
BoundKind = Annotated[
    BoundName | None,
    typer.Option(
        "--bound",
        help="abs: differ by at most log(1 + EPS); rel: by EPS of the magnitude; paper: the paper's formula.",
        show_default="abs",
    ),
]
Vectors = Annotated[
    float | None,
    typer.Option("--vectors", metavar="REL", help="Round one-dimensional tensors too, within REL of their magnitude."),
]
OptimizerShare = Annotated[
    float | None,
    typer.Option(
        "--optimizer",
        metavar="SHARE",
        help="Round optimizer state too, within SHARE of each number's own unit, such as 0.125.",
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite what no commit holds.")]


def pairs(texts: list[str], option: str) -> dict[str, str]:
    """Return {NAME: VALUE} of NAME=VALUE texts.

    Raises:
        UsageError: a text has no name or no `=`, or a name stands twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{option} {text!a}: NAME=VALUE is wanted", hint=f"for example {option} val_acc=0.93")
        if name in found:
            raise UsageError(f"{option} {name!a} is given twice")
        found[name.strip()] = value
    return found


def metrics(texts: list[str]) -> dict[str, float]:
    """Return the metrics that `--metric NAME=VALUE` texts give; nan and inf are numbers."""
    found = {}
    for name, text in pairs(texts, "--metric").items():
        try:
            found[name] = float(text)
        except ValueError:
            raise UsageError(f"--metric {name}={text!a}: not a number", hint="text goes into --meta") from None
    return found
