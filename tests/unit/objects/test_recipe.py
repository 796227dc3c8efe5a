"""Does a recipe cost what little it says, and can none of them name a billion tensors?"""

from __future__ import annotations


import pytest

from modelvault import wire
from modelvault.objects.recipe import KIND, VERSION, Recipe


def test_tensors_numbered_one_after_the_other_are_one_run() -> None:
    short = Recipe(1_000_000, 1, b"", b"", tuple(range(1000, 1023)))
    assert len(short.to_bytes()) < 20


def test_a_run_longer_than_its_file_is_refused_at_once() -> None:
    out = wire.Writer()
    for number in (100, 1):
        out.uint(number)
    out.blob(b"")
    out.blob(b"")
    for number in (1, 1, 2**40):
        out.uint(number)
    with pytest.raises(wire.WireError, match="more tensors than a file"):
        Recipe.from_bytes(wire.seal(KIND, VERSION, out.getvalue()))
