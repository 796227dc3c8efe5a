"""Does reading a layout never fail for what the bytes are, and pass on what the source raises?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import modelvault.checkpoint
from modelvault.checkpoint import PARSER_FAILED, BytesSource, FileSource, Layout, read_layout, zip_archive
from modelvault.errors import FileChangedError

from .archives import FIXTURE_FILES, FIXTURES, FORMAT_FILES, assert_promises, rebuild

HEADS = st.sampled_from([b"", b"PK\x03\x04", b"\x02" + bytes(7) + b"{", b"\x10" + bytes(7) + b'{"a":'])


@given(HEADS, st.binary())
def test_arbitrary_bytes_have_a_layout(head: bytes, rest: bytes) -> None:
    layout = read_layout(BytesSource(head + rest))
    assert_promises(layout)
    assert not any(note.startswith(PARSER_FAILED) for note in layout.notes)


@pytest.mark.parametrize("data", [b"", b"{", b"\0" * 9, b"GGUF", b"\x80\x02.", b"PK\x03\x04"])
def test_unknown_files_are_opaque(data: bytes) -> None:
    layout = read_layout(BytesSource(data))
    assert (layout.format, layout.size, layout.segments) == ("opaque", len(data), ())


@pytest.mark.parametrize("path", FIXTURE_FILES + FORMAT_FILES, ids=lambda path: path.name)
def test_truncated_files_have_a_layout(path: Path) -> None:
    data = path.read_bytes()
    lengths = {*range(min(200, len(data))), *range(0, len(data), 997), *range(len(data) - 100, len(data))}
    for length in lengths:
        layout = read_layout(BytesSource(data[:length]))
        assert_promises(layout)
        assert not any(note.startswith(PARSER_FAILED) for note in layout.notes)
        if path.suffix == ".pt":
            assert layout.format == "opaque"


@pytest.mark.parametrize("path", FIXTURE_FILES + FORMAT_FILES, ids=lambda path: path.name)
def test_files_and_bytes_read_the_same(path: Path) -> None:
    with FileSource(path) as source:
        layout = read_layout(source)
    data = path.read_bytes()
    assert layout == read_layout(BytesSource(data))
    rebuilt, skeleton = rebuild(data, layout)
    assert rebuilt == data
    assert skeleton <= len(data) - sum(s.length for s in layout.segments)


def test_the_same_objects_under_another_name_differ_only_in_the_stem() -> None:
    """The point of a stem: protocol 4 and 5 fixtures have the same skeleton but for the root's name."""
    layouts = [read_layout(BytesSource((FIXTURES / f"protocol-{n}.pt").read_bytes())) for n in (4, 5)]
    assert layouts[0].segments == layouts[1].segments
    assert layouts[0].stem_positions == layouts[1].stem_positions
    assert [layout.stem for layout in layouts] == [b"protocol-4", b"protocol-5"]


@pytest.mark.parametrize("error", [OSError("device gone"), FileChangedError("became shorter")])
def test_what_the_source_raises_passes_through(error: Exception) -> None:
    class Failing:
        size = 100

        def read(self, offset: int, length: int) -> bytes:
            if offset == 0 and length < 10:
                return b"PK\x03\x04"
            raise error

    with pytest.raises(type(error)):
        read_layout(Failing())


def test_a_fault_in_a_parser_is_contained_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(source: object) -> Layout:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(zip_archive, "zip_layout", faulty)
    layout = read_layout(BytesSource(b"PK\x03\x04"))
    assert layout == Layout("opaque", 4, notes=("parser failed: ZeroDivisionError: a fault",))


def test_nothing_heavy_is_imported() -> None:
    path = FIXTURES / "state-dict.pt"
    program = (
        "import sys\n"
        "from modelvault.checkpoint import FileSource, read_layout\n"
        f"with FileSource({str(path)!r}) as source: assert read_layout(source).segments\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(modelvault.checkpoint.__file__).parents[2],
    )
    assert not set(run.stdout.split()) & {"torch", "numpy", "safetensors", "pickle", "pickletools", "zipfile"}


def test_what_the_island_exports() -> None:
    assert modelvault.checkpoint.__all__ == [
        "read_layout",
        "Layout",
        "Segment",
        "Checksum",
        "checked",
        "understood_share",
        "MAX_SEGMENTS",
        "PARSER_FAILED",
        "Source",
        "FileSource",
        "BytesSource",
        "Part",
        "part_of",
    ]
