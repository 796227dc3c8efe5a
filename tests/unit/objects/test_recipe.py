"""Does a recipe cost what little it says, and can none of them name a billion tensors?"""

from __future__ import annotations

import pytest

from modelvault import wire
from modelvault.ids import FileId
from modelvault.objects.recipe import KIND, VERSION, Recipe

_FILE = FileId(bytes(range(32)))


def test_tensors_numbered_one_after_the_other_are_one_run() -> None:
    short = Recipe(1_000_000, 1, b"", b"", tuple(range(1000, 1023)), bytes(23))
    assert len(short.to_bytes(_FILE)) < 20


def test_a_run_longer_than_its_file_is_refused_at_once() -> None:
    out = wire.Writer()
    for number in (100, 1):
        out.uint(number)
    out.blob(b"")
    out.blob(b"")
    for number in (1, 1, 2**40, 0):
        out.uint(number)
    with pytest.raises(wire.WireError, match="more tensors than a file"):
        Recipe.from_bytes(wire.seal(KIND, VERSION, out.getvalue(), _FILE), _FILE)


def test_a_recipe_cannot_pass_for_another_files() -> None:
    data = Recipe(100, 1, b"", b"", (1,), bytes(1)).to_bytes(_FILE)
    with pytest.raises(wire.WireError, match="checksum"):
        Recipe.from_bytes(data, FileId(bytes(32)))
