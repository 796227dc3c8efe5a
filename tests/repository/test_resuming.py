"""Does training go on as it would have, from a checkpoint whose optimizer state was rounded?"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from modelvault.repository.checkout import restore
from modelvault.repository.commit import Request, make_commit
from modelvault.repository.history import kept_files
from modelvault.repository.lossy import LossyRequest

from .vaults import new_vault

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch


def network(seed: int) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))


def losses(model: Any, optimizer: Any, steps: int, seed: int) -> list[float]:
    """Train on a function that the network can learn; return the loss of each step."""
    chance = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(steps):
        inputs = torch.randn(64, 20, generator=chance)
        wanted = inputs[:, :5].sin().sum(1, keepdim=True)
        loss = (model(inputs) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_training_goes_on_as_it_would_have(tmp_path: Path, kind: str) -> None:
    def optimizer_of(model: Any) -> Any:
        if kind == "sgd":
            return torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        return torch.optim.AdamW(model.parameters(), lr=3e-3)

    torch.set_num_threads(1)
    model = network(1)
    optimizer = optimizer_of(model)
    before = losses(model, optimizer, 200, 2)
    vault = new_vault(tmp_path / "run")
    path = vault.root / "checkpoint.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    done = make_commit(vault, Request([path], "in the middle", lossy=LossyRequest(1e-5, optimizer=0.125)))
    with vault.store.read() as txn:
        (entry,) = kept_files(txn, done.commit_id, done.commit)
    rounded = tmp_path / "rounded.pt"
    rounded.write_bytes(b"".join(restore(vault.store, entry)))
    after = {}
    for name, source in (("exact", path), ("rounded", rounded), ("dropped", path)):
        state = torch.load(source, weights_only=True)
        again = network(3)
        again.load_state_dict(state["model"])
        resumed = optimizer_of(again)
        if name != "dropped":
            resumed.load_state_dict(state["optimizer"])
        after[name] = losses(again, resumed, 100, 4)
    assert after["exact"] == losses(model, optimizer, 100, 4), "an exact resume is exact"
    mean = {name: statistics.fmean(found) for name, found in after.items()}
    assert mean["exact"] < statistics.fmean(before[:50])
    assert abs(mean["rounded"] - mean["exact"]) < 0.02 * mean["exact"]
    gaps = {
        n: statistics.fmean(abs(a - b) for a, b in zip(after[n][:20], after["exact"][:20], strict=True)) for n in after
    }
    assert gaps["rounded"] < 0.25 * gaps["dropped"], "losing the state altogether is noticed far sooner"
