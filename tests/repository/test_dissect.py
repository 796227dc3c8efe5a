"""Does a file come back from template, stem and slots, whatever a parser says about it?"""

from __future__ import annotations

import hashlib
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault import ids
from modelvault.checkpoint import BytesSource, Checksum, Layout, Segment, checked
from modelvault.errors import FileChangedError
from modelvault.objects.template import Template
from modelvault.repository import dissect as dissect_module
from modelvault.repository.assemble import assemble
from modelvault.repository.dissect import Dissection, dissect
from modelvault.tensors import DType
from tests.unit.checkpoint.archives import FIXTURE_FILES, FORMAT_FILES

from .networks import noise

STEM = b"root"


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, Layout]:
    """A file with right and wrong checksums and stems in it, and what a hostile parser might say about it."""
    data = bytearray(draw(st.binary(min_size=1, max_size=400)))
    size = len(data)
    places = st.integers(0, size + 5)
    stems = draw(st.lists(places, max_size=4))
    for at in stems:
        if draw(st.booleans()):
            data[at : at + len(STEM)] = STEM
    del data[size:]
    data.extend(bytes(size - len(data)))
    segments = tuple(
        Segment(at, length, draw(st.sampled_from(DType)), (length,), draw(st.sampled_from(["w", "", "optimizer.x"])))
        for at, length in draw(st.lists(st.tuples(places, st.integers(0, 60)), max_size=6))
    )
    checksums = []
    for at, start, length in draw(st.lists(st.tuples(places, places, st.integers(0, 80)), max_size=6)):
        if draw(st.booleans()) and segments:
            segment = draw(st.sampled_from(segments))
            start, length = segment.offset, segment.length
        checksums.append(Checksum(at, start, length))
    checksums.sort(key=lambda check: check.position)
    for check in checksums:
        if draw(st.booleans()) and check.position + 4 <= size:
            crc = zlib.crc32(data[check.start : check.start + check.length])
            data[check.position : check.position + 4] = crc.to_bytes(4, "little")
    return bytes(data), Layout("torch-zip", size, segments, tuple(checksums), STEM, tuple(sorted(stems)))


def sixteens(_: object, offset: int, length: int, __: object) -> Iterator[tuple[int, int]]:
    """Cut a stretch into pieces of 16 bytes, a short rest left out."""
    for at in range(offset, offset + length, 16):
        if offset + length - at >= 8:
            yield at, min(16, offset + length - at)


def cut(data: bytes, layout: Layout, *, tiny: bool) -> Dissection:
    """Dissect a file about which a parser says `layout`, with limits that small files can meet if `tiny`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dissect_module, "read_layout", lambda _: layout)
        if tiny:
            patch.setattr(dissect_module, "GROUP_LIMIT", 8)
            patch.setattr(dissect_module, "OPAQUE_RUN", 32)
            patch.setattr(dissect_module, "CHUNK_BYTES", 16)
            patch.setattr(dissect_module, "WINDOW_BYTES", 24)
            patch.setattr(dissect_module, "_UNHASHED_BYTES", 48)
            patch.setattr(dissect_module, "cut_stretch", sixteens)
        return dissect(BytesSource(data))


def put_together(data: bytes, found: Dissection) -> bytes:
    """Do what checkout does, with the slots' bytes taken from where they stood."""
    slots = [b"".join(data[at : at + length] for at, length in slot.ranges) for slot in found.slots]
    for slot, raw in zip(found.slots, slots, strict=True):
        assert ids.tensor_id(raw) == slot.tensor_id
        assert len(raw) == slot.nbytes
    taken = [0] * len(slots)
    template = Template.from_bytes(found.template.to_bytes())

    def fill(number: int) -> Iterator[bytes]:
        segment = template.segments[number]
        yield slots[segment.slot][taken[segment.slot] : taken[segment.slot] + segment.length]
        taken[segment.slot] += segment.length

    whole = b"".join(assemble(template, found.stem, fill))
    assert taken == [len(raw) for raw in slots]
    return whole


@given(files(), st.booleans())
def test_a_checked_layout_is_put_together_again(file: tuple[bytes, Layout], tiny: bool) -> None:
    data, layout = file
    found = cut(data, checked(layout), tiny=tiny)
    assert put_together(data, found) == data
    assert found.size == len(data)
    assert found.file_id == hashlib.sha256(data).digest()


@given(files(), st.booleans())
def test_a_parser_that_lies_makes_no_wrong_bytes(file: tuple[bytes, Layout], tiny: bool) -> None:
    """Even if nobody checked its checksums and stems: the file comes back, or the commit is refused."""
    data, layout = file
    lies = replace(checked(layout), checksums=layout.checksums, stem=layout.stem, stem_positions=layout.stem_positions)
    try:
        found = cut(data, lies, tiny=tiny)
    except FileChangedError:
        return
    assert hashlib.sha256(put_together(data, found)).digest() == found.file_id


@pytest.mark.parametrize("path", FIXTURE_FILES + FORMAT_FILES, ids=lambda path: path.name)
def test_fixtures_are_put_together_again(path: Path) -> None:
    data = path.read_bytes()
    found = dissect(BytesSource(data))
    assert put_together(data, found) == data


def test_a_checksum_that_is_wrong_stays_in_the_skeleton() -> None:
    tensor = noise(100_000)
    data = b"head" + tensor + b"\x01\x02\x03\x04" + zlib.crc32(tensor).to_bytes(4, "little")
    segment = Segment(4, 100_000, DType.F32, (25_000,), "w")
    claims = (Checksum(100_004, 4, 100_000), Checksum(100_008, 4, 100_000))
    found = cut(data, Layout("torch-zip", len(data), (segment,), claims), tiny=False)
    assert found.template.skeleton == b"head\x01\x02\x03\x04"
    assert put_together(data, found) == data


@pytest.mark.parametrize("has_checks", [False, True])
@pytest.mark.parametrize("at", [0, 4, 11])
def test_a_template_that_is_wrong_is_noticed(at: int, has_checks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a long tensor, between two and behind the last, whether checksums are made of the tensors or not."""
    tensor = noise(100_000)
    crc = zlib.crc32(tensor).to_bytes(4, "little")
    data = b"head" + tensor + b"next" + tensor + b"tail" + crc
    segments = tuple(Segment(start, 100_000, DType.F32, (25_000,), f"w{start}") for start in (4, 100_008))
    checks = (Checksum(200_012, 4, 100_000),) if has_checks else ()
    layout = Layout("torch-zip", len(data), segments, checks)
    found = cut(data, layout, tiny=False)
    assert bool(found.template.checks) == has_checks
    assert put_together(data, found) == data

    def altered(*arguments: Any) -> Template:
        template = build(*arguments)
        skeleton = bytearray(template.skeleton)
        skeleton[at] ^= 1
        return template._replace(skeleton=bytes(skeleton))

    build = dissect_module._build_template
    monkeypatch.setattr(dissect_module, "_build_template", altered)
    with pytest.raises(FileChangedError):
        cut(data, layout, tiny=False)


def test_tensors_are_read_once_where_no_checksum_is_made_of_them() -> None:
    class Counting(BytesSource):
        count = 0

        def read(self, offset: int, length: int) -> bytes:
            found = super().read(offset, length)
            self.count += len(found)
            return found

    source = Counting(b"head" + noise(3 << 20) + b"tail")
    layout = Layout("safetensors", source.size, (Segment(4, 3 << 20, DType.F32, (3 << 18,), "w"),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dissect_module, "read_layout", lambda _: layout)
        dissect(source)
    assert source.count < 1.2 * source.size  # what is read beside short pieces is little


@pytest.mark.parametrize(("processors", "most"), [(1, 1), (2, 4)])
def test_no_more_is_read_than_waits_for_its_digest(monkeypatch: pytest.MonkeyPatch, processors: int, most: int) -> None:
    """Of a file that is read faster than SHA-256 goes only so much is held in memory."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow:
        def __init__(self) -> None:
            self.real = hashlib.sha256()

        def update(self, data: bytes) -> None:
            begun.set()
            assert go_on.wait(30)
            self.real.update(data)

        def digest(self) -> bytes:
            return self.real.digest()

    class Counting(BytesSource):
        count = 0

        def read(self, offset: int, length: int) -> bytes:
            self.count += length
            return super().read(offset, length)

    monkeypatch.setattr(dissect_module, "thread_count", lambda: processors)
    monkeypatch.setattr(dissect_module, "WINDOW_BYTES", 1 << 10)
    monkeypatch.setattr(dissect_module, "_UNHASHED_BYTES", 3 << 10)
    monkeypatch.setattr(ids, "file_hasher", Slow)
    data = noise(20 << 10)
    source = Counting(data)
    layout = Layout("safetensors", source.size, (Segment(0, source.size, DType.F32, (5 << 10,), "w"),))
    monkeypatch.setattr(dissect_module, "read_layout", lambda _: layout)
    with ThreadPoolExecutor(1) as one:
        reading = one.submit(dissect, source)
        assert begun.wait(30)
        while source.count < most << 10:
            time.sleep(0.01)
        time.sleep(0.1)
        assert source.count == most << 10
        go_on.set()
        assert reading.result().file_id == hashlib.sha256(data).digest()


def test_long_opaque_runs_become_slots_of_up_to_one_chunk() -> None:
    data = noise((3 << 20) + 1_000)
    found = dissect(BytesSource(data))
    assert 3 <= len(found.slots) <= 24
    assert all(64 << 10 <= slot.nbytes <= 1 << 20 for slot in found.slots)
    assert len(found.template.skeleton) < 64 << 10
    assert found.understood == 0
    assert put_together(data, found) == data


def test_a_skeleton_too_long_for_memory_is_opaque(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dissect_module, "MAX_SKELETON", 1_000)
    data = bytes(range(256)) * 40
    segments = tuple(Segment(n * 1_024, 16, DType.F32, (4,), f"w{n}") for n in range(10))
    found = cut(data, Layout("torch-zip", len(data), segments), tiny=False)
    assert found.template.format == "opaque"
    assert "skeleton too long: kept opaque" in found.notes
    assert put_together(data, found) == data
