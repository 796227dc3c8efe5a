"""Is content of unknown files found again when it moves, and compared in its place when it does not?"""

from __future__ import annotations

import itertools

import pytest

from modelvault.checkpoint import BytesSource
from modelvault.errors import FileChangedError
from modelvault.repository import cuts
from modelvault.repository.cuts import MAX_PIECE, MIN_PIECE, SHORTEST_PIECE, cut_stretch, opaque_pieces
from modelvault.repository.dissect import dissect
from modelvault.repository.repository import Repository

from .networks import noise
from .vaults import commit, files_of, fsck

MIB = 1 << 20
DATA = noise(20 * MIB)


def pieces_of(data: bytes, offset: int = 0, length: int | None = None) -> list[tuple[int, int]]:
    return list(cut_stretch(BytesSource(data), offset, len(data) - offset if length is None else length))


def test_pieces_make_up_the_stretch_and_keep_their_bounds() -> None:
    pieces = pieces_of(DATA, 1000, 5 * MIB)
    assert pieces[0][0] == 1000
    assert all(start + length == following for (start, length), (following, _) in itertools.pairwise(pieces))
    assert 5 * MIB + 1000 - sum(pieces[-1]) < SHORTEST_PIECE
    assert all(MIN_PIECE <= length <= MAX_PIECE for _, length in pieces[:-1])
    assert all(length == MAX_PIECE for _, length in pieces_of(bytes(4 * MIB)))


def test_cuts_move_with_the_content() -> None:
    before = {DATA[at : at + length] for at, length in pieces_of(DATA)}
    moved = b"x" * 100 + DATA
    new = sum(length for at, length in pieces_of(moved) if moved[at : at + length] not in before)
    assert new < 0.1 * len(moved)


def test_earlier_pieces_are_kept_where_they_fit() -> None:
    source = BytesSource(bytes(MIB))
    earlier = [(0, 100_000), (100_000, 900_000), (1 << 30, 5)]
    assert list(cut_stretch(source, 0, MIB, earlier)) == earlier[:2]
    assert list(cut_stretch(source, 0, MIB, [(0, 100_000)])) == [(0, MIB)]  # too much is left over
    assert list(cut_stretch(source, 0, MIB, [(0, 10), (20, MIB - 20)])) == [(0, MIB)]  # a hole
    assert list(cut_stretch(source, 0, MIB, [(0, 2 * MIB)])) == [(0, MIB)]  # beyond the end


def test_a_template_tells_where_its_pieces_are() -> None:
    found = dissect(BytesSource(DATA))
    earlier = opaque_pieces(found.template, found.stem)
    assert earlier == pieces_of(DATA)
    other = noise(len(DATA), seed=5)
    assert [slot.ranges for slot in dissect(BytesSource(other), earlier=earlier).slots] == [(p,) for p in earlier]


def test_a_file_that_shrinks_while_it_is_cut_is_an_error() -> None:
    class Shrinking(BytesSource):
        def read(self, offset: int, length: int) -> bytes:
            if offset > 2 * MIB:
                raise FileChangedError("became shorter")
            return super().read(offset, length)

    with pytest.raises(FileChangedError):
        list(cut_stretch(Shrinking(DATA), 0, len(DATA)))


def test_what_moved_is_stored_once(disk_vault: Repository) -> None:
    first = commit(disk_vault, {"data.bin": DATA})
    moved = noise(100, seed=9) + DATA
    second = commit(disk_vault, {"data.bin": moved})
    assert first.payload.added_bytes > 0.99 * len(DATA)
    assert second.payload.added_bytes < 0.1 * len(DATA)
    assert files_of(disk_vault, second.commit_id) == {"data.bin": moved}
    fsck(disk_vault)


def test_what_changed_in_its_place_is_stored_as_a_difference(disk_vault: Repository) -> None:
    commit(disk_vault, {"data.bin": DATA})
    step = bytearray(DATA)
    step[::5000] = bytes(byte ^ 1 for byte in step[::5000])  # in every piece, and near every cut
    second = commit(disk_vault, {"data.bin": bytes(step)})
    assert second.payload.added_bytes < 0.01 * len(DATA)
    assert files_of(disk_vault, second.commit_id) == {"data.bin": bytes(step)}


def test_a_parser_s_tensors_are_not_taken_for_pieces() -> None:
    assert cuts.OPAQUE == "@"
    found = dissect(BytesSource(b"short"))
    assert opaque_pieces(found.template, found.stem) == []
