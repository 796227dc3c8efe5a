"""Do sources return the very bytes, and notice when a file changes under them?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelvault.checkpoint import BytesSource, FileSource, Source
from modelvault.errors import FileChangedError, InputError

DATA = bytes(range(256)) * 5


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize("kind", ["bytes", "memoryview", "path", "string", "descriptor"])
@pytest.mark.parametrize(("offset", "length"), [(0, 10), (3, 0), (1270, 100), (1280, 1), (1 << 70, 5), (0, 1 << 70)])
def test_reads_are_slices(file: Path, kind: str, offset: int, length: int) -> None:
    with file.open("rb") as opened:
        made: dict[str, Source] = {
            "bytes": BytesSource(DATA),
            "memoryview": BytesSource(memoryview(DATA)),
            "path": FileSource(file),
            "string": FileSource(str(file)),
            "descriptor": FileSource(opened.fileno()),
        }
        source = made[kind]
        assert source.size == len(DATA)
        assert source.read(offset, length) == DATA[offset : offset + length]
        for other in made.values():
            if isinstance(other, FileSource):
                other.close()
        os.fstat(opened.fileno())  # what the caller opened is still open


def test_a_file_that_becomes_shorter_is_an_error(file: Path) -> None:
    with FileSource(file) as source:
        os.truncate(file, 1000)
        assert source.read(0, 1000) == DATA[:1000]
        with pytest.raises(FileChangedError, match="expected 1280 bytes, found 1000"):
            source.read(900, 200)


def test_short_reads_of_the_system_are_continued(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, min(length, 7), offset))
    with FileSource(file) as source:
        assert source.read(5, 100) == DATA[5:105]


def test_only_regular_files_are_taken(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(InputError, match="not a regular file"):
            FileSource(path)
    with pytest.raises(FileNotFoundError):
        FileSource(tmp_path / "missing")


def test_closing_twice_is_fine(file: Path) -> None:
    source = FileSource(file)
    source.close()
    source.close()
    with pytest.raises(OSError, match="descriptor"):
        source.read(0, 1)
