"""Does the comparison of codecs compare what it says, and notice a codec that alters a bit?"""

from __future__ import annotations

import csv
import dataclasses
import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scripts import SCRIPTS
from tests.scripts.history import history  # noqa: F401 - a fixture

from peers import codecs, lossless, pareto, series, transforms  # isort: skip


def _words(bits: int) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    return st.lists(st.integers(0, 2**bits - 1), max_size=40).map(lambda found: np.array(found, f"<u{bits // 8}"))


@given(st.sampled_from((16, 32)).flatmap(lambda bits: st.tuples(_words(bits), _words(bits))))
def test_transforms_can_be_undone(pair: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]) -> None:
    size = min(map(len, pair))
    new, old = pair[0][:size], pair[1][:size]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "_BLOCK", 7)
        assert np.array_equal(transforms.undo_difference(transforms.difference(new, old), old), new)
    assert np.array_equal(transforms.undo_planes(transforms.planes(new), new), new)


def test_a_difference_counts_the_floats_between() -> None:
    values = np.array([1.0, np.nextafter(np.float32(1), np.float32(2)), 0.0, -1e-45], "<f4").view("<u4")
    others = np.array([1.0, 1.0, -0.0, 1e-45], "<f4").view("<u4")
    assert transforms.difference(values, others).tolist() == [0, 2, 2, 5]  # zigzag of 0, 1, 1, -3


def test_what_training_goes_on_from_is_no_history(history: Path) -> None:  # noqa: F811
    state = history.parent / "state"
    state.mkdir()
    for name in ("one.pt", "other.pt"):
        (state / name).write_bytes(b"")
    assert series.histories(history.parent) == series.histories(history) == [history]


def test_a_pair_holds_what_both_have(history: Path) -> None:  # noqa: F811
    found = list(series.pairs(history))
    assert [(pair.new.file.stem, pair.reference and pair.reference.file.stem) for pair in found] == [
        ("step-003", None),
        ("step-002", "step-001"),
        ("step-003", "step-002"),
    ]
    assert [tensor.name for tensor in found[0].new.tensors] == ["first", "second", "small other"] or [
        tensor.words.size for tensor in found[0].new.tensors
    ] == [128 * 256, 64 * 300, 300]
    assert found[0].nbytes == 4 * (128 * 256 + 64 * 300 + 300)  # the counter is no float


def run(option: str, place: Path, tmp_path: Path) -> tuple[str, list[dict[str, str]]]:
    """Measure what lies at a place; return what is said, and the rows that the option's file gets."""
    table = tmp_path / "found.csv"
    done = subprocess.run(
        [sys.executable, "-m", "peers.lossless", place, "--rounds", "1", option, table],
        env={"PYTHONPATH": str(SCRIPTS), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, list(csv.DictReader(table.read_text().splitlines()))


def test_every_installed_codec_gives_back_what_it_got(history: Path, tmp_path: Path) -> None:  # noqa: F811
    said, rows = run("--csv", history.parent, tmp_path)
    assert {row["history"] for row in rows} == {"walk"}
    ours = [row for row in rows if row["codec"] == "modelvault"]
    assert [(row["snapshot"], row["reference"]) for row in ours] == [
        ("step-003", ""), ("step-002", "step-001"), ("step-003", "step-002"),
    ]  # fmt: skip
    assert all(float(row["ratio"]) == round(int(row["raw_bytes"]) / int(row["encoded_bytes"]), 4) for row in rows)
    assert min(float(row["ratio"]) for row in ours[1:]) > float(ours[0]["ratio"]) > 1
    assert {row["codec"] for row in rows} >= {"modelvault", "modelvault's commit", "zstd 1 on byte planes"}
    assert "### walk: 2 deltas, f32, 0.2 MB each" in said


def test_stages_add_up(history: Path, tmp_path: Path) -> None:  # noqa: F811
    said, rows = run("--stages", history, tmp_path)
    for what, parts in (("encode", ("predictors", "coder", "rest")), ("decode", ("coder", "rest"))):
        found = {row["stage"]: float(row["ms"]) for row in rows if row["what"] == what}
        assert found["all"] == pytest.approx(sum(found[part] for part in parts), abs=0.01)
    assert {row["chunks"] for row in rows} == {"3"}
    assert all(float(row["ns_a_number"]) == pytest.approx(1e6 * float(row["ms"]) / 52_268, abs=0.02) for row in rows)
    assert "| walk | f32 | encode |" in said


def test_a_codec_that_alters_a_bit_is_found_out(history: Path) -> None:  # noqa: F811
    pair = list(series.pairs(history))[-1]
    honest = next(iter(codecs.contenders(pair.new.dtype, False)))[1][0]

    def altered(encoded: Any, pair: series.Pair) -> list[series.Words]:
        back = [words.copy() for words in honest.decode(encoded, pair)]
        back[-1][-1] ^= 1
        return back

    assert lossless.measure("walk", pair, [honest], 1)
    with pytest.raises(lossless.Altered, match="altered"):
        lossless.measure("walk", pair, [dataclasses.replace(honest, decode=altered)], 1)


def test_what_is_no_history_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "peers.lossless", tmp_path], env={"PYTHONPATH": str(SCRIPTS)}, capture_output=True
    )
    assert done.returncode == 2
    assert b"holds no history" in done.stderr


def test_the_front_is_what_nothing_beats() -> None:
    failed, tried = doctest.testmod(pareto)
    assert (failed, tried) == (0, 1)
