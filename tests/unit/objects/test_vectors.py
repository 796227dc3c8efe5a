"""Are the bytes of records what they were when format 1 was fixed?

tests/vectors/v1/records.json is written by scripts/make-vectors-records only. If this fails, a vault written yesterday
cannot be read today: a change of the format needs a new version, not a new golden file.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from .samples import KINDS, pinned

RECORDS = Path(__file__).parents[2] / "vectors" / "v1" / "records.json"
DIGEST = "8e1818b8c11f307ba2784d863197757f52548e85967bd882b20e69e040b09d72"


def test_the_golden_file_is_the_one_that_was_checked_in() -> None:
    assert hashlib.sha256(RECORDS.read_bytes()).hexdigest() == DIGEST


def test_records_are_written_as_they_were() -> None:
    assert pinned() == json.loads(RECORDS.read_text())


@pytest.mark.parametrize("name", KINDS)
def test_records_are_read_as_they_were(name: str) -> None:
    kind = KINDS[name]
    assert kind.from_bytes(bytes.fromhex(json.loads(RECORDS.read_text())[name]["bytes"])) == kind.sample
