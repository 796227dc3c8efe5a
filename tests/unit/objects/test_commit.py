"""Does a commit have one spelling, so that its id names what it says and nothing else?"""

from __future__ import annotations

import math
import struct

import pytest

from modelvault.errors import NewerFormatError
from modelvault.ids import FileId, commit_id
from modelvault.objects.commit import Commit, FileEntry
from modelvault.wire import WireError

from .samples import COMMIT


def test_order_of_what_has_none_does_not_matter() -> None:
    other = COMMIT._replace(
        files=tuple(reversed(COMMIT.files)),
        metrics=dict(reversed(list(COMMIT.metrics.items()))),
    )
    assert other.to_bytes() == COMMIT.to_bytes()


def test_files_are_sorted_by_the_bytes_of_their_paths() -> None:
    digest = FileId(bytes(32))
    names = ["\uff5e", "\U0001f600", "a", "Z"]  # UTF-16 would put the first two the other way round
    commit = COMMIT._replace(files=tuple(FileEntry(name, 1, False, digest) for name in names))
    assert [entry.path for entry in Commit.from_bytes(commit.to_bytes()).files] == ["Z", "a", "\uff5e", "\U0001f600"]


def test_nan_has_one_spelling() -> None:
    odd = struct.unpack("<d", bytes.fromhex("010000000000f8ff"))[0]
    assert math.isnan(odd)
    spelled = {COMMIT._replace(metrics={"loss": value}).to_bytes() for value in (odd, math.nan, -math.nan)}
    assert len(spelled) == 1


def test_zero_and_minus_zero_are_two_values() -> None:
    spelled = {COMMIT._replace(metrics={"loss": value}).to_bytes() for value in (0.0, -0.0)}
    assert len(spelled) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"parents": ()},
        {"time_ms": COMMIT.time_ms + 1},
        {"offset_min": 0},
        {"author": "ada"},
        {"message": "epoch 41"},
        {"files": COMMIT.files[:1]},
        {"step": None},
        {"step": 0},
        {"metrics": {}},
        {"meta": {}},
    ],
    ids=str,
)
def test_the_id_covers_every_field(changed: dict[str, object]) -> None:
    other = COMMIT._replace(**changed)  # type: ignore[arg-type]
    assert commit_id(other.to_bytes()) != commit_id(COMMIT.to_bytes())


def test_step_nought_is_not_no_step() -> None:
    for step in (None, 0):
        assert Commit.from_bytes(COMMIT._replace(step=step).to_bytes()).step == step


def test_a_later_version_is_named() -> None:
    with pytest.raises(NewerFormatError, match="version 2"):
        Commit.from_bytes(b"\x02" + COMMIT.to_bytes()[1:])
    with pytest.raises(WireError):
        Commit.from_bytes(b"")


def test_what_is_derived() -> None:
    assert COMMIT.subject == "epoch 40"
    assert COMMIT.raw_bytes == 5_300_017
