"""Do commits keep to what the vault's configuration says restoring may take?"""

from __future__ import annotations

from functools import cached_property

import pytest

from modelvault.repository.config import FILE_NAME
from modelvault.repository.cost import seconds
from modelvault.repository.repository import Repository

from .networks import Run
from .vaults import commit, files_of, fsck, tensor_records

SIZES = {"a": 60_000, "b": 20_000, "norm": 64}


def configure(vault: Repository, text: str) -> None:
    (vault.directory / FILE_NAME).write_text(text)
    assert isinstance(Repository.__dict__["config"], cached_property)
    vault.__dict__.pop("config", None)


def restore_seconds(vault: Repository) -> list[float]:
    """Return what decoding each commit's tensors takes, worked out from the records alone."""
    records = tensor_records(vault)
    work: dict[int, int] = {}
    for number, record in records.items():  # a base has a lower number
        work[number] = record.nbytes + record.stored_bytes + (work[record.base] if record.base else 0)
    per_commit = len(SIZES)
    numbers = sorted(work)
    return [
        seconds(sum(work[number] for number in numbers[first : first + per_commit]))
        for first in range(0, len(numbers), per_commit)
    ]


@pytest.mark.parametrize("depth", [0, 1, 3, 16])
def test_no_chain_is_longer_than_allowed(vault: Repository, depth: int) -> None:
    configure(vault, f"max_depth: {depth}\n")
    files = list(Run(SIZES).epochs(3 * depth + 4 if depth < 16 else 20))
    made = [commit(vault, data).commit_id for data in files]
    depths = [record.depth for record in tensor_records(vault).values()]
    assert max(depths) == depth
    assert [files_of(vault, one)["model.pt"] for one in made] == files
    fsck(vault)


def test_a_lower_bound_counts_from_the_next_commit(vault: Repository) -> None:
    run = Run(SIZES)
    for data in run.epochs(8):
        commit(vault, data)
    before = tensor_records(vault)
    configure(vault, "max_depth: 2\n")
    for data in run.epochs(6):
        commit(vault, data)
    after = tensor_records(vault)
    assert all(after[number] == record for number, record in before.items())
    new = {number: record for number, record in after.items() if number not in before}
    assert max(record.depth for record in new.values()) == 2
    assert all(record.base for record in new.values()), "there were shallow references enough"
    fsck(vault)


@pytest.mark.parametrize("links", [1, 4])
def test_restoring_takes_no_longer_than_allowed(vault: Repository, links: int) -> None:
    run = Run({"a": 60_000, "b": 20_000, "norm": 5_000})
    first = run.file()
    bound = seconds(round(len(first) * (1.95 + 1.8 * links)))
    configure(vault, f"max_restore_seconds: {bound}\n")
    for data in run.epochs(12):
        commit(vault, data)
    taken = restore_seconds(vault)
    assert len(taken) == 12
    assert max(taken) <= bound * 1.02  # small frames are read for their name, beside tensors
    assert max(record.depth for record in tensor_records(vault).values()) >= links
    fsck(vault)


def test_what_not_even_a_keyframe_keeps_is_a_keyframe(vault: Repository) -> None:
    configure(vault, "max_restore_seconds: 1.0e-9\n")
    for data in Run(SIZES).epochs(3):
        commit(vault, data)
    assert {record.depth for record in tensor_records(vault).values()} == {0}
    fsck(vault)
