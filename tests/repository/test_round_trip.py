"""Do the bytes come back, whatever they are?"""

from __future__ import annotations

import json
import random
import stat
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from modelvault.checkpoint import FileSource, read_layout, understood_share
from modelvault.errors import InputError
from modelvault.repository.checkout import checkout
from modelvault.repository.commit import Request, make_commit
from modelvault.repository.repository import Repository
from modelvault.repository.revisions import Resolved
from tests.unit.checkpoint.archives import FIXTURE_FILES, Member, archive, checkpoint_members, tensor_pickle

from .networks import Run, noise
from .vaults import commit, contents_of, files_of, fsck, new_vault

ODD_FILES: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"\0",
    "text": b"learning rate: 0.1\n" * 40,
    "zeros of a megabyte and more": bytes((1 << 20) + 1),
    "noise of 5 MB": noise(5_000_000),
    "a chunk and a byte short of it": noise((1 << 20) - 1, seed=1),
    "an opaque run with a short tail": noise((1 << 20) + 1_000, seed=2),
    "zip magic only": b"PK\x03\x04",
    "a stray pickle": b"\x80\x02}q\x00.",
}


def round_trip(repository: Repository, files: dict[str, bytes]) -> None:
    done = commit(repository, files)
    assert files_of(repository, done.commit_id) == files
    again = commit(repository, files)
    assert again.unchanged
    assert files_of(repository, again.commit_id) == files
    fsck(repository)


def test_files_of_every_kind_come_back(vault: Repository) -> None:
    round_trip(vault, ODD_FILES)


def test_every_fixture_comes_back(vault: Repository) -> None:
    round_trip(vault, {path.name: path.read_bytes() for path in FIXTURE_FILES})


def test_names_with_blanks_and_letters_of_all_kinds(vault: Repository) -> None:
    round_trip(vault, {"a file": b"1", "\u00fcn/\u4e2d\u6587.pt": b"2", "-m": b"3", "deep/er/and/er": b"4", "'": b"5"})


SAFETENSORS = [
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64",
]  # fmt: skip


def test_safetensors_of_every_dtype(vault: Repository) -> None:
    """Bits are random: not-a-numbers, infinities and denormals among them."""
    generator = np.random.default_rng(5)
    tensors = {
        name: (generator.integers(0, 2, 40_000).astype(bool) if name == "bool" else bits_of(generator, name))
        for name in SAFETENSORS
    }
    data = safetensors.numpy.save({**tensors, "scalar": np.ones((), np.float32), "none": np.zeros((0, 3))})
    round_trip(vault, {"model.safetensors": data})
    done = commit(vault, {"model.safetensors": data})
    found = contents_of(vault, done.commit_id)["model.safetensors"]
    assert found.format == "safetensors"
    assert found.understood_share > 0.99


def bits_of(generator: np.random.Generator, name: str) -> np.ndarray[Any, Any]:
    dtype = np.dtype(name)
    return np.frombuffer(generator.bytes(40_000 * dtype.itemsize), dtype)


def test_safetensors_of_dtypes_that_numpy_lacks(vault: Repository) -> None:
    header: dict[str, object] = {}
    at = 0
    for tag, size in (("BF16", 2), ("F8_E4M3", 1), ("F8_E5M2", 1), ("F8_E8M0", 1)):
        header[tag] = {"dtype": tag, "shape": [50_000], "data_offsets": [at, at + 50_000 * size]}
        at += 50_000 * size
    text = json.dumps(header).encode()
    round_trip(vault, {"model.safetensors": struct.pack("<Q", len(text)) + text + noise(at)})


def test_truncated_and_flipped_fixtures_come_back(vault: Repository) -> None:
    generator = random.Random(7)
    files: dict[str, bytes] = {}
    for path in FIXTURE_FILES:
        data = path.read_bytes()
        files[f"short-{path.name}"] = data[: generator.randrange(len(data))]
        for turn in range(3):
            damaged = bytearray(data)
            for _ in range(turn + 1):
                damaged[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
            files[f"flipped-{turn}-{path.name}"] = bytes(damaged)
    done = commit(vault, files)
    assert files_of(vault, done.commit_id) == files


def test_a_zip64_archive_comes_back(vault: Repository) -> None:
    pickled = tensor_pickle(("a", "FloatStorage", "0", (30_000,)), ("b", "FloatStorage", "1", (30_000,)))
    storages = [Member(f"run/data/{key}", noise(120_000, seed=key), zip64=True) for key in range(2)]
    data = archive(checkpoint_members(pickled, *storages), zip64=True)
    round_trip(vault, {"model.pt": data})
    done = commit(vault, {"model.pt": data})
    assert contents_of(vault, done.commit_id)["model.pt"].understood_share > 0.98


@pytest.mark.parametrize("path", FIXTURE_FILES, ids=lambda path: path.name)
def test_the_share_that_is_understood_is_what_tensors_take(path: Path, tmp_path: Path) -> None:
    with FileSource(path) as source:
        expected = understood_share(read_layout(source))
    repository = new_vault(tmp_path / "run", "memory")
    done = commit(repository, {path.name: path.read_bytes()})
    assert contents_of(repository, done.commit_id)[path.name].understood_share == pytest.approx(expected)


def test_a_network_is_understood_nearly_whole(vault: Repository) -> None:
    run = Run({"conv.weight": 40_000, "fc.weight": 100_000, "norm.bias": 64})
    done = commit(vault, run.file())
    found = contents_of(vault, done.commit_id)["model.pt"]
    assert (found.format, found.segments, found.tensors) == ("torch-zip", 3, 3)
    assert found.understood_share > 0.99


def test_checkout_writes_what_was_committed(disk_vault: Repository) -> None:
    files = {"model.pt": Run({"w": 50_000}).file(), "sub/run.sh": b"#!/bin/sh\n", "empty": b""}
    plain = commit(disk_vault, files)
    (disk_vault.root / "sub" / "run.sh").chmod(0o755)
    done = make_commit(disk_vault, Request([disk_vault.root / name for name in files], "it can be run now"))
    assert not done.unchanged
    for name in files:
        (disk_vault.root / name).unlink()
    (disk_vault.root / "sub").rmdir()
    checkout(disk_vault, Resolved(done.commit_id))
    for name, data in files.items():
        assert (disk_vault.root / name).read_bytes() == data
    assert (disk_vault.root / "sub" / "run.sh").stat().st_mode & stat.S_IXUSR
    assert not (disk_vault.root / "model.pt").stat().st_mode & stat.S_IXUSR
    assert sorted(path.name for path in disk_vault.root.iterdir()) == [".modelvault", "empty", "model.pt", "sub"]
    checkout(disk_vault, Resolved(plain.commit_id))
    assert (disk_vault.root / "sub" / "run.sh").read_bytes() == files["sub/run.sh"]


def test_directories_give_all_below_them_but_no_vault(disk_vault: Repository) -> None:
    for name in ("b/2", "b/1", "a", ".hidden", ".git/config"):
        path = disk_vault.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    done = make_commit(disk_vault, Request([disk_vault.root], "all"))
    assert list(files_of(disk_vault, done.commit_id)) == [".hidden", "a", "b/1", "b/2"]


def test_a_link_to_a_file_is_followed(disk_vault: Repository, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"cached weights")
    (disk_vault.root / "model.pt").symlink_to(tmp_path / "cache")
    done = make_commit(disk_vault, Request([disk_vault.root / "model.pt"], "linked"))
    assert files_of(disk_vault, done.commit_id) == {"model.pt": b"cached weights"}
    assert done.outside == ()


def test_a_file_outside_the_root_goes_by_its_bare_name(disk_vault: Repository, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere.pt"
    outside.write_bytes(b"weights")
    done = make_commit(disk_vault, Request([outside], "from elsewhere"))
    assert files_of(disk_vault, done.commit_id) == {"elsewhere.pt": b"weights"}
    assert done.outside == (str(outside),)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "elsewhere.pt").write_bytes(b"others")
    with pytest.raises(InputError, match="both be recorded"):
        make_commit(disk_vault, Request([outside, tmp_path / "other" / "elsewhere.pt"], "both"))


@given(st.lists(st.binary(max_size=2_000), max_size=4), st.binary(max_size=300))
def test_arbitrary_bytes_come_back(datas: list[bytes], head: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        repository = new_vault(Path(directory, "run"), "memory")
        files = {f"{number}.pt": data for number, data in enumerate([*datas, b"PK\x03\x04" + head])}
        done = commit(repository, files)
        assert files_of(repository, done.commit_id) == files
