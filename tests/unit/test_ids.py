"""Do ids name content, and never one role's content with another's name?"""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from modelvault import ids

EXPECTED = {
    b"": (
        "877f8dd13c459d64252f7ef09c2da8aa5352b87c1812799c23df672c7c1ce882",
        "35bd2b497fe98d9c44ea283a625aa0ac979f83589d32dc1d46187218eea26939",
    ),
    b"abc": (
        "465a523210ba77f752672c974aa9debd3691f1b1f5030e00d635eac8dcd315a2",
        "518b05d83140d50534c79f2762d9cf35499a756adef0935f1dd50f4d3c9dc7db",
    ),
}
"""Pinned: a changed context or digest would orphan every vault there is."""


def test_ids_are_what_they_were() -> None:
    found = {data: (ids.commit_id(data).hex(), ids.tensor_id(data).hex()) for data in EXPECTED}
    assert found == EXPECTED


def test_a_file_id_is_what_sha256sum_prints() -> None:
    hasher = ids.file_hasher()
    hasher.update(b"abc")
    assert hasher.digest().hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_pieces_hash_as_the_whole(pieces: list[bytes]) -> None:
    tensor, file = ids.tensor_hasher(), ids.file_hasher()
    for piece in pieces:
        tensor.update(piece)
        file.update(memoryview(piece))
    whole = b"".join(pieces)
    assert tensor.digest() == ids.tensor_id(whole)
    assert file.digest() == hashlib.sha256(whole).digest()


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_equal_names_mean_equal_content_in_one_role(left: bytes, right: bytes) -> None:
    assert (ids.tensor_id(left) == ids.tensor_id(right)) == (left == right)
    assert (ids.commit_id(left) == ids.commit_id(right)) == (left == right)
    assert bytes(ids.tensor_id(left)) != bytes(ids.commit_id(left))
    assert len(ids.tensor_id(left)) == len(ids.commit_id(left)) == ids.ID_BYTES
