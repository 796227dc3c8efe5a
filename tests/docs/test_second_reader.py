"""Can a program that was written from docs/format alone read what we write?"""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest

import modelvault

from .pages import ROOT
from .plain_reader import Fields, Vault, unpacked, unsealed

FIXTURES = ROOT / "tests" / "fixtures" / "torch-2.13"


def weights(step: int) -> bytes:
    """Return a safetensors file whose floats and metadata differ a little at every step, and most bytes do not."""
    rng, drift = random.Random(1), random.Random(step)
    layout = {"w": 20_000} | {f"layers.{number}.norm.weight": 16 for number in range(60)}
    data, header = b"", dict[str, object](__metadata__={"epoch": str(step)})
    for name, count in layout.items():
        values = [rng.gauss(0, 1) + step * 1e-4 * drift.random() for _ in range(count)]
        begin, data = len(data), data + struct.pack(f"<{count}f", *values)
        header[name] = {"dtype": "F32", "shape": [count], "data_offsets": [begin, len(data)]}
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + data


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, bytes]]]:
    """Return a vault's directory and the files of each of its commits."""
    root = tmp_path_factory.mktemp("vault")
    opened = modelvault.open(root, create=True)
    history = [
        {"w.safetensors": weights(step), "model.pt": (FIXTURES / name).read_bytes(), "notes.bin": b"n" * step}
        for step, name in enumerate(["state-dict.pt", "adamw-checkpoint.pt", "sgd-momentum.pt", "sgd-momentum.pt"])
    ]
    for step, files in enumerate(history):
        for path, data in files.items():
            (root / path).write_bytes(data)
        opened.commit([root / path for path in files], message=f"epoch {step}", step=step)
    return root / ".modelvault", history


def test_every_file_of_every_commit_comes_back(vault: tuple[Path, list[dict[str, bytes]]]) -> None:
    directory, history = vault
    reader = Vault(directory)
    commit_id = reader.tip()
    for step, files in reversed(list(enumerate(history))):
        parents, message, found = reader.commit(commit_id)
        assert message == f"epoch {step}"
        assert {file.path: reader.file(file) for file in found} == files
        commit_id = parents[0] if parents else b""
    assert commit_id == b""


def test_the_vault_has_what_there_is_to_read(vault: tuple[Path, list[dict[str, bytes]]]) -> None:
    """A reader that never met a delta, a patch, a group or a checksum would prove little."""
    reader = Vault(vault[0])
    bases, patches, events = 0, 0, set[int]()
    for key, value in reader.entries.items():
        if key[0] == 6:
            fields = Fields(unsealed(value, 2))
            fields.take(32), fields.uint(), fields.blob()
            bases += fields.uint() > 0
        elif key[0] == 4:
            fields = Fields(unsealed(value, 3, key[1:]))
            fields.uint(), fields.uint()
            patches += fields.blob() != b""
        elif key[0] == 5:
            fields = Fields(unpacked(unsealed(value, 7)))
            fields.blob()
            events |= set(fields.blob())
    assert bases > 0
    assert patches > 0
    assert events == {0, 1, 2, 3, 4}
