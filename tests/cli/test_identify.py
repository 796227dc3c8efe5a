"""Is a file recognised by its bytes, by its tensors in whatever container, and is the nearest one the nearest?"""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modelvault.repository.export import export
from tests.unit.checkpoint.archives import FIXTURES

from .terminal import Said, done, run, weights, write
from .test_cat import tensor_of


@pytest.fixture
def epochs(vault: Path) -> Path:
    """Five epochs of one network, and another network."""
    random = np.random.default_rng(1)
    found = weights()
    for epoch in range(1, 6):
        found = {
            name: array + random.normal(size=array.shape).astype("f4") / 100 if array.dtype.kind == "f" else array
            for name, array in found.items()
        }
        write("model.safetensors", found)
        done("commit", "model.safetensors", "-m", f"epoch {epoch}")
        shutil.copy("model.safetensors", f"epoch-{epoch}.bin")
    write("other.safetensors", {f"x.{name}": array for name, array in weights(9, large=50_000).items()})
    done("commit", "other.safetensors", "-m", "other")
    return vault


def subjects(said: Said) -> list[str]:
    return [commit["subject"] for commit in said.json["commits"]]


def test_the_same_bytes_under_another_name(epochs: Path) -> None:
    done("commit", "epoch-2.bin", "-m", "again")
    said = run("identify", "epoch-2.bin", "--json")
    assert (said.code, said.json["schema"], said.json["match"]) == (0, "modelvault.identify/1", "exact")
    assert subjects(said) == ["again", "epoch 2"]
    assert [line.split()[0] for line in done("identify", "epoch-2.bin").splitlines()] == ["exact", "exact"]


def tensors_of(path: str) -> dict[str, NDArray[Any]]:
    from safetensors.numpy import load_file

    found: dict[str, NDArray[Any]] = load_file(path)
    return found


def test_the_same_tensors_in_another_order_and_under_other_names(epochs: Path) -> None:
    turned = dict(reversed(tensors_of("epoch-3.bin").items()))
    write("turned.safetensors", {f"module.{name}": array for name, array in turned.items()})
    said = run("identify", "turned.safetensors", "--json")
    assert (said.code, said.json["match"], subjects(said)) == (0, "tensors", ["epoch 3"])


def test_one_changed_element_is_another_file(epochs: Path) -> None:
    for name in ("layer.weight", "norm.weight"):
        found = {key: array.copy() for key, array in tensors_of("epoch-3.bin").items()}
        found[name].reshape(-1)[0] += 1
        write("changed.safetensors", found)
        said = run("identify", "changed.safetensors", "--json")
        assert (said.code, said.json["match"], said.json["commits"]) == (1, None, [])


def test_a_torch_archive_is_known_as_safetensors(vault: Path) -> None:
    """The archive holds these arrays as storages of its own; the other file is made from what numpy reads of them."""
    archive = FIXTURES / "state-dict.pt"
    done("commit", str(archive), "-m", "archive")
    names = [tensor["name"] for tensor in run("ls", "--json").json["files"][0]["tensors"]]
    arrays = {}
    for name in names:
        repository, tensor = tensor_of(name)
        arrays[name] = np.load(io.BytesIO(b"".join(export(repository, tensor, "npy"))))
    write("converted.safetensors", arrays)
    said = run("identify", "converted.safetensors", "--json")
    assert (said.code, said.json["match"], subjects(said)) == (0, "tensors", ["archive"])


def test_the_nearest_is_the_nearest(epochs: Path) -> None:
    found = {key: array.copy() for key, array in tensors_of("epoch-4.bin").items()}
    found["layer.weight"] *= 1.0001
    write("near.safetensors", found)
    assert run("identify", "near.safetensors").code == 1
    said = run("identify", "near.safetensors", "--nearest", "--json")
    assert (said.code, said.json["match"], subjects(said)) == (1, "nearest", ["epoch 4"])
    assert said.json["distance"]["relative_l2"] == pytest.approx(1e-4, rel=0.01)
    assert said.json["compared_share"] == 1.0
    assert "relative L2 9.97e-05" in run("identify", "near.safetensors", "--nearest").out


def test_in_another_dtype_it_is_near(epochs: Path) -> None:
    found = tensors_of("epoch-4.bin")
    half = {key: (a.view("u4") >> 16).astype("u2") if a.dtype == np.float32 else a for key, a in found.items()}
    write("half.safetensors", half)
    said = run("identify", "half.safetensors", "--nearest", "--json")
    assert subjects(said) == ["epoch 4"]
    assert 0 < said.json["distance"]["relative_l2"] < 0.01


def test_what_is_like_nothing_has_no_nearest(epochs: Path) -> None:
    write("strange.safetensors", {"strange": np.ones(50_000, "f4")})
    Path("notes.txt").write_text("lr 0.1\n")
    for name in ("strange.safetensors", "notes.txt"):
        said = run("identify", name, "--nearest", "--json")
        assert (said.code, said.json["match"]) == (1, None)
    assert "is in no commit" in run("identify", "notes.txt").err


def test_a_file_that_is_not_there(vault: Path) -> None:
    said = run("identify", "absent")
    assert (said.code, said.out) == (1, "")
    assert "cannot read 'absent'" in said.err
