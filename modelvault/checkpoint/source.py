"""Where the bytes of a file come from: a descriptor read with pread, or memory.

`FileSource` never maps the file: a file that shrinks under a memory map kills the process, one that shrinks
under pread is an error with a name.
"""

from __future__ import annotations

import os
import stat
from types import TracebackType
from typing import TYPE_CHECKING

from modelvault.errors import FileChangedError, InputError

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Buffer


class BytesSource:
    """A source over bytes in memory.

    >>> BytesSource(b"weights").read(4, 100)
    b'hts'
    """

    __slots__ = ("_data",)

    def __init__(self, data: Buffer) -> None:
        self._data = memoryview(data).cast("B")

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes at `offset`, fewer only at the end."""
        return bytes(self._data[offset : offset + length])


class FileSource:
    """A source over a regular file; a context manager that closes what it opened.

    The size is taken once, when the source is made. Reads do not share a position, so threads may share a
    source.

    Args:
        file: a path, or a descriptor, which then stays the caller's to close.

    Raises:
        InputError: it is no regular file.
        OSError: the system refuses.
    """

    __slots__ = ("_descriptor", "_label", "_owned", "_size")

    def __init__(self, file: str | os.PathLike[str] | int) -> None:
        self._owned = not isinstance(file, int)
        self._label = f"descriptor {file}" if isinstance(file, int) else os.fspath(file)
        # O_NONBLOCK: opening a named pipe must not wait for its writer before it is refused. Files ignore it.
        self._descriptor = file if isinstance(file, int) else os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(self._descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"not a regular file: {self._label}")
        except BaseException:
            self.close()
            raise
        self._size = status.st_size

    @property
    def size(self) -> int:
        """Length in bytes when the source was made."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes at `offset`, fewer only at the end.

        Raises:
            FileChangedError: the file has become shorter than `size`.
        """
        wanted = min(length, self._size - offset)
        if wanted <= 0:
            return b""
        data = os.pread(self._descriptor, wanted, offset)
        if len(data) == wanted:
            return data
        # One call returns at most 2 GiB on Linux, and less when a signal comes in.
        parts = [data]
        have = len(data)
        while have < wanted:
            if not parts[-1]:
                raise FileChangedError(
                    f"{self._label} became shorter while it was read: "
                    f"expected {self._size} bytes, found {offset + have}",
                    hint="commit it again when nothing writes to it",
                )
            parts.append(os.pread(self._descriptor, wanted - have, offset + have))
            have += len(parts[-1])
        return b"".join(parts)

    def close(self) -> None:
        """Close the descriptor if this source opened it; doing so twice is fine."""
        if self._owned and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
