"""Is the table of codecs sound, and the package what it says it is?"""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

from modelvault import codec
from modelvault.codec import table
from modelvault.codec.frame import seal, unseal

MODULES = [f"modelvault.codec.{module.name}" for module in pkgutil.iter_modules(codec.__path__)]


def test_ids_and_names_are_used_once() -> None:
    assert len({row.id for row in table.TABLE}) == len({row.name for row in table.TABLE}) == len(table.TABLE)
    assert {row.id: row for row in table.TABLE} == table.BY_ID


def test_published_rows_stay() -> None:
    assert [(row.id, row.name, row.since, row.needs_reference) for row in table.TABLE][:6] == [
        (0, "raw", 1, False),
        (1, "planes-zstd", 1, False),
        (2, "previous-planes-zstd", 1, True),
        (3, "same", 1, True),
        (4, "residual-rans", 1, True),
        (5, "levels-rans", 1, False),
    ]


@pytest.mark.parametrize("row", table.TABLE, ids=lambda row: row.name)
def test_rows_fit_a_frame(row: table.Codec) -> None:
    assert 0 <= row.id <= 255
    assert row.until is None or row.until >= row.since
    found, body = unseal(seal(row, b"body"))
    assert found is row
    assert bytes(body) == b"body"


def test_what_is_public() -> None:
    assert codec.__all__ == [
        "COMPUTED_DTYPES",
        "NPY_DTYPES",
        "Bound",
        "CodecError",
        "Combined",
        "Decayed",
        "Parameters",
        "Predictor",
        "Previous",
        "Rounded",
        "Run",
        "Scaled",
        "Sums",
        "Term",
        "TermKind",
        "agreement",
        "anchored",
        "codec_name",
        "compare",
        "decode_chunk",
        "decodes_to",
        "encode_chunk",
        "fit",
        "fit_terms",
        "hold",
        "is_delta",
        "is_roundable",
        "kernels_in_use",
        "max_frame_bytes",
        "npy_bytes",
        "pack",
        "plain_numbers",
        "references_of",
        "round_elements",
        "round_in_units",
        "round_moment",
        "round_within_both",
        "row_of",
        "runs_of",
        "step_exponent",
        "sum_of_squares",
        "unpack",
        "word_bytes",
    ]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0
