"""Where are a tensor's frames, and does the index find it again?"""

from __future__ import annotations

from hypothesis import given

from modelvault.ids import TensorId
from modelvault.objects.tensor import index_key, index_number

from .samples import DIGESTS, TENSOR, UINTS


def test_frames_stand_one_after_the_other_in_their_extents() -> None:
    assert TENSOR.frames() == [(11, 0, 70_000), (11, 70_000, 80_000), (12, 100, 90_000)]
    assert TENSOR.stored_bytes == 240_000
    assert TENSOR.chunks == 3


@given(DIGESTS, UINTS)
def test_an_index_key_leads_to_its_number(digest: bytes, number: int) -> None:
    key = index_key(TensorId(digest), number)
    assert index_number(key) == number
    assert digest.startswith(key[:6])
