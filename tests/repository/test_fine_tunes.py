"""Do real fine-tunes find the network they were made from: adapters merged into it, and layers left frozen?"""

from __future__ import annotations

from typing import Any

import pytest

from modelvault.repository.repository import Repository

from .networks import safetensors_file
from .vaults import commit, files_of, fsck, tensor_records

torch: Any = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

WIDTH, CLASSES, STEPS = 192, 10, 40
RANK = 4


def network(seed: int) -> Any:
    """Return a small network, trained on a task of its own: which of ten random directions is nearest."""
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU()]
    made = torch.nn.Sequential(*layers, torch.nn.Linear(WIDTH, CLASSES))
    train(made, made.parameters(), seed)
    return made


def train(made: Any, parameters: Any, task: int, rate: float = 1e-3) -> None:
    random = torch.Generator().manual_seed(task)
    directions = torch.randn(WIDTH, CLASSES, generator=random)
    optimizer = torch.optim.AdamW(parameters, rate)
    for _ in range(STEPS):
        given = torch.randn(64, WIDTH, generator=random)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(made(given), (given @ directions).argmax(1)).backward()
        optimizer.step()


def file_of(made: Any, prefix: str = "") -> bytes:
    return safetensors_file(
        {prefix + name: ("F32", values.detach().numpy().tobytes()) for name, values in made.state_dict().items()}
    )


class Adapted(torch.nn.Module):  # type: ignore[misc]
    """A linear layer with a low-rank update beside it, which alone is trained."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = torch.nn.Parameter(torch.randn(RANK, layer.in_features) / layer.in_features**0.5)
        self.up = torch.nn.Parameter(torch.zeros(layer.out_features, RANK))

    def forward(self, given: Any) -> Any:
        return self.layer(given) + given @ self.down.T @ self.up.T

    def merged(self) -> Any:
        self.layer.weight += self.up @ self.down
        return self.layer


def merged_adapter(base: Any, task: int) -> Any:
    """Return the base with adapters trained beside its linear layers and merged into them."""
    layers = [Adapted(layer) if isinstance(layer, torch.nn.Linear) else layer for layer in base]
    tuned = torch.nn.Sequential(*layers)
    train(tuned, [one for one in tuned.parameters() if one.requires_grad], task)
    with torch.no_grad():
        return torch.nn.Sequential(*(one.merged() if isinstance(one, Adapted) else one for one in tuned))


def partly_frozen(base: Any, task: int) -> Any:
    """Return the base with all but its last two linear layers left alone."""
    base[0].requires_grad_(False)
    train(base, [one for one in base.parameters() if one.requires_grad], task, 1e-4)
    return base


@pytest.mark.parametrize("tune", [merged_adapter, partly_frozen])
def test_a_fine_tune_leans_on_its_base_under_any_name(vault: Repository, tune: Any) -> None:
    """Two bases, then a tune of the first, each in another file and under other names."""
    files = {"first.safetensors": file_of(network(1)), "second.safetensors": file_of(network(2), "other.")}
    for name, data in files.items():
        commit(vault, {name: data})
    bases = tensor_records(vault)
    tuned = file_of(tune(network(1), 7), "base_model.model.")
    done = commit(vault, {"tuned.safetensors": tuned})
    new = {
        number: record
        for number, record in tensor_records(vault).items()
        if number not in bases and record.nbytes == 4 * WIDTH * WIDTH
    }
    assert len(new) == (1 if tune is partly_frozen else 2)  # what is frozen is stored once
    half = sorted(bases)[len(bases) // 2 - 1]
    for record in new.values():
        assert 0 < record.base <= half, "it leans on a tensor of the first base"
        assert record.stored_bytes < 0.9 * bases[record.base].stored_bytes
    assert files_of(vault, done.commit_id) == {"tuned.safetensors": tuned}
    fsck(vault)
