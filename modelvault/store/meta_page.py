"""The two meta pages at the head of an LMDB file, read with plain reads.

LMDB maps its file, and touching a mapped page that the file does not have kills the process with SIGBUS: no handler,
no message. So before a file is mapped its meta pages are read here, and the file's length is held against what the
newer of them counts on. Nothing here maps anything or calls LMDB; what the trees below hold is not looked at.

The layout is that of LMDB 0.9 (data version 1) on a 64-bit machine, in the machine's byte order: a page header of 16
bytes, then `MDB_meta`: magic, version, address, map size, two `MDB_db` of 48 bytes (free pages, then the main tree),
the last page number and the transaction's number. The first `MDB_db` begins with the page size. Transaction N writes
meta page N modulo 2, so the two numbers differ by one (in a new file both are 0).
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import NamedTuple

from modelvault.errors import CorruptError

MAGIC = 0xBEEFC0DE
DATA_VERSION = 1

PAGE_HEADER = struct.Struct("=QHHHH")  # page number, pad, flags, lower, upper
_META = struct.Struct("=IIQQ 48s48s QQ")  # magic, version, address, map size, two trees, last page, transaction
_TREE = struct.Struct("=IHHQQQQQ")  # pad, flags, depth, branch, leaf and overflow pages, entries, root
_IS_META = 0x08
_SMALLEST_PAGE, _LARGEST_PAGE = 512, 32768
NO_PAGE = 2**64 - 1
_DEEPEST_TREE = 32

_ATTEMPTS = 5
_PAUSE = 0.005


class MetaPage(NamedTuple):
    """What one meta page says: the file's page size, its last page, the transaction that wrote this, and the roots of
    its two trees, free pages and entries (`NO_PAGE`: empty)."""

    page_bytes: int
    last_page: int
    transaction: int
    free_root: int
    main_root: int

    @property
    def file_bytes(self) -> int:
        """How long a file is that holds every page up to the last."""
        return (self.last_page + 1) * self.page_bytes


def read_meta_page(path: Path) -> MetaPage:
    """Return the newer of a data file's two meta pages, after checking both; see `read_meta_pages`."""
    return read_meta_pages(path)[0]


def read_meta_pages(path: Path) -> tuple[MetaPage, MetaPage]:
    """Return a data file's two meta pages, the newer one first.

    Raises:
        CorruptError: the file is too short, is none of LMDB's, or its meta pages cannot both be right.
        OSError: it cannot be read.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return _read(path)
        except CorruptError:
            # A writer may have replaced a page, or both, while we read: what is truly wrong is wrong again.
            if attempt == _ATTEMPTS - 1:
                raise
        time.sleep(_PAUSE)
    raise AssertionError("the last attempt returns or raises")


def _read(path: Path) -> tuple[MetaPage, MetaPage]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = os.pread(descriptor, 2 * 4096, 0)
        page_bytes = _page_bytes(path, head)
        if page_bytes != 4096:
            head = os.pread(descriptor, 2 * page_bytes, 0)
    finally:
        os.close(descriptor)
    if len(head) < page_bytes + PAGE_HEADER.size + _META.size:
        raise CorruptError(f"{path} has {len(head)} bytes, too few for its two meta pages of {page_bytes}")
    pages = [_parse(path, slot, head[slot * page_bytes :]) for slot in (0, 1)]
    if pages[1].page_bytes != page_bytes:
        raise CorruptError(f"{path}: the meta pages disagree on the page size")
    if abs(pages[0].transaction - pages[1].transaction) > 1:
        raise CorruptError(
            f"{path}: the meta pages are of transactions {pages[0].transaction} and {pages[1].transaction},"
            " expected neighbours"
        )
    older, newer = sorted(pages, key=lambda page: page.transaction)
    return newer, older


def _page_bytes(path: Path, head: bytes) -> int:
    if len(head) < PAGE_HEADER.size + _META.size:
        raise CorruptError(f"{path} has {len(head)} bytes, too few for an LMDB file")
    magic, _, _, _, tree, *_ = _META.unpack_from(head, PAGE_HEADER.size)
    if magic != MAGIC:
        raise CorruptError(f"{path} is no LMDB file: magic number {magic:08x}, expected {MAGIC:08x}")
    page_bytes: int = _TREE.unpack(tree)[0]
    if page_bytes & (page_bytes - 1) or not _SMALLEST_PAGE <= page_bytes <= _LARGEST_PAGE:
        raise CorruptError(f"{path}: a page size of {page_bytes} bytes cannot be")
    return page_bytes


def _parse(path: Path, slot: int, page: bytes) -> MetaPage:
    number, _, flags, _, _ = PAGE_HEADER.unpack_from(page)
    magic, version, _, _, free, main, last_page, transaction = _META.unpack_from(page, PAGE_HEADER.size)
    if magic != MAGIC or flags & _IS_META == 0 or number != slot:
        raise CorruptError(f"{path}: meta page {slot} is none")
    if version != DATA_VERSION:
        raise CorruptError(f"{path}: LMDB data version {version}, expected {DATA_VERSION}")
    if transaction and transaction % 2 != slot:
        raise CorruptError(f"{path}: meta page {slot} claims transaction {transaction}")
    if last_page < 1:
        raise CorruptError(f"{path}: meta page {slot} counts {last_page + 1} pages")
    roots: list[int] = []
    for tree in (free, main):
        _, _, depth, _, _, _, _, root = _TREE.unpack(tree)
        roots.append(root)
        if depth > _DEEPEST_TREE or not (root == NO_PAGE or 2 <= root <= last_page):
            raise CorruptError(f"{path}: meta page {slot} has a tree of depth {depth} at page {root}")
    page_bytes = _TREE.unpack(free)[0]
    return MetaPage(page_bytes, last_page, transaction, *roots)
