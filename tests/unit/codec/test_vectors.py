"""Do the golden vectors still decode to the bytes they were made from, here and in a decoder written from the page?"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from modelvault.codec import Parameters, decode_chunk, is_delta, unpack
from modelvault.codec.table import BY_ID, TABLE, Codec
from modelvault.tensors import DType

from . import plain_decoder

ROOT = Path(__file__).parents[3]
VECTORS = ROOT / "tests" / "vectors" / "v1"
PAGE = (ROOT / "docs" / "format" / "codecs.md").read_text()

MANIFEST_SHA256 = "e0894c01d71c1d8e3cce48f0e3e7700e4ac5385d030a2a966a64cef5ea77fc84"
"""Of codec-manifest.json as published. It changes only when vectors are added."""

RANS_CASES = {
    "residual-rans": [
        "previous",
        "scaled",
        "decayed",
        "two",
        "step",
        "square",
        "terms",
        "four",
        "special",
        "shifted",
        "blank",
    ],
    "levels-rans": ["weights", "special", "shifted", "blank"],
}

PIECES_CASES = ["together-weights", "together-special", "rows-weights", "rows-special"]

STRIDES_CASES = ["whole", "halves", "special", "exact"]

FACTORS_CASES = ["one", "several", "largest", "within", "special", "exact"]

STEPS_CASES = ["doubling-weights", "doubling-special", "doubling-blank"]


OF_FORMATS = ("pieces", "pieces-delta", "low-rank", "low-rank-delta")


def has_vectors(codec: Codec, dtype: DType) -> bool:
    if codec.name == "strides-delta":
        return plain_decoder.FORMATS.get(dtype.code) == "f32"
    return codec.name not in (*RANS_CASES, *OF_FORMATS) or dtype.code in plain_decoder.FORMATS


NAMES = [
    f"codec-{codec.name}-{dtype.name.lower()}.json" for codec in TABLE for dtype in DType if has_vectors(codec, dtype)
]
NAMES += [name.replace("-delta-", "-delta-even-") for name in NAMES if "strides" in name]


def blocks(kind: str) -> list[dict[str, bytes]]:
    """Return the page's worked examples: fields of hex bytes, `x 40` repeating them; `size` stays decimal text."""
    found = []
    for block in PAGE.split(f"```{kind}\n")[1:]:
        fields, name = dict[str, str](), ""
        for line in block.split("```")[0].splitlines():
            name = line[:12].strip() or name
            fields[name] = f"{fields.get(name, '')} {line[12:]}"
        found.append({key: value_of(key, text) for key, text in fields.items()})
    return found


def value_of(name: str, text: str) -> bytes:
    if name == "size":
        return text.strip().encode()
    digits, _, times = text.partition("x")
    return bytes.fromhex(digits) * int(times or 1)


def test_the_manifest_is_the_published_one() -> None:
    assert hashlib.sha256((VECTORS / "codec-manifest.json").read_bytes()).hexdigest() == MANIFEST_SHA256


def test_every_vector_is_there_and_none_was_changed() -> None:
    manifest = json.loads((VECTORS / "codec-manifest.json").read_bytes())
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VECTORS.glob("codec-*.json")
        if path.name != "codec-manifest.json"
    }
    assert found == manifest
    assert set(found) == set(NAMES), "each codec and dtype has its vectors; run scripts/make-vectors for new ones"


@pytest.mark.parametrize("name", NAMES)
def test_vectors_decode(name: str) -> None:
    cases: list[dict[str, Any]] = json.loads((VECTORS / name).read_bytes())
    expected = ["special-1", "special-5", "walk-and-tail", "tail-only"]
    for codec, names in RANS_CASES.items():
        if name.startswith(f"codec-{codec}-"):
            expected = names
    if name.startswith("codec-pieces-"):
        expected = PIECES_CASES
    if name.startswith("codec-low-rank-"):
        expected = FACTORS_CASES
    if name.startswith("codec-strides-delta-"):
        expected = STRIDES_CASES
    if name.startswith("codec-steps-delta-"):
        expected += STEPS_CASES if int(cases[0]["parameters"][:2], 16) in plain_decoder.FORMATS else []
    assert [case["case"] for case in cases] == expected
    for case in cases:
        frame, parameters = bytes.fromhex(case["frame"]), bytes.fromhex(case["parameters"])
        references = [bytes.fromhex(reference) for reference in case["references"]]
        assert name.startswith(f"codec-{BY_ID[frame[0]].name}-")
        ours = decode_chunk(frame, case["size"], Parameters.from_bytes(parameters), references)
        assert hashlib.sha256(ours).hexdigest() == case["sha256"], case["case"]
        assert plain_decoder.decode(frame, case["size"], parameters, references) == ours


def test_compressed_planes_are_among_the_vectors() -> None:
    for name in NAMES:
        if "planes" in name:
            frames = [bytes.fromhex(case["frame"]) for case in json.loads((VECTORS / name).read_bytes())]
            assert any(frame[5] for frame in frames), name


def test_worked_examples_of_the_page() -> None:
    examples = blocks("vector")
    assert {example["frame"][0] for example in examples} == set(BY_ID)
    for example in examples:
        frame, size = example["frame"], int(example["size"])
        references = [example["reference"]] if "reference" in example else []
        assert is_delta(frame) == bool(references)
        parameters = example["parameters"]
        assert plain_decoder.decode(frame, size, parameters, references) == example["decoded"]
        assert decode_chunk(frame, size, Parameters.from_bytes(parameters), references) == example["decoded"]
    (packed,) = blocks("packed")
    assert unpack(packed["packed"], len(packed["record"]), packed["dictionary"]) == packed["record"]


def test_the_tables_of_the_page_are_those_of_the_code() -> None:
    for codec in TABLE:
        kind = "delta" if codec.needs_reference else "keyframe"
        assert f"| {codec.id} | `{codec.name}` | {kind} | {codec.since} | {codec.until or ''}" in PAGE
        assert f"## Codec {codec.id}: `{codec.name}`" in PAGE
    for dtype in DType:
        width, order = (
            plain_decoder.WORD_BYTES[dtype.code],
            "float" if dtype.code in plain_decoder.FLOAT_ORDER else "integer",
        )
        assert f"| {dtype.code} | {dtype.name} | {width} | {order} |" in PAGE
