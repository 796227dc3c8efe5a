"""Do states go in as torch has them and come out as torch would load them?"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest

import modelvault
from modelvault import errors

torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
pytestmark = pytest.mark.torch  # tests/conftest.py says whether it may be missing


def network() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 300), torch.nn.ReLU(), torch.nn.Linear(300, 10))


def assert_same(left: Any, right: Any) -> None:
    """Compare states to the bit."""
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and left.shape == right.shape
        assert left.reshape(-1).view(torch.uint8).equal(right.reshape(-1).view(torch.uint8))
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right


def test_a_model_goes_in_and_its_state_comes_out(vault: modelvault.Vault) -> None:
    model = network()
    done = vault.commit(model, message="epoch 40")
    assert [path for path, *_ in done.files] == ["state.pt"]
    assert_same(dict(vault.load("epoch-40")), dict(model.state_dict()))


def test_a_checkpoint_of_everything(vault: modelvault.Vault) -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    commits = []
    for step in range(3):
        model(torch.randn(8, 64)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        state = {"model": model, "optimizer": optimizer, "step": step}
        commits.append(vault.commit(state, message=f"step {step}", step=step, metrics={"loss": torch.tensor(0.5)}))
    assert_same(vault.load("step:2")["optimizer"], optimizer.state_dict())
    assert vault.load("step:1")["step"] == 1
    assert commits[0].metrics == {"loss": 0.5}
    assert commits[2].depth == 2
    assert commits[2].added_bytes < commits[0].added_bytes


def test_every_dtype(vault: modelvault.Vault) -> None:
    bits = torch.randint(0, 256, (4096,), dtype=torch.uint8)
    names = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "complex64"]
    state = {name: bits.clone().view(getattr(torch, name)) for name in names}
    vault.commit(state, message="bits")
    assert_same(vault.load(), state)


def test_one_file_of_several(vault: modelvault.Vault, tmp_path: Path) -> None:
    for name in ("a", "b"):
        torch.save({"name": name}, vault.root / f"{name}.pt")
    vault.commit([vault.root / "a.pt", vault.root / "b.pt"], message="two")
    assert vault.load(path="b.pt") == {"name": "b"}


def test_code_in_a_file_is_not_run(vault: modelvault.Vault, tmp_path: Path) -> None:
    """A checkpoint from a stranger: committed and given back as it is, never unpickled."""
    target = tmp_path / "executed"
    path = vault.root / "evil.pt"
    torch.save({"weights": torch.zeros(3), "evil": _Evil(str(target))}, path)
    data = path.read_bytes()
    vault.commit(path, message="evil")
    with pytest.raises(errors.InputError, match="weights_only"):
        vault.load("evil")
    vault.checkout("evil", tmp_path / "back.pt")
    assert (tmp_path / "back.pt").read_bytes() == data
    assert not target.exists()


class _Evil:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.target, "w"))


def test_the_same_state_twice_costs_nothing(vault: modelvault.Vault) -> None:
    model = network()
    vault.commit(model, message="one")
    assert vault.commit(model, message="two").added_bytes < 1_000
