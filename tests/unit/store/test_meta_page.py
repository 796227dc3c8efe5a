"""Are the meta pages read as LMDB reads them?"""

from __future__ import annotations

from pathlib import Path

import lmdb
import pytest

from modelvault.errors import CorruptError
from modelvault.store.meta_page import read_meta_page


def write(directory: Path, transactions: int) -> lmdb.Environment:
    environment = lmdb.open(str(directory), map_size=1 << 30)
    for number in range(transactions):
        with environment.begin(write=True) as transaction:
            transaction.put(b"%d" % number, bytes(10_000 * number))
    return environment


@pytest.mark.parametrize("transactions", range(6))
def test_they_say_what_lmdb_says(tmp_path: Path, transactions: int) -> None:
    environment = write(tmp_path, transactions)
    info, page_bytes = environment.info(), environment.stat()["psize"]
    meta = read_meta_page(tmp_path / "data.mdb")
    assert (meta.page_bytes, meta.last_page, meta.transaction) == (page_bytes, info["last_pgno"], info["last_txnid"])
    assert meta.file_bytes == (tmp_path / "data.mdb").stat().st_size
    environment.close()


def test_a_compacted_copy_is_read(tmp_path: Path) -> None:
    environment = write(tmp_path, 7)
    (tmp_path / "copy").mkdir()
    environment.copy(str(tmp_path / "copy"), compact=True)
    environment.close()
    meta = read_meta_page(tmp_path / "copy" / "data.mdb")
    assert meta.file_bytes == (tmp_path / "copy" / "data.mdb").stat().st_size


def test_the_other_format_of_lmdb_is_refused(tmp_path: Path) -> None:
    if "lib_version" not in (lmdb.Environment.__doc__ or "lib_version"):
        pytest.skip("this lmdb writes one format only")
    lmdb.open(str(tmp_path), lib_version=1).close()
    with pytest.raises(CorruptError, match="no LMDB file"):
        read_meta_page(tmp_path / "data.mdb")


def test_numbers_that_are_no_neighbours_are_refused(tmp_path: Path) -> None:
    """A meta page whose number was flipped could make LMDB take the older state, whose pages are in use again."""
    write(tmp_path, 6).close()
    file = tmp_path / "data.mdb"
    data = bytearray(file.read_bytes())
    transaction = 16 + 24 + 96 + 8
    data[transaction + 1] ^= 0x10
    file.write_bytes(data)
    with pytest.raises(CorruptError, match="neighbours"):
        read_meta_page(file)
