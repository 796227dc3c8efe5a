"""Is a bundle's index read as it was written, and refused if it contradicts itself?"""

from __future__ import annotations

import hashlib
import random

import pytest

from modelvault import ids
from modelvault.errors import CorruptError, NewerFormatError
from modelvault.objects.bundle import (
    EXACT,
    LOSSY,
    WITHOUT_BYTES,
    BaseFile,
    BaseTensor,
    Bundle,
    SentCommit,
    SentFile,
    SentTensor,
    kept_files,
)
from modelvault.objects.commit import Commit, FileEntry
from modelvault.objects.lossy import Lossy
from modelvault.objects.template import EventKind, SegmentHint, Template
from modelvault.tensors import CHUNK_BYTES, DType

KINDS = bytes((EventKind.OPEN, EventKind.SEGMENT, EventKind.CLOSE, EventKind.CHECKSUM, EventKind.STEM))
TEMPLATE = Template("torch-zip", KINDS, (2, 0, 0, 1, 0), (SegmentHint(8, 0, DType.F32, (2,), "w"),), (0,), b"AB-Z")
LARGE = Template(
    "raw", bytes((EventKind.SEGMENT,)), (0,), (SegmentHint(CHUNK_BYTES + 4, 0, DType.F32, (1,), "w"),), (), b""
)
SIZE = 8 + 4 + 4 + 3


def file_id(number: int) -> ids.FileId:
    return ids.FileId(hashlib.sha256(b"%d" % number).digest())


def tensor_id(number: int) -> ids.TensorId:
    return ids.tensor_id(b"%d" % number)


def commit(number: int, *parents: ids.CommitId, files: tuple[FileEntry, ...]) -> Commit:
    return Commit(parents, 1000 * number, 60, "Ada", f"epoch {number}", files)


FILES = (FileEntry("model.pt", SIZE, False, file_id(2)),)
ONE = commit(1, ids.CommitId(bytes(32)), files=FILES)
TWO = commit(2, ids.commit_id(ONE.to_bytes()), files=(FileEntry("model.pt", SIZE, False, file_id(99)),))
THREE = commit(3, ids.commit_id(TWO.to_bytes()), files=(FileEntry("lost.pt", 7, False, file_id(77)),))
BUNDLE = Bundle(
    (TEMPLATE.to_bytes(), LARGE.to_bytes()),
    (BaseFile("model.pt", file_id(1), SIZE, 0, b"abc"),),
    (BaseTensor(tensor_id(1), 8, 0, 0),),
    (
        SentTensor(tensor_id(2), 8, b"\1\2", 1, (40,)),
        SentTensor(tensor_id(3), 8, b"\1", 2, (41,)),
        SentTensor(tensor_id(4), CHUNK_BYTES + 4, b"", 0, (300, 2)),
    ),
    (
        SentFile(file_id(2), SIZE, 0, b"abc", (2,)),
        SentFile(file_id(3), SIZE, 0, b"xyz", (3,)),
        SentFile(file_id(4), CHUNK_BYTES + 4, 1, b"", (4,)),
    ),
    (
        SentCommit(ONE.to_bytes(), EXACT),
        SentCommit(TWO.to_bytes(), LOSSY, Lossy(1, 0.001, 0.0, 0.0005, 1.0, 5, ((file_id(99), file_id(3)),))),
        SentCommit(THREE.to_bytes(), WITHOUT_BYTES),
    ),
    (("heads/main", 2), ("tags/best", 0)),
)


def test_round_trip() -> None:
    read = Bundle.from_bytes(BUNDLE.to_bytes())
    assert read == BUNDLE
    assert [read.tensor(number).tensor_id for number in range(1, 5)] == [tensor_id(n) for n in range(1, 5)]
    assert list(kept_files(TWO, BUNDLE.commits[1].lossy)) == [file_id(3)]


@pytest.mark.parametrize(
    "wrong",
    [
        BUNDLE._replace(commits=(), refs=()),
        BUNDLE._replace(commits=BUNDLE.commits[::-1]),
        BUNDLE._replace(commits=(*BUNDLE.commits, BUNDLE.commits[0])),
        BUNDLE._replace(files=BUNDLE.files[1:]),
        BUNDLE._replace(refs=(("heads/main", 3),)),
        BUNDLE._replace(templates=BUNDLE.templates[:1]),
        BUNDLE._replace(templates=(b"no template", BUNDLE.templates[1])),
        BUNDLE._replace(base_files=()),
        BUNDLE._replace(base_files=(BUNDLE.base_files[0]._replace(size=SIZE + 1),)),
        BUNDLE._replace(base_files=(BUNDLE.base_files[0]._replace(template=2),)),
        BUNDLE._replace(base_files=(BUNDLE.base_files[0]._replace(stem=b"ab"),)),
        BUNDLE._replace(base_tensors=(BUNDLE.base_tensors[0]._replace(file=1),)),
        BUNDLE._replace(base_tensors=(BUNDLE.base_tensors[0]._replace(slot=1),)),
        BUNDLE._replace(base_tensors=(BUNDLE.base_tensors[0]._replace(nbytes=9),)),
        BUNDLE._replace(base_tensors=()),
        BUNDLE._replace(tensors=BUNDLE.tensors[:2]),
        BUNDLE._replace(tensors=(BUNDLE.tensors[0]._replace(base=2), *BUNDLE.tensors[1:])),
        BUNDLE._replace(tensors=(*BUNDLE.tensors[:2], BUNDLE.tensors[2]._replace(base=1))),
        BUNDLE._replace(tensors=(*BUNDLE.tensors[:2], BUNDLE.tensors[2]._replace(lengths=(300,)))),
        BUNDLE._replace(tensors=(*BUNDLE.tensors[:2], BUNDLE.tensors[2]._replace(nbytes=1 << 60))),
        BUNDLE._replace(files=(BUNDLE.files[0]._replace(size=3), *BUNDLE.files[1:])),
        BUNDLE._replace(files=(BUNDLE.files[0]._replace(tensors=(0,)), *BUNDLE.files[1:])),
        BUNDLE._replace(files=(BUNDLE.files[0]._replace(tensors=(4,)), *BUNDLE.files[1:])),
        BUNDLE._replace(files=(BUNDLE.files[0]._replace(tensors=(5,)), *BUNDLE.files[1:])),
        BUNDLE._replace(files=(BUNDLE.files[0]._replace(template=1), *BUNDLE.files[1:])),
        BUNDLE._replace(commits=(BUNDLE.commits[0]._replace(data=ONE.to_bytes()[:-1]), *BUNDLE.commits[1:])),
    ],
)
def test_what_contradicts_itself_is_refused(wrong: Bundle) -> None:
    with pytest.raises(CorruptError):
        Bundle.from_bytes(wrong.to_bytes())


def test_a_commit_that_is_not_canonical_is_refused() -> None:
    both = (FileEntry("b", 1, False, file_id(2)), FileEntry("a", 1, False, file_id(2)))
    data = commit(1, files=both).to_bytes()
    first, second = (data.index(name) for name in (b"\1a", b"\1b"))
    swapped = bytearray(data)
    swapped[first + 1], swapped[second + 1] = ord("b"), ord("a")
    with pytest.raises(CorruptError):
        Bundle.from_bytes(BUNDLE._replace(commits=(SentCommit(bytes(swapped), WITHOUT_BYTES),), refs=()).to_bytes())


def test_every_truncation_is_refused() -> None:
    data = BUNDLE.to_bytes()
    for length in range(len(data)):
        with pytest.raises(CorruptError):
            Bundle.from_bytes(data[:length])
    with pytest.raises(CorruptError):
        Bundle.from_bytes(data + b"\0")


def test_a_changed_byte_is_refused_or_says_something_else() -> None:
    data, chance = BUNDLE.to_bytes(), random.Random(1)
    for _ in range(3000):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            changed[chance.randrange(len(data))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        try:
            read = Bundle.from_bytes(bytes(changed))
        except (CorruptError, NewerFormatError):
            continue
        assert Bundle.from_bytes(read.to_bytes()) == read
