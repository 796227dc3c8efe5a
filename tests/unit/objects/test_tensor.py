"""Where are a tensor's frames, and does the index find it again?"""

from __future__ import annotations

import pytest
from hypothesis import given

from modelvault import wire
from modelvault.ids import TensorId
from modelvault.objects.tensor import TensorRecord, index_key, index_number

from .samples import DIGESTS, LEANING, TENSOR, UINTS


def test_frames_stand_one_after_the_other_in_their_extents() -> None:
    assert TENSOR.frames() == [(11, 0, 70_000), (11, 70_000, 80_000), (12, 100, 90_000)]
    assert TENSOR.stored_bytes == 240_000
    assert TENSOR.chunks == 3


def test_only_records_of_several_references_are_of_version_2() -> None:
    assert TENSOR.references == (5,)
    assert TENSOR.to_bytes()[1] == 1
    assert TENSOR._replace(base=0).references == ()
    assert LEANING.references == (5, 6, 300)
    assert LEANING.to_bytes()[1] == 2


@pytest.mark.parametrize("others", [(0,), (7, 0), tuple(range(1, 9))])
def test_references_that_cannot_be_are_refused(others: tuple[int, ...]) -> None:
    with pytest.raises(wire.WireError):
        TensorRecord.from_bytes(TENSOR._replace(others=others).to_bytes())


def test_a_record_of_version_2_has_several_references() -> None:
    """One spelling a record: with one reference or none it is of version 1."""
    encoded = TENSOR.to_bytes()
    place = encoded.index(bytes((5, 3, 2))) + 3
    with_none = encoded[2:place] + b"\0" + encoded[place:-4]
    with pytest.raises(wire.WireError, match="fewer than two"):
        TensorRecord.from_bytes(wire.seal(2, 2, with_none))


@given(DIGESTS, UINTS)
def test_an_index_key_leads_to_its_number(digest: bytes, number: int) -> None:
    key = index_key(TensorId(digest), number)
    assert index_number(key) == number
    assert digest.startswith(key[:6])
