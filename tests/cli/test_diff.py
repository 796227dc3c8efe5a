"""Do `diff` and `ls` name what changed, how far, and nothing else?"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from modelvault import codec
from modelvault.repository import diff as diff_module
from modelvault.repository.checkout import read_recipe
from modelvault.repository.chunks import ChunkReader
from modelvault.repository.history import read_commit
from modelvault.repository.repository import open_repository
from modelvault.repository.revisions import resolve

from .terminal import done, run, weights, write


def test_ls_lists_every_tensor(vault: Path) -> None:
    write("model.safetensors", weights())
    done("commit", "model.safetensors", "-m", "one")
    assert [line.split() for line in done("ls").splitlines()[1:]] == [
        ["layer.weight", "f32", "400x100", "160.0", "KB", "weights"],
        ["layer.bias", "f32", "100", "400", "B", "weights"],
        ["norm.weight", "f32", "100", "400", "B", "weights"],
        ["steps", "i64", "1", "8", "B", "weights"],
    ]
    found = run("ls", "HEAD", "model.safetensors", "--json").json
    assert found["schema"] == "modelvault.ls/1"
    assert found["files"][0]["tensors"][0] == {
        "name": "layer.weight",
        "dtype": "F32",
        "shape": [400, 100],
        "bytes": 160_000,
        "part": "weights",
        "forgotten": False,
    }


def test_ls_of_a_file_nobody_understands(vault: Path) -> None:
    Path("notes.txt").write_text("lr 0.1\n")
    Path("noise.bin").write_bytes(np.random.default_rng(0).bytes(300_000))
    done("commit", "notes.txt", "noise.bin", "-m", "one")
    assert done("ls", "HEAD", "notes.txt").splitlines() == ["notes.txt  7 B  opaque, 0 tensors"]
    assert done("ls", "HEAD", "noise.bin").splitlines()[1].split()[:3] == ["@0", "bytes", "300000"]
    assert run("ls", "HEAD", "absent").code == 1


@pytest.fixture
def changed(vault: Path) -> Path:
    """Two commits between which everything happens that can happen to a tensor."""
    old = weights()
    write("model.safetensors", old | {"gone": np.zeros(3, "f4"), "wide": np.ones(4, "f4"), "flat": np.ones(6, "f4")})
    done("commit", "model.safetensors", "-m", "one")
    weight, bias = old["layer.weight"].copy(), old["layer.bias"].copy()
    weight[:100] *= 1.5
    bias[0] = np.nan
    new = old | {"layer.weight": weight, "layer.bias": bias}
    new |= {"wide": np.ones(4, "f8"), "flat": np.ones((2, 3), "f4"), "come": np.zeros(2, "f4")}
    write("model.safetensors", new)
    done("commit", "model.safetensors", "-m", "two")
    return vault


def test_diff_names_what_became_of_each_tensor(changed: Path) -> None:
    found = run("diff", "HEAD~1", "--json").json
    assert (found["schema"], found["differ"]) == ("modelvault.diff/1", True)
    (file,) = found["files"]
    states = {item["name"]: item["state"] for item in file["tensors"]}
    assert states == {
        "layer.weight": "changed",
        "layer.bias": "changed",
        "wide": "retyped",
        "flat": "reshaped",
        "come": "added",
        "gone": "removed",
    }
    assert (file["tensors_differ"], file["tensors_same"]) == (6, 2)
    distances = {item["name"]: item["distance"] for item in file["tensors"]}
    weight = weights()["layer.weight"].astype("f8")
    expected = 0.5 * np.linalg.norm(weight[:100]) / np.linalg.norm(weight)
    assert distances["layer.weight"]["relative_l2"] == pytest.approx(expected, rel=1e-6)
    assert distances["layer.weight"]["changed_share"] == 0.25
    assert (distances["layer.bias"]["changed"], distances["layer.bias"]["not_finite"]) == (1, 1)
    assert distances["wide"]["relative_l2"] == 0.0
    assert distances["flat"]["changed"] == 0
    assert distances["come"] is None


def test_diff_in_words(changed: Path) -> None:
    lines = done("diff", "one", "two", "--top", "4").splitlines()
    assert lines[0].startswith("model.safetensors  6 of 8 tensors differ; ")
    assert [line.split()[1] for line in lines[1:5]] == ["come", "gone", "layer.weight", "layer.bias"]
    assert lines[5:] == ["  and 2 more"]
    assert len(done("diff", "one..two", "--stat").splitlines()) == 1


def test_one_element_of_many_is_not_none(vault: Path) -> None:
    found = weights()
    write("a", found)
    done("commit", "a", "-m", "one")
    found["layer.weight"][0, 0] += 1
    write("a", found)
    done("commit", "a", "-m", "two")
    assert done("diff", "one").splitlines()[1].endswith("<0.1% changed")


def test_the_exit_code_tells_only_when_asked(changed: Path) -> None:
    assert run("diff", "one", "two").code == 0
    assert run("diff", "one", "two", "--exit-code").code == 1
    assert run("diff", "one", "two", "--exit-code", "--json").code == 1
    assert run("diff", "two", "two", "--exit-code") == (0, "", "")


def test_names_only_decodes_no_tensor_that_stands_alone(changed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    chunk = ChunkReader.chunk

    def counted(reader: ChunkReader, number: int, place: int) -> bytes:
        found = chunk(reader, number, place)
        decoded.append(len(found))
        return found

    monkeypatch.setattr(ChunkReader, "chunk", counted)
    found = run("diff", "one", "two", "--name-only", "--json").json
    states = {item["name"]: (item["state"], item["distance"]) for item in found["files"][0]["tensors"]}
    assert states["layer.weight"] == ("changed", None)
    assert "norm.weight" not in states
    assert max(decoded) < 64 << 10


def test_what_is_stored_once_is_not_decoded(vault: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("model.safetensors", weights())
    done("commit", "model.safetensors", "-m", "one")
    monkeypatch.setattr(diff_module, "compare", lambda *_: pytest.fail("something was compared"))
    write("model.safetensors", {"layer.weight": weights()["layer.weight"]})
    done("commit", "model.safetensors", "-m", "two")
    states = run("diff", "one", "two", "--json").json["files"][0]
    assert [item["state"] for item in states["tensors"]] == ["removed"] * 3
    assert states["tensors_same"] == 1


def test_one_file_under_another_name_is_compared_with_itself(vault: Path) -> None:
    for epoch in (1, 2):
        write(f"epoch-{epoch}.safetensors", weights(epoch))
        done("commit", f"epoch-{epoch}.safetensors", "-m", f"epoch {epoch}")
    assert done("diff", "HEAD~1").startswith("epoch-1.safetensors -> epoch-2.safetensors  3 of 4 tensors differ")


def test_files_come_and_go(vault: Path) -> None:
    for name in ("a", "b", "c"):
        write(name, weights(ord(name)))
    done("commit", "a", "b", "-m", "one")
    done("commit", "a", "-m", "two")
    assert done("diff", "one", "two") == "b  removed, 4 tensors\n"
    assert done("diff", "two", "one") == "b  added, 4 tensors\n"
    assert done("diff", "one", "two", "a") == done("diff", "one", "a") == ""
    absent = run("diff", "one", "two", "x")
    assert (absent.code, absent.out) == (1, "")


def test_bytes_outside_tensors_count(vault: Path) -> None:
    Path("notes.txt").write_text("lr 0.1\n")
    done("commit", "notes.txt", "-m", "one")
    Path("notes.txt").write_text("lr 0.2\n")
    done("commit", "notes.txt", "-m", "two")
    assert done("diff", "one") == "notes.txt  0 of 0 tensors differ; bytes outside tensors differ\n"


def test_what_was_given_up_is_said(changed: Path) -> None:
    """As forgetting leaves it: the recipe of the first file names no tensor any more."""
    repository = open_repository(changed)
    with repository.store.write() as txn:
        tip = resolve(txn, "one", repository.config).commit_id
        (entry,) = read_commit(txn, tip).files
        recipe = read_recipe(txn, entry.file_id)
        bare = recipe._replace(tensors=(0,) * len(recipe.tensors))
        txn.put("recipes", entry.file_id, bare.to_bytes(entry.file_id))
    assert "weights, forgotten" in done("ls", "one")
    states = {item["state"] for item in run("diff", "one", "two", "--json").json["files"][0]["tensors"]}
    assert states == {"forgotten", "added", "removed"}
    assert "forgotten" in done("diff", "one", "two")
    assert "were given up with the part weights" in run("cat", "one:layer.weight").err
    write("x.safetensors", weights())
    assert run("identify", "x.safetensors", "--nearest").code == 1
    assert run("log", "--stat").code == 0


def test_an_unknown_revision_is_an_error(vault: Path) -> None:
    write("a", weights())
    done("commit", "a", "-m", "one")
    assert run("diff", "one", "nowhere").code == 13
    assert run("diff", "nowhere").code == 13


def epochs(count: int) -> list[str]:
    """Commit a run whose weight moves at every epoch and whose bias moves at the last."""
    found, made = weights(), []
    for epoch in range(count):
        found["layer.weight"] = found["layer.weight"] * np.float32(1 + epoch / 100)
        if epoch == count - 1:
            found["layer.bias"] = found["layer.bias"] + 1
        write("model.safetensors", found)
        made.append(run("commit", "model.safetensors", "-m", f"epoch {epoch}", "--json").json["id"])
    return made


def test_every_commit_of_a_range_against_its_parent(vault: Path) -> None:
    made = epochs(5)
    found = run("diff", "--each", "epoch-0..epoch-4", "--json").json
    assert found["schema"] == "modelvault.diff-each/1"
    assert [(step["before"], step["after"]) for step in found["steps"]] == list(itertools.pairwise(made))
    for step in found["steps"]:
        (file,) = run("diff", step["before"], step["after"], "--json").json["files"]
        assert step["files"] == [file] and step["differ"]
    lines = done("diff", "--each", "epoch-0..epoch-4", "--stat").splitlines()
    assert [line.split()[1:] for line in lines[::2]] == [["epoch", str(epoch)] for epoch in range(1, 5)]
    assert [line.split()[:4] for line in lines[1::2]] == [["model.safetensors", n, "of", "4"] for n in "1112"]
    assert done("diff", "--each", "epoch-0..", "model.safetensors") == done("diff", "--each", "epoch-0..epoch-4")
    assert run("diff", "--each", "epoch-0..", "--exit-code", "--name-only").code == 1
    for words in (["epoch-0"], ["epoch-0", "epoch-1"], ["epoch-4..epoch-0"], ["epoch-0..", "a", "b"]):
        assert run("diff", "--each", *words).code == 2
    assert run("diff", "--each", "epoch-0..", "absent").code == 1


def test_a_range_is_decoded_once(vault: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = epochs(6)
    decoded = 0
    true = codec.decode_chunk

    def counting(*arguments: object) -> bytes:
        nonlocal decoded
        decoded += 1
        return true(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(codec, "decode_chunk", counting)
    done("diff", "--each", f"{made[0]}..")
    assert decoded <= 6 + 2 + 1  # the weight of each epoch, the group before and after it moved, the integers
