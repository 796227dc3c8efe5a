"""Numbers that somebody proposes for a file's tensors: they are taken where the bounds hold for them, and only there.

Who proposes knows more than a file tells, such as what a network makes of some inputs. What is proposed is for tensors
of these very bytes; all others stay exact, since nobody knows what they can bear.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from modelvault.repository import history, refs
from modelvault.repository.inventory import TensorReader, read_inventory
from modelvault.repository.repository import Repository
from modelvault.tensors import DType


class Proposed(NamedTuple):
    """A tensor's bytes, and those that are proposed in their place."""

    original: bytes
    new: bytes


class Proposal(NamedTuple):
    """What is proposed for a file.

    Attributes:
        tensors: by name. A tensor of a file has that name, or one that ends in a dot and that name.
        measure: what says how good it is.
        metric: what that gave for it; 1 is as good as the original.
        max_drop: how far below 1 that may be.
    """

    tensors: Mapping[str, Proposed]
    measure: str
    metric: float
    max_drop: float

    def find(self, name: str) -> Proposed | None:
        """Return what is proposed for a tensor of a file.

        >>> proposal = Proposal({"head.weight": Proposed(b"1234", b"1235")}, "", 1.0, 0.0)
        >>> proposal.find("model.head.weight").new, proposal.find("ahead.weight")
        (b'1235', None)
        """
        return next((self.tensors[short] for short in _endings(name) if short in self.tensors), None)


def weights_of_head(repository: Repository) -> dict[str, tuple[DType, bytes]]:
    """Return dtype and bytes of the weights that the next commit's can lean on, by name and by endings of it.

    Raises:
        CorruptError: one is damaged.
    """
    reader = TensorReader(repository.store)
    with repository.store.read() as txn:
        head = refs.head_commit(txn)
        kept = history.kept_files(txn, head, history.read_commit(txn, head)) if head is not None else []
        # Of what was given up nothing may be left.
        files = [read_inventory(txn, entry) for entry in kept if txn.get("recipes", entry.file_id) is not None]
    found: dict[str, tuple[DType, bytes]] = {}
    for tensor in (tensor for file in files for tensor in file.tensors):
        if tensor.part == "weights" and tensor.is_understood and not tensor.is_forgotten:
            whole = tensor.dtype, b"".join(reader.pieces(tensor))
            for name in _endings(tensor.name):
                found.setdefault(name, whole)
    return found


def _endings(name: str) -> Iterator[str]:
    """Yield a name and what stands behind each of its dots."""
    yield name
    while "." in name:
        name = name.partition(".")[2]
        yield name
