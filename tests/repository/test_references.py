"""Tensors that lean on several others: does everything that follows chains follow all of them?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelvault import codec, wire
from modelvault.ids import CommitId
from modelvault.objects.tensor import TensorRecord
from modelvault.repository.census import take_census
from modelvault.repository.chains import Chains, StaleError, TooDeepError
from modelvault.repository.charges import split
from modelvault.repository.chunks import ChunkReader, TensorDamagedError
from modelvault.repository.fsck import check
from modelvault.repository.gc import collect_garbage
from modelvault.repository.liveness import DEAD, REFERENCE, WANTED, Cutoff, mark
from modelvault.repository.recode import Recoder
from modelvault.repository.repository import Repository
from modelvault.tensors import DType

from .garbage import assert_restores, assert_tidy, forget
from .networks import torch_file
from .vaults import commit, files_of, fsck, tensor_records

SIZE = 40_000
ALONG_THE_LINE = codec.Parameters(
    DType.F32, (codec.Previous(), codec.Combined(2.0, (codec.Term(codec.TermKind.WORD, 1, -1.0),)))
)
Expected = dict[CommitId, dict[str, bytes]]


def history_of(repository: Repository, epochs: int = 5, size: int = SIZE) -> Expected:
    """Commit weights that move on along a line: each is foretold by the two before it."""
    chance = np.random.default_rng(0)
    start, step = chance.normal(0, 1, size), chance.normal(0, 0.01, size)
    expected: Expected = {}
    for epoch in range(epochs):
        values = start + epoch * step + chance.normal(0, 1e-5, size)
        data = torch_file({"w": values.astype("<f4")})
        expected[commit(repository, data).commit_id] = {"model.pt": data}
    return expected


def lean(repository: Repository, number: int, base: int, other: int) -> int:
    """Code a tensor by the line through two others; return by how many bytes it has grown."""
    return Recoder(repository).recode(number, base, ALONG_THE_LINE, (other,))


def leaning(repository: Repository, epochs: int = 5) -> Expected:
    """Return a history whose tensors lean on the two before them, from the third on."""
    expected = history_of(repository, epochs)
    for number in range(3, epochs + 1):
        assert lean(repository, number, number - 1, number - 2) < 0
    return expected


def test_what_is_not_wanted_again_is_not_kept(vault: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit reads each chunk of a reference once, and a large one has more of them than there is room for."""
    history_of(vault, 3)
    reader, decoded, decode = ChunkReader(vault.store), 0, codec.decode_chunk

    def counted(*arguments: Any) -> bytes:
        nonlocal decoded
        decoded += 1
        return decode(*arguments)

    monkeypatch.setattr(codec, "decode_chunk", counted)
    newest = max(tensor_records(vault))
    for again, links in ((True, 3), (False, 0), (False, 1), (False, 1), (True, 1), (True, 0)):
        reader.chunk(newest, 0, again=again)
        assert decoded == links
        decoded = 0
    fresh = ChunkReader(vault.store)
    for _ in range(2):
        fresh.chunk(newest, 0, again=False)
        assert decoded == 3  # nor is what it leans on
        decoded = 0


def test_weights_along_a_line_take_less_and_come_back(vault: Repository) -> None:
    expected = leaning(vault)
    records = tensor_records(vault)
    assert {number: record.references for number, record in records.items()} == {
        1: (), 2: (1,), 3: (2, 1), 4: (3, 2), 5: (4, 3),
    }  # fmt: skip
    assert [records[number].depth for number in range(1, 6)] == [0, 1, 2, 3, 4]
    assert records[5].stored_bytes < 0.7 * records[2].stored_bytes
    assert fsck(vault).bytes_decoded == 5 * 4 * SIZE
    assert_restores(vault, expected)
    assert_tidy(vault, swept=False)


def test_several_chunks_each_find_their_own(vault: Repository) -> None:
    expected = history_of(vault, 3, 600_000)
    lean(vault, 3, 2, 1)
    assert tensor_records(vault)[3].chunks == 3
    assert_restores(vault, expected)


def test_a_chain_of_many_is_decoded_once_each(vault: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    leaning(vault, 14)
    decoded: list[bytes] = []
    decode = codec.decode_chunk

    def counting(frame: bytes, size: int, parameters: codec.Parameters, references: list[bytes]) -> bytes:
        decoded.append(frame)
        return decode(frame, size, parameters, references)

    monkeypatch.setattr(codec, "decode_chunk", counting)
    ChunkReader(vault.store, cache_bytes=0).chunk(14, 0)
    assert len(decoded) == 14


def test_what_was_fetched_is_decoded_without_the_store(vault: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    history_of(vault, 3, 600_000)
    lean(vault, 3, 2, 1)
    wanted = [(number, place) for number in (3, 2) for place in range(3)]
    expected = [ChunkReader(vault.store).chunk(*one) for one in wanted]
    reader = ChunkReader(vault.store, cache_bytes=0)
    reader.fetch([*wanted, (99, 0), (1, 7)])  # what is not there, `chunk` says
    with pytest.raises(TensorDamagedError, match="record is missing"):
        reader.chunk(99, 0)
    monkeypatch.setattr(type(vault.store), "read", None)
    reader.fetch(wanted)  # which are here
    assert [reader.chunk(*one) for one in wanted] == expected


def test_a_reference_behind_the_first_is_live(vault: Repository) -> None:
    expected = history_of(vault)
    Recoder(vault).recode(3, 1)
    lean(vault, 5, 1, 3)
    forget(vault, list(expected)[1:4])
    with vault.store.read() as txn:
        live = mark(txn, Cutoff(2**62, 2**62))
    assert live.references(5) == (1, 3)
    assert live.tensors[1] == live.tensors[5] == WANTED
    assert live.tensors[3] == REFERENCE
    assert live.tensors[2] == live.tensors[4] == DEAD


def test_gc_keeps_a_second_reference_where_that_is_smaller(vault: Repository) -> None:
    expected = leaning(vault)
    kept = {commit_id: expected[commit_id] for commit_id in list(expected)[2:]}
    forget(vault, list(expected)[:2])
    collect_garbage(vault, grace=0)
    assert_restores(vault, kept)
    assert_tidy(vault)


@pytest.mark.parametrize("kept", [(0, 4), (4,), (0, 1, 4), (1, 3), (0, 2, 3)])
def test_gc_leaves_nothing_dangling(vault: Repository, kept: tuple[int, ...]) -> None:
    expected = leaning(vault)
    commits = list(expected)
    forget(vault, [commit_id for place, commit_id in enumerate(commits) if place not in kept])
    collect_garbage(vault, grace=0)
    assert_restores(vault, {commits[place]: expected[commits[place]] for place in kept})
    assert_tidy(vault)
    assert collect_garbage(vault, grace=0).freed_bytes == 0


def test_depths_follow_the_deepest_reference(vault: Repository) -> None:
    expected = history_of(vault, 4)
    for number in (1, 2, 3, 4):
        Recoder(vault).recode(number, 0)
    Recoder(vault).recode(2, 1)
    lean(vault, 4, 1, 3)
    assert tensor_records(vault)[4].depth == 1
    Recoder(vault).recode(3, 2)  # the second reference becomes deeper, and so does what leans on it
    assert tensor_records(vault)[4].depth == 3
    assert_tidy(vault, swept=False)
    Recoder(vault).recode(2, 0)
    assert tensor_records(vault)[4].depth == 2
    with pytest.raises(TooDeepError):
        Recoder(vault, 2).recode(2, 1)
    assert_restores(vault, expected)


def test_a_circle_through_a_second_reference_is_refused(vault: Repository) -> None:
    expected = history_of(vault, 4)
    for number in (1, 2, 3, 4):
        Recoder(vault).recode(number, 0)
    lean(vault, 4, 1, 3)
    with pytest.raises(StaleError):
        Recoder(vault).recode(3, 4)
    with pytest.raises(StaleError):
        lean(vault, 3, 1, 4)
    assert_restores(vault, expected)


def test_what_leans_on_a_tensor_is_known_in_order(vault: Repository) -> None:
    leaning(vault)
    chains = Chains()
    with vault.store.read() as txn:
        chains.refresh(txn)
    assert chains.below(1) == [2, 3, 4, 5]
    assert chains.children(2) == [3, 4]


def test_everybody_who_needs_a_tensor_is_charged_once(vault: Repository) -> None:
    expected = history_of(vault)
    lean(vault, 5, 1, 3)
    forget(vault, list(expected)[1:4])
    with vault.store.read() as txn:
        census = take_census(txn)
        lines = split(txn, "part", census)
    assert sum(line.stored_bytes for line in lines) == census.stored_bytes
    (references,) = [line for line in lines if line.name == "(references)"]
    assert references.stored_bytes > tensor_records(vault)[3].stored_bytes


def test_damage_to_a_second_reference_hurts_what_leans_on_it(vault: Repository) -> None:
    expected = history_of(vault)
    Recoder(vault).recode(3, 0)
    lean(vault, 5, 4, 3)
    Recoder(vault).recode(4, 1)
    commits = list(expected)
    ((pack, offset, length),) = tensor_records(vault)[3].frames()
    with vault.store.write() as txn:
        value = bytearray(txn.get("packs", wire.sortable(pack)) or b"")
        value[offset + length // 2] ^= 1
        txn.put("packs", wire.sortable(pack), bytes(value))
    (problem,) = check(vault).problems
    assert problem.what == "tensor 3"
    assert set(problem.commits) == {commits[2], commits[4]}
    for place in (0, 1, 3):
        assert files_of(vault, commits[place]) == expected[commits[place]]
    with pytest.raises(TensorDamagedError, match="tensor 3"):
        ChunkReader(vault.store).chunk(5, 0)


def change(repository: Repository, number: int, **fields: object) -> None:
    record = tensor_records(repository)[number]
    with repository.store.write() as txn:
        txn.put("tensors", wire.sortable(number), record._replace(**fields).to_bytes())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"others": (99,)}, "tensor 99, is missing"),
        ({"others": (5,)}, "does not fit"),
        ({"others": ()}, "need 2 references, its record names 1"),
        ({"depth": 1}, "does not fit"),
    ],
)
def test_records_that_cannot_be_right_are_found(vault: Repository, fields: dict[str, object], why: str) -> None:
    leaning(vault)
    change(vault, 4, **fields)
    assert any(problem.what == "tensor 4" and why in problem.why for problem in check(vault).problems)
    with pytest.raises(TensorDamagedError):
        if "depth" in fields:
            raise TensorDamagedError(4, "depths do not matter to a reader")
        ChunkReader(vault.store).chunk(5, 0)


def test_a_circle_in_damaged_records_ends(vault: Repository) -> None:
    leaning(vault)
    change(vault, 3, base=2, others=(5,))
    with pytest.raises(TensorDamagedError, match="longer than"):
        ChunkReader(vault.store).chunk(5, 0)
    assert any("does not fit" in problem.why for problem in check(vault).problems)


def test_old_records_say_what_they_said(vault: Repository) -> None:
    history_of(vault, 3)
    with vault.store.read() as txn:
        versions = {value[1] for _, value in txn.scan("tensors")}
    assert versions == {1}
    lean(vault, 3, 2, 1)
    with vault.store.read() as txn:
        assert [value[1] for _, value in txn.scan("tensors")] == [1, 1, 2]
        assert TensorRecord.from_bytes(txn.get("tensors", wire.sortable(3)) or b"").others == (1,)
