"""Is each format read as its own library reads it?"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from modelvault.checkpoint import PARSER_FAILED, BytesSource, read_layout, understood_share

from .archives import FORMAT_FILES, FORMAT_FIXTURES, Stored, assert_promises, format_expectations, rebuild

EXPECTED = format_expectations()


def test_every_fixture_is_expected_and_small() -> None:
    found = {path.name for path in FORMAT_FIXTURES.iterdir()} - {"expectations.json"}
    assert set(EXPECTED) == found
    assert all(path.stat().st_size < 100_000 for path in FORMAT_FIXTURES.iterdir())


@pytest.mark.parametrize("path", FORMAT_FILES, ids=lambda path: path.name)
def test_fixtures_hold_what_their_library_says(path: Path) -> None:
    data = path.read_bytes()
    layout = read_layout(BytesSource(data))
    assert_promises(layout)
    assert not any(note.startswith(PARSER_FAILED) for note in layout.notes), layout.notes
    assert rebuild(data, layout)[0] == data
    found = [
        Stored(
            s.name, s.dtype.name, s.shape, s.length, hashlib.sha256(data[s.offset : s.offset + s.length]).hexdigest()
        )
        for s in layout.segments
    ]
    form, expected = EXPECTED[path.name]
    assert layout.format == form
    assert sorted(found, key=repr) == sorted(expected, key=repr)
    assert understood_share(layout) == sum(s.length for s in expected) / len(data)
