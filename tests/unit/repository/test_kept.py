"""What versions take, given the records of their tensors."""

from __future__ import annotations

from modelvault.ids import TensorId
from modelvault.objects.tensor import Extent, TensorRecord
from modelvault.repository.kept import Kept
from modelvault.repository.versions import Version
from modelvault.tensors import DType


def record(nbytes: int, stored: int, depth: int, *references: int) -> TensorRecord:
    """Return the record of a tensor of one chunk."""
    base, others = (references[0], references[1:]) if references else (0, ())
    extents = (Extent(1, 0, (stored,)),)
    return TensorRecord(TensorId(bytes(32)), nbytes, b"", base, depth, int(depth > 0), extents, others)


KEPT = Kept(
    {
        1: record(1000, 800, 0),
        2: record(1000, 100, 1, 1),
        3: record(1000, 50, 2, 2, 1),
        4: record(400, 300, 0),
    },
    [Version(DType.F32), Version(DType.F32, [1, 4]), Version(DType.F32, [2]), Version(DType.F32, [3, 4])],
)


def test_what_is_needed_is_counted_once() -> None:
    assert KEPT.stored_bytes == 1250
    assert [KEPT.stored(number) for number in (1, 2, 3)] == [1100, 100, 350]
    assert [KEPT.depth(number) for number in (1, 2, 3)] == [0, 1, 2]
    assert [KEPT.decoded(number) for number in (1, 2, 3)] == [1400, 2000, 3400]  # 1 leads to 3 on two ways
    assert [KEPT.work(number) for number in (1, 2, 3)] == [2500, 2900, 4650]
    assert KEPT.state().work_max == 4650


def test_more_references_than_planned_are_seen_in_any_tensor() -> None:
    assert [KEPT.has_more(number, 1) for number in (1, 2, 3)] == [False, False, True]
    assert [KEPT.has_more(number, 0) for number in (1, 2, 3)] == [False, True, True]
    assert not KEPT.has_more(3, 2)
