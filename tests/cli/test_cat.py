"""Does `cat` write exactly one tensor, in a form that others read, and nothing of a damaged one?"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modelvault.errors import CorruptError
from modelvault.repository import history
from modelvault.repository.chunks import ChunkReader
from modelvault.repository.export import Format, export
from modelvault.repository.inventory import FileTensor, find, read_inventory
from modelvault.repository.repository import Repository, open_repository
from modelvault.repository.revisions import resolve
from modelvault.tensors import DType
from tests.unit.checkpoint.archives import FIXTURES

from .terminal import done, run, weights, write

ROOT = Path(__file__).parents[2]


def cat(*words: str) -> bytes:
    command = [sys.executable, "-m", "modelvault", "cat", *words]
    return subprocess.run(command, capture_output=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}).stdout


def tensor_of(wanted: str) -> tuple[Repository, FileTensor]:
    repository = open_repository(Path())
    with repository.store.read() as txn:
        files = history.read_commit(txn, resolve(txn, "HEAD", repository.config).commit_id).files
        return repository, find([read_inventory(txn, entry) for entry in files], wanted)[1]


def exported(wanted: str, form: Format) -> bytes:
    return b"".join(export(*tensor_of(wanted), form))


@pytest.fixture
def model(vault: Path) -> Path:
    write("model.safetensors", weights(large=300_000) | {"half": np.array([0x3F80, 0x7FC0], "u2")})
    done("commit", "model.safetensors", "-m", "epoch 1", "--step", "40")
    return vault


@pytest.mark.parametrize("name", ["layer.weight", "norm.weight", "steps"])
def test_numpy_reads_what_was_committed(model: Path, name: str) -> None:
    expected = weights(large=300_000)[name]
    found = np.load(io.BytesIO(exported(name, "npy")))
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert exported(name, "raw") == expected.tobytes()
    assert json.loads(exported(name, "json"))["values"] == expected.reshape(-1).tolist()


def test_bfloat16_is_float32_in_an_npy_file(model: Path) -> None:
    found = np.load(io.BytesIO(exported("half", "npy")))
    assert found.dtype == np.float32
    assert np.array_equal(found, np.array([1, np.nan]), equal_nan=True)
    assert json.loads(exported("half", "json"))["values"] == [1.0, None]


def test_every_dtype_has_an_npy_and_a_json_form(vault: Path) -> None:
    file = FIXTURES / "every-dtype.safetensors"
    done("commit", str(file), "-m", "one")
    repository = open_repository(vault)
    with repository.store.read() as txn:
        (entry,) = history.read_commit(txn, resolve(txn, "HEAD", repository.config).commit_id).files
        tensors = read_inventory(txn, entry).tensors
    assert len({tensor.dtype for tensor in tensors}) > 10
    for tensor in tensors:
        found = np.load(io.BytesIO(b"".join(export(repository, tensor, "npy"))))
        values = json.loads(b"".join(export(repository, tensor, "json")))["values"]
        assert found.size == len(values) == tensor.elements, tensor


def test_the_command_writes_to_stdout(model: Path) -> None:
    assert cat("HEAD:steps", "--format", "raw") == (7).to_bytes(8, "little")
    assert cat("step:40:model.safetensors:steps", "--format", "raw") == (7).to_bytes(8, "little")
    found = json.loads(cat("epoch-1:steps", "--json"))
    assert found == {
        "schema": "modelvault.cat/1",
        "name": "steps",
        "dtype": "I64",
        "shape": [1],
        "part": "weights",
        "values": [7],
    }


def test_a_name_in_several_files_needs_the_file(vault: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        write(name, weights(seed))
    done("commit", "a", "b", "-m", "one")
    said = run("cat", "HEAD:norm.weight")
    assert said.code == 1
    assert "one of a:norm.weight, b:norm.weight" in said.err
    assert exported("b:norm.weight", "raw") == weights(1)["norm.weight"].tobytes()


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("HEAD:layer.wieght", 1, "did you mean layer.weight"),
        ("HEAD:zzz", 1, "modelvault ls"),
        ("HEAD", 2, "REV:TENSOR is wanted"),
        ("step:40", 2, "REV:TENSOR is wanted"),
        ("nowhere:steps", 13, "no commit answers to 'nowhere'"),
    ],
)
def test_what_is_not_there_is_said(model: Path, name: str, code: int, text: str) -> None:
    said = run("cat", name)
    assert (said.code, said.out) == (code, "")
    assert text in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize("name", ["layer.weight", "norm.weight"])
def test_nothing_of_a_damaged_tensor_is_written(model: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = ChunkReader.chunk

    def damaged(reader: ChunkReader, number: int, place: int) -> bytes:
        return bytes(1) + chunk(reader, number, place)[1:]

    monkeypatch.setattr(ChunkReader, "chunk", damaged)
    with pytest.raises(CorruptError, match="do not match its id"):
        next(export(*tensor_of(name), "raw"))


def test_hints_that_do_not_fit_are_dropped(model: Path) -> None:
    repository, tensor = tensor_of("steps")
    wrong = tensor._replace(dtype=DType.F32, shape=(3,))
    assert np.load(io.BytesIO(b"".join(export(repository, wrong, "npy")))).tolist() == [7, 0, 0, 0, 0, 0, 0, 0]
