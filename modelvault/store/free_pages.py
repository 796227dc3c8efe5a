"""The pages of an LMDB file that hold nothing, found with plain reads, and given back to the disk as holes.

LMDB never shortens its file: what a transaction frees is noted in a tree of free pages, and used again later. Until
then the disk keeps it. Here these pages are punched out of the file: it stays as long as it was, `du` loses them, and
whoever writes one again gets it back from the file system.

A page is punched only if three things agree: the newest meta page's tree of free pages lists it, by a transaction
older than that; the newest main tree does not lead to it; and neither does the one before, which is what LMDB falls
back to. That is what LMDB itself would write over in its next transaction. Nobody may have a transaction open.

The layout is that of `meta_page`. A page begins with its number, its kind, and where its list of nodes ends; a node is
the length of its value (in a branch: the page below), flags, the length of its key, and both. A value too long for a
page stands in overflow pages, which follow one another, and the node names the first. Free pages are values of
transaction numbers: how many, then the numbers, falling. Nothing here maps the file or calls LMDB.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from modelvault.errors import CorruptError
from modelvault.store.meta_page import NO_PAGE, PAGE_HEADER, MetaPage, read_meta_pages

_POINTER = struct.Struct("=H")
_NODE = struct.Struct("=HHHH")  # value's length or page below: low, high; flags or highest; length of the key
_NUMBER = struct.Struct("=Q")
_BRANCH, _LEAF, _OVERFLOW = 0x01, 0x02, 0x04
_IN_OVERFLOW = 0x01
_FIRST_PAGE = 2
_DEEPEST = 32
_FSCK = "run modelvault fsck"

_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02
_NO_HOLES = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV, errno.EPERM}


class Run(NamedTuple):
    """Pages that follow one another: the first, and how many."""

    first: int
    length: int

    @property
    def end(self) -> int:
        """The page after the last."""
        return self.first + self.length


def free_runs(path: Path) -> list[Run]:
    """Return the free pages that neither the newest transaction nor the one before it can reach, in file order.

    Args:
        path: a data file that nobody has a transaction on.

    Raises:
        CorruptError: its trees are not as LMDB leaves them, or what is free and what is used overlap.
        OSError: it cannot be read.
    """
    newest, before = read_meta_pages(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        file = _File(path, descriptor, newest)
        free = sorted(file.freed_before(newest.transaction))
        for meta in (newest, before):
            file.mark(meta.free_root)
            file.mark(meta.main_root)
    finally:
        os.close(descriptor)
    lately = None
    for run, is_free in sorted([(run, True) for run in free] + [(run, False) for run in file.used]):
        if lately is not None and run.first < lately[0].end and (is_free or lately[1]):
            raise CorruptError(f"{path}: page {run.first} is free and in use, or free twice", hint=_FSCK)
        if lately is None or run.end > lately[0].end:
            lately = run, is_free
    return free


def punch(path: Path, runs: Iterable[Run], page_bytes: int) -> bool:
    """Give the blocks of these pages back to the file system; say whether it takes them.

    Raises:
        OSError: the file cannot be written.
    """
    fallocate = _fallocate()
    if fallocate is None:
        return False
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for run in runs:
            code = fallocate(descriptor, run.first * page_bytes, run.length * page_bytes)
            if code in _NO_HOLES:
                return False
            if code:
                raise OSError(code, os.strerror(code), os.fspath(path))
    finally:
        os.close(descriptor)
    return True


def takes_holes(path: Path) -> bool:
    """Say whether this file's file system can give back part of a file; the file is not changed."""
    try:
        end = path.stat().st_size
        return punch(path, [Run(end // 4096 + 1, 1)], 4096)  # behind its end, where there is nothing
    except OSError:
        return False


def _fallocate() -> Callable[[int, int, int], int] | None:
    """Return a function of descriptor, offset and length that punches a hole, and returns 0 or an error number."""
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return None
    import ctypes  # 12 ms, for the one command that needs it

    function = ctypes.CDLL(None, use_errno=True).fallocate
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

    def call(descriptor: int, offset: int, length: int) -> int:
        failed = function(descriptor, _KEEP_SIZE | _PUNCH_HOLE, offset, length)
        return ctypes.get_errno() if failed else 0

    return call


class _File:
    """One data file, read page by page; `used` is what was found to be in use."""

    def __init__(self, path: Path, descriptor: int, meta: MetaPage) -> None:
        self._path, self._descriptor = path, descriptor
        self._page_bytes, self._last_page = meta.page_bytes, meta.last_page
        self._free_root = meta.free_root
        self._seen: set[int] = set()
        self.used: list[Run] = []

    def mark(self, root: int) -> None:
        """Note every page of a tree, unless it was noted before: what two trees share is the same in both."""
        if root == NO_PAGE:
            return
        waiting = [(root, 0)]
        while waiting:
            number, depth = waiting.pop()
            if number in self._seen:
                continue
            if depth > _DEEPEST:
                raise self._wrong(number, "lies too deep")
            self._seen.add(number)
            self.used.append(Run(number, 1))
            page, is_leaf = self._page(number)
            if is_leaf:
                for _, flags, length, at in self._leaf_nodes(number, page):
                    if flags & _IN_OVERFLOW:
                        self._mark_overflow(*self._overflow(number, page, at, length))
            else:
                waiting.extend((below, depth + 1) for below in self._below(number, page))

    def _mark_overflow(self, first: int, count: int) -> None:
        if first not in self._seen:
            self._seen.add(first)
            self.used.append(Run(first, count))

    def freed_before(self, transaction: int) -> Iterator[Run]:
        """Yield the free pages that older transactions freed."""
        waiting = [] if self._free_root == NO_PAGE else [(self._free_root, 0)]
        while waiting:
            number, depth = waiting.pop()
            if depth > _DEEPEST:
                raise self._wrong(number, "lies too deep")
            page, is_leaf = self._page(number)
            if not is_leaf:
                waiting.extend((below, depth + 1) for below in self._below(number, page))
                continue
            for key, flags, length, at in self._leaf_nodes(number, page):
                if len(key) != _NUMBER.size:
                    raise self._wrong(number, "has a key that is no transaction's")
                if flags & _IN_OVERFLOW:
                    first, count = self._overflow(number, page, at, length)
                    value = self._read(first, count)[PAGE_HEADER.size :][:length]
                else:
                    value = page[at : at + length]
                if _NUMBER.unpack(key)[0] < transaction:
                    yield from self._listed(number, value)

    def _listed(self, number: int, value: bytes) -> Iterator[Run]:
        if len(value) % _NUMBER.size:
            raise self._wrong(number, "has a list of free pages that is cut off")
        pages = array("Q", value)
        if not pages or pages.pop(0) != len(pages):
            raise self._wrong(number, "has a list of free pages of another length than it says")
        if pages and not _FIRST_PAGE <= min(pages) <= max(pages) <= self._last_page:
            raise self._wrong(number, "lists free pages that the file does not have")
        pages.reverse()
        return _joined(pages)

    def _page(self, number: int) -> tuple[bytes, bool]:
        """Return a page of a tree, and whether it is a leaf."""
        page = self._read(number, 1)
        stated, _, kind, _, _ = PAGE_HEADER.unpack_from(page)
        if stated != number or kind not in (_BRANCH, _LEAF):
            raise self._wrong(number, f"says it is page {stated} of kind {kind:#x}")
        return page, kind == _LEAF

    def _nodes(self, number: int, page: bytes) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield of each node where its key begins, the key's length, and the three numbers before it."""
        _, _, _, lower, upper = PAGE_HEADER.unpack_from(page)
        if not PAGE_HEADER.size <= lower <= upper <= self._page_bytes or (lower - PAGE_HEADER.size) % 2:
            raise self._wrong(number, "has impossible bounds")
        for place in range(PAGE_HEADER.size, lower, _POINTER.size):
            (at,) = _POINTER.unpack_from(page, place)
            if not upper <= at <= self._page_bytes - _NODE.size:
                raise self._wrong(number, "has a node outside")
            low, high, flags, key_bytes = _NODE.unpack_from(page, at)
            if at + _NODE.size + key_bytes > self._page_bytes:
                raise self._wrong(number, "has a key outside")
            yield at + _NODE.size, key_bytes, low, high, flags

    def _below(self, number: int, page: bytes) -> Iterator[int]:
        for _, _, low, high, highest in self._nodes(number, page):
            yield self._checked(number, low | high << 16 | highest << 32, 1)

    def _leaf_nodes(self, number: int, page: bytes) -> Iterator[tuple[bytes, int, int, int]]:
        """Yield of each node its key, its flags, the length of its value and where that begins."""
        for at, key_bytes, low, high, flags in self._nodes(number, page):
            length, value = low | high << 16, at + key_bytes
            if flags & ~_IN_OVERFLOW:
                raise self._wrong(number, f"has a node with flags {flags:#x}")
            if value + (_NUMBER.size if flags else length) > self._page_bytes:
                raise self._wrong(number, "has a value outside")
            yield page[at:value], flags, length, value

    def _overflow(self, number: int, page: bytes, at: int, length: int) -> tuple[int, int]:
        count = (PAGE_HEADER.size - 1 + length) // self._page_bytes + 1
        return self._checked(number, _NUMBER.unpack_from(page, at)[0], count), count

    def _checked(self, number: int, first: int, count: int) -> int:
        if not _FIRST_PAGE <= first <= first + count - 1 <= self._last_page:
            raise self._wrong(number, f"leads to page {first}, which the file does not have")
        return first

    def _read(self, number: int, count: int) -> bytes:
        length = count * self._page_bytes
        data = os.pread(self._descriptor, length, number * self._page_bytes)
        if len(data) != length:
            raise self._wrong(number, "is cut off")
        return data

    def _wrong(self, number: int, what: str) -> CorruptError:
        return CorruptError(f"{self._path}: page {number} {what}", hint=_FSCK)


def _joined(pages: Iterable[int]) -> Iterator[Run]:
    """Yield the runs in a rising sequence of pages.

    >>> list(_joined([4, 5, 9]))
    [Run(first=4, length=2), Run(first=9, length=1)]
    """
    first = count = 0
    for page in pages:
        if count and page == first + count:
            count += 1
            continue
        if count:
            yield Run(first, count)
        first, count = page, 1
    if count:
        yield Run(first, count)
