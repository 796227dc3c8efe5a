"""Is docs/format/bundle.md what the code writes, and enough to write a second reader from?"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from blake3 import blake3

import modelvault
from modelvault.objects import bundle
from modelvault.objects.bundle import Bundle, SentCommit, SentFile
from modelvault.objects.template import Template
from tests.unit.codec.plain_decoder import decode

from .pages import ROOT, vectors
from .plain_reader import CHUNK, DELTAS, Fields, Vault, unpacked
from .test_format_page import ONE
from .test_second_reader import FIXTURES, weights

PAGE = ROOT / "docs" / "format" / "bundle.md"


def test_the_example() -> None:
    template = Template("opaque", b"", (), (), (), b"abc").to_bytes()
    file = SentFile(ONE.files[0].file_id, 3, 0, b"", ())
    whole = Bundle((template,), (), (), (), (file,), (SentCommit(ONE.to_bytes(), 0),), (("heads/main", 0),))
    assert whole.to_bytes() == vectors(PAGE)["index"]
    assert Bundle.from_bytes(vectors(PAGE)["index"]) == whole
    text = PAGE.read_text()
    assert f"`{bundle.MAGIC.hex(' ')}`" in text
    assert f"version of the bundle: {bundle.VERSION}" in text


class PlainBundle:
    """A second reader, written from the page: gives the files of the tip."""

    def __init__(self, path: Path, base: dict[str, bytes]) -> None:
        data = path.read_bytes()
        assert data[:9] == b"\x89MVB\r\n\x1a\n\x01"
        assert hashlib.sha256(data[:-32]).digest() == data[-32:]
        length = int.from_bytes(data[-40:-32], "little")
        fields = Fields(unpacked(data[-40 - length : -40]))
        self.templates = [fields.blob() for _ in range(fields.uint())]
        bases = []
        for _ in range(fields.uint()):
            name, digest, _, template = fields.blob().decode(), fields.take(32), fields.uint(), fields.uint()
            assert hashlib.sha256(base[name]).digest() == digest
            bases.append(slots(Fields(self.templates[template]), fields.blob(), base[name]))
        self.tensors = [b""]
        for _ in range(fields.uint()):
            tensor_id, size, file, slot = fields.take(32), fields.uint(), fields.uint(), fields.uint()
            self.add(tensor_id, size, bases[file][slot])
        self.given = len(self.tensors) - 1
        at = 9
        for _ in range(fields.uint()):
            tensor_id, size, parameters, leans_on = fields.take(32), fields.uint(), fields.blob(), fields.uint()
            raw = b""
            for place in range(-(-size // CHUNK)):
                end = at + fields.uint()
                below = self.tensors[leans_on][place * CHUNK :][:CHUNK]
                references = [below] if data[at] in DELTAS else []
                raw += decode(data[at:end], min(CHUNK, size - place * CHUNK), parameters, references)
                at = end
            self.add(tensor_id, size, raw)
        assert at == len(data) - 40 - length
        self.files: dict[bytes, bytes] = {}
        for _ in range(fields.uint()):
            digest, size, template, stem = fields.take(32), fields.uint(), fields.uint(), fields.blob()
            count = len(slots(Fields(self.templates[template]), stem, bytes(size)))
            found = [self.tensors[fields.uint()] for _ in range(count)]
            out = Vault.assembled(Fields(self.templates[template]), stem, found)
            assert len(out) == size and hashlib.sha256(out).digest() == digest
            self.files[digest] = out
        self.commits = []
        for _ in range(fields.uint()):
            self.commits.append(fields.blob())
            assert fields.uint() in (0, 2)
        self.refs = [(fields.blob().decode(), fields.uint()) for _ in range(fields.uint())]
        assert fields.rest() == b""

    def add(self, tensor_id: bytes, size: int, raw: bytes) -> None:
        assert len(raw) == size
        assert blake3(raw, derive_key_context="modelvault 2026-11 tensor id v1").digest() == tensor_id
        self.tensors.append(raw)

    def tip(self) -> dict[str, bytes]:
        fields = Fields(self.commits[-1])
        fields.take(1)
        [fields.take(32) for _ in range(fields.uint())]
        fields.sint(), fields.sint(), fields.blob(), fields.blob()
        found = {}
        for _ in range(fields.uint()):
            name, _ = fields.blob().decode(), fields.uint()
            found[name] = self.files[fields.take(32)]
        return found


def slots(fields: Fields, stem: bytes, data: bytes) -> list[bytes]:
    """Return what fills a template's slots in a file."""
    fields.blob()
    kinds = fields.blob()
    gaps = [fields.uint() for _ in kinds]
    count = kinds.count(0)
    lengths, of_slot = ([fields.uint() for _ in range(count)] for _ in range(2))
    found, at, segment = [b""] * (max(of_slot, default=-1) + 1), 0, 0
    for kind, gap in zip(kinds, gaps, strict=True):
        at += gap
        if kind == 0:
            found[of_slot[segment]] += data[at : at + lengths[segment]]
            at += lengths[segment]
            segment += 1
        at += len(stem) if kind == 1 else 4 if kind == 2 else 0
    return found


@pytest.mark.parametrize("range_", ["main", "main~2..main"])
def test_a_second_reader_rebuilds_the_tip(tmp_path: Path, range_: str) -> None:
    vault = modelvault.open(tmp_path / "run", create=True)
    names = ["state-dict.pt", "adamw-checkpoint.pt", "sgd-momentum.pt", "sgd-momentum.pt"]
    history = []
    for step, name in enumerate(names):
        files = {"w.safetensors": weights(step), "model.pt": (FIXTURES / name).read_bytes(), "notes.bin": b"n" * step}
        for path, data in files.items():
            (vault.root / path).write_bytes(data)
        vault.commit([vault.root / path for path in files], message=f"epoch {step}", tag=f"e{step}")
        history.append(files)
    vault.bundle(range_, tmp_path / "made.mvb")
    read = PlainBundle(tmp_path / "made.mvb", history[1] if ".." in range_ else {})
    assert read.tip() == history[-1]
    assert ("heads/main", len(read.commits) - 1) in read.refs
    assert (read.given > 0) == (".." in range_)
