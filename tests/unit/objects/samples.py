"""Values of every record: one of each that is pinned, and strategies for all the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import strategies as st

from modelvault import ids
from modelvault.ids import CommitId, FileId, TensorId
from modelvault.objects.commit import Commit, FileEntry
from modelvault.objects.lossy import BOUNDS, Lossy, Trial
from modelvault.objects.payload import EXACT, LOSSY, Payload
from modelvault.objects.recipe import PARTS, Recipe
from modelvault.objects.ref import Head, Move, ReflogEntry, seal_target, unseal_target
from modelvault.objects.template import EventKind, SegmentHint, Template
from modelvault.objects.tensor import Extent, TensorRecord
from modelvault.tensors import DType

UINTS = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
SINTS = st.integers(-(2**63), 2**63 - 1)
DIGESTS = st.binary(min_size=32, max_size=32)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

_PARENT = CommitId(bytes(range(32)))
_OTHER = CommitId(bytes(range(32, 64)))
_FILE = FileId(bytes(range(64, 96)))
_TENSOR = TensorId(bytes(range(96, 128)))

COMMIT = Commit(
    (_PARENT,),
    1_795_464_000_123,
    -150,
    "Ada <ada@example.org>",
    "epoch 40\n\nlearning rate / 10",
    (FileEntry("model.pt", 5_300_000, False, _FILE), FileEntry("r\u00fcn/\u00e9val.sh", 17, True, _FILE)),
    15_640,
    {"val_acc": 0.934, "val_loss": 0.25},
    {"gpu": "none"},
)
RECIPE = Recipe(53_000, 3, b"patch", b"archive", (7, 8, 9, 2, 0), bytes((0, 0, 1, 1, 1)))
TEMPLATE = Template(
    "torch-zip",
    bytes(
        (
            EventKind.STEM,
            EventKind.OPEN,
            EventKind.SEGMENT,
            EventKind.CLOSE,
            EventKind.SEGMENT,
            EventKind.CHECKSUM,
            EventKind.CHECKSUM,
        )
    ),
    (4, 2, 0, 0, 8, 1, 0),
    (
        SegmentHint(432, 0, DType.F32, (4, 3, 3, 3), "conv1.weight"),
        SegmentHint(16, 0, DType.F32, (4,), "conv1.bias"),
    ),
    (0, 0),
    b"PK\x03\x04 skeleton of it",
)
TENSOR = TensorRecord(
    _TENSOR, 3_000_000, b"\x0c\x01", 5, 3, 2, (Extent(11, 0, (70_000, 80_000)), Extent(12, 100, (90_000,)))
)
LEANING = TENSOR._replace(others=(6, 300))
HEAD = Head("main", _OTHER)
REFLOG = ReflogEntry(
    1_795_464_000_123,
    "commit",
    (Move("heads/main", _OTHER), Move("tags/best", _OTHER), Move("tags/old", None), Move("HEAD", _PARENT)),
    HEAD,
)
PAYLOAD = Payload(EXACT, 185_000, 3, 21, 4, (0, 1_795_464_000_123, 0))


class Kind(NamedTuple):
    """One kind of record, with what a battery needs of it."""

    sample: Any
    values: st.SearchStrategy[Any]
    to_bytes: Callable[[Any], bytes]
    from_bytes: Callable[[bytes], Any]
    sealed: bool
    key: bytes = b""  # what the seal covers besides


def _depths(record: TensorRecord) -> TensorRecord:
    """Without a reference there is nothing to count."""
    return record if record.base else record._replace(depth=0, deltas=0)


_extents = st.builds(Extent, UINTS, UINTS, st.lists(UINTS, max_size=4).map(tuple))
_heads = st.builds(Head, TEXTS, st.one_of(st.none(), DIGESTS.map(CommitId)))
_moves = st.builds(Move, TEXTS, st.one_of(st.none(), DIGESTS.map(CommitId)))


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    tensors = tuple(draw(st.lists(st.one_of(st.integers(0, 9), UINTS), max_size=12)))
    parts = bytes(draw(st.sampled_from(range(len(PARTS)))) for _ in tensors)
    size, template = draw(st.integers(100, 2**64 - 1)), draw(UINTS)
    return Recipe(size, template, draw(st.binary(max_size=9)), draw(st.binary(max_size=9)), tensors, parts)


@st.composite
def templates(draw: st.DrawFn) -> Template:
    """Programs that can run: what a writer would write."""
    kinds, checks = bytearray(), []
    opened = closed = 0
    for wanted in draw(st.lists(st.sampled_from(EventKind), max_size=12)):
        kind = EventKind.STEM if wanted == EventKind.CHECKSUM and not closed else wanted
        if (kind == EventKind.OPEN and opened > closed) or (kind == EventKind.CLOSE and opened == closed):
            continue
        opened += kind == EventKind.OPEN
        closed += kind == EventKind.CLOSE
        if kind == EventKind.CHECKSUM:
            checks.append(draw(st.integers(0, closed - 1)))
        kinds.append(kind)
    if opened > closed:
        kinds.append(EventKind.CLOSE)
    gaps = tuple(draw(st.integers(0, 9)) for _ in kinds)
    count = kinds.count(EventKind.SEGMENT)
    slots = sorted(draw(st.integers(0, 3)) for _ in range(count))
    dense = {slot: place for place, slot in enumerate(dict.fromkeys(slots))}
    segments = tuple(
        SegmentHint(
            draw(UINTS),
            dense[slot],
            draw(st.sampled_from(DType)),
            tuple(draw(st.lists(UINTS, max_size=4))),
            draw(TEXTS),
        )
        for slot in slots
    )
    skeleton = draw(st.binary(min_size=sum(gaps), max_size=sum(gaps) + 5))
    return Template(draw(TEXTS), bytes(kinds), gaps, segments, tuple(checks), skeleton)


def commits() -> st.SearchStrategy[Commit]:
    """Commits with their files sorted and no path twice, as they are read back."""
    entries = st.builds(FileEntry, TEXTS, st.integers(0, 2**62), st.booleans(), DIGESTS.map(FileId))
    files = st.lists(entries, max_size=4, unique_by=lambda entry: entry.path)
    return st.builds(
        Commit,
        st.lists(DIGESTS.map(CommitId), max_size=3).map(tuple),
        SINTS,
        st.integers(-1440, 1440),
        TEXTS,
        TEXTS,
        files.map(lambda found: tuple(sorted(found, key=lambda entry: entry.path.encode()))),
        st.one_of(st.none(), SINTS),
        st.dictionaries(TEXTS, st.floats(allow_nan=False), max_size=3),
        st.dictionaries(TEXTS, TEXTS, max_size=3),
    )


_FLOATS = st.floats(allow_nan=False)
_lossy = st.builds(
    Lossy,
    st.sampled_from(sorted(BOUNDS)),
    _FLOATS,
    _FLOATS,
    _FLOATS,
    _FLOATS,
    UINTS,
    st.lists(st.tuples(DIGESTS.map(FileId), DIGESTS.map(FileId)), max_size=3).map(tuple),
    TEXTS,
    _FLOATS,
    _FLOATS,
    _FLOATS,
    st.lists(st.builds(Trial, _FLOATS, _FLOATS, _FLOATS, _FLOATS), max_size=3).map(tuple),
    st.one_of(st.just(0.0), st.floats(1e-9, 1.0)),
)
_payloads = st.builds(
    Payload, st.just(EXACT), UINTS, UINTS, UINTS, UINTS, st.tuples(UINTS, UINTS, UINTS), st.one_of(st.none(), _lossy)
).map(lambda payload: payload._replace(mode=EXACT if payload.lossy is None else LOSSY))

KINDS: dict[str, Kind] = {
    "commit": Kind(COMMIT, commits(), Commit.to_bytes, Commit.from_bytes, sealed=False),
    "payload": Kind(
        PAYLOAD,
        _payloads,
        lambda payload: payload.to_bytes(_OTHER),
        lambda data: Payload.from_bytes(data, _OTHER),
        sealed=True,
        key=_OTHER,
    ),
    "recipe": Kind(
        RECIPE,
        recipes(),
        lambda recipe: recipe.to_bytes(_FILE),
        lambda data: Recipe.from_bytes(data, _FILE),
        sealed=True,
        key=_FILE,
    ),
    "template": Kind(TEMPLATE, templates(), Template.to_bytes, Template.from_bytes, sealed=False),
    "tensor": Kind(
        TENSOR,
        st.builds(
            TensorRecord,
            DIGESTS.map(TensorId),
            UINTS,
            st.binary(max_size=5),
            UINTS,
            UINTS,
            UINTS,
            st.lists(_extents, max_size=4).map(tuple),
            st.just(()),
        ).map(_depths),
        TensorRecord.to_bytes,
        TensorRecord.from_bytes,
        sealed=True,
    ),
    "tensor of several references": Kind(
        LEANING,
        st.builds(
            TensorRecord,
            DIGESTS.map(TensorId),
            UINTS,
            st.binary(max_size=5),
            st.integers(1, 2**64 - 1),
            UINTS,
            UINTS,
            st.lists(_extents, max_size=4).map(tuple),
            st.lists(st.integers(1, 2**64 - 1), min_size=1, max_size=7).map(tuple),
        ),
        TensorRecord.to_bytes,
        TensorRecord.from_bytes,
        sealed=True,
    ),
    "ref": Kind(_OTHER, DIGESTS.map(CommitId), seal_target, unseal_target, sealed=True),
    "head": Kind(
        HEAD,
        _heads,
        Head.to_bytes,
        Head.from_bytes,
        sealed=True,
    ),
    "reflog": Kind(
        REFLOG,
        st.builds(ReflogEntry, SINTS, TEXTS, st.lists(_moves, max_size=5).map(tuple), st.one_of(st.none(), _heads)),
        ReflogEntry.to_bytes,
        ReflogEntry.from_bytes,
        sealed=True,
    ),
}


def pinned() -> dict[str, dict[str, str]]:
    """What tests/vectors/v1/records.json holds: the bytes of every sample, and the ids made of them."""
    found = {name: {"bytes": kind.to_bytes(kind.sample).hex()} for name, kind in KINDS.items()}
    found["commit"]["id"] = ids.commit_id(COMMIT.to_bytes()).hex()
    found["tensor"]["raw"] = bytes(range(256)).hex()
    found["tensor"]["id of raw"] = ids.tensor_id(bytes(range(256))).hex()
    return found
