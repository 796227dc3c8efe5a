"""Is a template only ever read if its program can run?"""

from __future__ import annotations

import pytest

from modelvault.objects.template import EventKind, SegmentHint, Template
from modelvault.tensors import DType
from modelvault.wire import WireError

SEGMENT, STEM, CHECKSUM, OPEN, CLOSE = (bytes((kind,)) for kind in EventKind)


def template(kinds: bytes, checks: tuple[int, ...] = (), **fields: object) -> Template:
    count = kinds.count(SEGMENT)
    segments = tuple(SegmentHint(4, slot, DType.F32, (1,), "w") for slot in range(count))
    made = Template("opaque", kinds, (0,) * len(kinds), segments, checks, b"skeleton")
    return made._replace(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (template(CHECKSUM, (0,)), "before its range is closed"),
        (template(OPEN + CHECKSUM + CLOSE, (0,)), "before its range is closed"),
        (template(OPEN + CLOSE + CHECKSUM, (1,)), "before its range is closed"),
        (template(OPEN + CLOSE + CHECKSUM, (-1,)), "before its range is closed"),
        (template(OPEN + OPEN + CLOSE + CLOSE), "overlap"),
        (template(CLOSE), "overlap"),
        (template(OPEN), "open"),
        (template(STEM, gaps=(9,)), "longer than its skeleton"),
        (template(SEGMENT, segments=(SegmentHint(4, 1, DType.F32, (1,), "w"),)), "leaves out a slot"),
        (template(b"\x05"), "unknown event kind 5"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_programs_that_cannot_run_are_refused(broken: Template, why: str) -> None:
    with pytest.raises(WireError, match=why):
        Template.from_bytes(broken.to_bytes())


def test_an_unknown_dtype_is_refused() -> None:
    data = template(SEGMENT).to_bytes()
    code = bytes((DType.F32.code,))
    assert data.count(code) == 1
    with pytest.raises(WireError, match="unknown dtype code 200"):
        Template.from_bytes(data.replace(code, b"\xc8"))


def test_slots_are_counted_once_however_many_segments_share_them() -> None:
    hints = tuple(SegmentHint(4, slot, DType.F32, (1,), "w") for slot in (0, 0, 1, 0))
    assert template(SEGMENT * 4, segments=hints).slots == 2
    assert template(b"").slots == 0
