"""Are the examples on docs/format/index.md what the code writes and reads?"""

from __future__ import annotations

import hashlib

from modelvault import ids, wire
from modelvault.objects.commit import Commit, FileEntry
from modelvault.objects.payload import Payload
from modelvault.objects.recipe import MAX_TENSORS, Recipe
from modelvault.objects.ref import Head
from modelvault.objects.template import EventKind, SegmentHint, Template
from modelvault.objects.tensor import INDEX_PREFIX_BYTES, Extent, TensorRecord
from modelvault.tensors import CHUNK_BYTES, DType
from tests.unit.objects.samples import LEANING

from .pages import ROOT, vectors

PAGE = ROOT / "docs" / "format" / "index.md"
TEXT = PAGE.read_text()
EXAMPLES = vectors(PAGE)
RAW = b"abc"

ONE = Commit(
    parents=(),
    time_ms=1_700_000_000_000,
    offset_min=60,
    author="Ada",
    message="one",
    files=(FileEntry("a.bin", 3, False, ids.FileId(hashlib.sha256(RAW).digest())),),
    step=7,
    metrics={"loss": 0.5},
    meta={},
)


def test_examples() -> None:
    kinds = bytes((EventKind.OPEN, EventKind.SEGMENT, EventKind.CLOSE, EventKind.CHECKSUM, EventKind.STEM))
    written = {
        "commit": ONE.to_bytes(),
        "id": ids.commit_id(ONE.to_bytes()),
        "payload": Payload(0, 300, 1, 0, 0).to_bytes(ids.CommitId(bytes(32))),
        "recipe": Recipe(300, 1, b"", b"", (4, 5, 6, 2), bytes((0, 0, 0, 1))).to_bytes(ids.FileId(bytes(32))),
        "template": Template(
            "torch-zip", kinds, (2, 0, 0, 1, 0), (SegmentHint(4, 0, DType.F32, (1,), "w"),), (0,), b"AB-Z"
        ).to_bytes(),
        "tensor": TensorRecord(ids.tensor_id(RAW), 3, bytes(2), 0, 0, 0, (Extent(1, 0, (8,)),)).to_bytes(),
        "leaning": LEANING.to_bytes(),
        "head": Head("main").to_bytes(),
    }
    assert written == EXAMPLES


def test_examples_are_read() -> None:
    assert Commit.from_bytes(EXAMPLES["commit"]) == ONE
    assert Recipe.from_bytes(EXAMPLES["recipe"], ids.FileId(bytes(32))).tensors == (4, 5, 6, 2)
    assert Template.from_bytes(EXAMPLES["template"]).checks == (0,)


def test_conventions() -> None:
    out = wire.Writer()
    out.uint(300)
    assert f"300 is `{out.getvalue().hex(' ')}`" in TEXT
    for number in (0, 255, 256):
        assert f"{number} is `{wire.sortable(number).hex(' ')}`" in TEXT


def test_ids_and_sizes() -> None:
    digits = ids.tensor_id(RAW).hex()
    assert " ".join(digits[place : place + 8] for place in range(0, 64, 8)) in TEXT
    assert f"first {INDEX_PREFIX_BYTES} bytes of a tensor id" in TEXT
    assert f"chunks of {CHUNK_BYTES:,} bytes" in TEXT
    assert f"or than {MAX_TENSORS:,}." in TEXT
