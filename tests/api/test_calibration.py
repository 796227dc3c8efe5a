"""Do numbers that were chosen by a network's outputs keep these, keep the bounds, and take less room?

The network is small and really trained: noisy pictures of ten shapes.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest

import modelvault
from modelvault import errors

torch: Any = pytest.importorskip("torch")

pytestmark = pytest.mark.torch

ALLOWED = 0.0001


class Shapes:
    """Pictures (N, 1, 12, 12) of ten shapes in noise, and a network that learns to tell them."""

    def __init__(self) -> None:
        nn = torch.nn
        self._random = torch.Generator().manual_seed(7)
        self._shapes = torch.randn(10, 1, 12, 12, generator=self._random)
        torch.manual_seed(7)
        self.network = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Conv2d(24, 48, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(48 * 36, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )
        self._optimizer = torch.optim.SGD(self.network.parameters(), 0.02, momentum=0.9, weight_decay=5e-4)

    def pictures(self, count: int, random: Any = None) -> tuple[Any, Any]:
        random = random or self._random
        labels = torch.randint(0, 10, (count,), generator=random)
        noise = torch.randn(count, 1, 12, 12, generator=random)
        return self._shapes[labels] + 2 * noise, labels

    def train(self, steps: int) -> None:
        self.network.train()
        for _ in range(steps):
            pictures, labels = self.pictures(32)
            self._optimizer.zero_grad()
            torch.nn.functional.cross_entropy(self.network(pictures), labels).backward()
            self._optimizer.step()


def kl(network: Any, state: dict[str, Any], pictures: Any) -> float:
    """Return how far the outputs with a state are from the network's own."""
    other = copy.deepcopy(network)
    other.load_state_dict(state)
    with torch.no_grad():
        p, q = (torch.log_softmax(each.eval()(pictures).double(), 1) for each in (copy.deepcopy(network), other))
    return float((p.exp() * (p - q)).sum(1).mean())


@pytest.fixture(scope="module")
def trained() -> tuple[Shapes, dict[str, Any]]:
    """A network, and its state some steps earlier."""
    shapes = Shapes()
    shapes.train(60)
    before = copy.deepcopy(shapes.network.state_dict())
    shapes.train(20)
    return shapes, before


def test_outputs_and_bounds_hold_and_bytes_are_saved(
    vault: modelvault.Vault, trained: tuple[Shapes, dict[str, Any]], tmp_path: Path
) -> None:
    shapes, before = trained
    network, (samples, _), (others, _) = shapes.network, shapes.pictures(96), shapes.pictures(400)
    original = copy.deepcopy(network.state_dict())
    vault.commit(before, message="before")
    done = vault.commit(
        network, message="after", lossy=0.1, vectors=0.25, samples=list(samples.split(32)), max_drop=ALLOWED
    )
    found = vault.load()
    assert 0 < kl(network, found, samples) <= -math.log1p(-ALLOWED)
    assert kl(network, found, others) < 3 * ALLOWED
    for name, old in original.items():
        assert torch.equal(network.state_dict()[name], old)  # the module was only looked at
        away = (found[name].double() - old.double()).abs()
        if not old.is_floating_point():
            assert not away.any()
            continue
        assert (away <= math.log1p(0.1)).all()
        assert old.ndim > 1 or (away <= 0.25 * old.double().abs()).all()
    assert network.training
    # One step for all weights that keeps the outputs as well takes more.
    plain = modelvault.open(tmp_path / "plain", create=True)
    plain.commit(before, message="before")
    eps = 0.1
    while True:
        rounded = plain.commit(network, message="after", lossy=eps, vectors=min(0.25, eps))
        if kl(network, plain.load(), samples) <= ALLOWED:
            break
        plain.undo()
        eps /= 2
    assert done.added_bytes < 0.85 * rounded.added_bytes  # 9,778 and 13,648


def test_something_is_found_where_errors_add_up_that_were_not_foretold_to(
    vault: modelvault.Vault, trained: tuple[Shapes, dict[str, Any]]
) -> None:
    shapes, before = trained
    samples, allowed = shapes.pictures(96, torch.Generator().manual_seed(1))[0], 0.001 / 2**9
    vault.commit(before, message="before")
    vault.commit(shapes.network, message="after", lossy=0.1, vectors=0.25, samples=[samples], max_drop=allowed)
    assert 0 < kl(shapes.network, vault.load(), samples) <= -math.log1p(-allowed)


def test_it_is_said_and_comes_out_the_same_again(
    vault: modelvault.Vault, trained: tuple[Shapes, dict[str, Any]], tmp_path: Path
) -> None:
    shapes, before = trained
    samples = [shapes.pictures(48)[0]]
    files = []
    for place in range(2):
        again = modelvault.open(tmp_path / f"again{place}", create=True)
        again.commit(before, message="before")
        done = again.commit(shapes.network, message="after", lossy=0.1, samples=samples, max_drop=ALLOWED)
        assert done.mode == "lossy abs 0.1"
        again.checkout(output=tmp_path / f"{place}.pt")
        files.append((tmp_path / f"{place}.pt").read_bytes())
        again.gc()
        again.checkout(output=tmp_path / f"{place}.pt", force=True)
        assert (tmp_path / f"{place}.pt").read_bytes() == files[place]
    assert files[0] == files[1]
    # Vectors have no bound of their own, so they are exact.
    state = torch.load(tmp_path / "1.pt", weights_only=True)
    exact = shapes.network.state_dict()
    assert all(torch.equal(state[name], exact[name]) for name in exact if exact[name].ndim < 2)
    assert not torch.equal(state["3.weight"], exact["3.weight"])


def test_what_the_model_does_not_have_stays_exact(
    vault: modelvault.Vault, trained: tuple[Shapes, dict[str, Any]]
) -> None:
    shapes, _ = trained
    optimizer = torch.optim.Adam(shapes.network.parameters())
    shadow = {name: value * 1.01 for name, value in shapes.network.state_dict().items() if value.ndim > 1}
    state = {"model": shapes.network.state_dict(), "ema": shadow, "optimizer": optimizer.state_dict()}
    vault.commit(
        state, message="a", lossy=0.1, model=shapes.network, samples=[shapes.pictures(32)[0]], max_drop=ALLOWED
    )
    found = vault.load()
    assert all(torch.equal(found["ema"][name], shadow[name]) for name in shadow)
    assert not torch.equal(found["model"]["3.weight"], state["model"]["3.weight"])


def test_tied_weights_half_precision_and_named_inputs(vault: modelvault.Vault) -> None:
    class Output:
        def __init__(self, logits: Any) -> None:
            self.logits = logits

    class Language(torch.nn.Module):  # type: ignore[misc]  # torch is not looked at
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(40, 16)
            self.norm = torch.nn.LayerNorm(16)
            self.head = torch.nn.Linear(16, 40, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, *, tokens: Any, scale: float) -> Output:
            return Output(self.head(self.norm(self.embedding(tokens))) * scale)

    torch.manual_seed(1)
    model = Language().to(torch.bfloat16)
    batch = {"tokens": torch.arange(40).reshape(8, 5), "scale": 2.0}
    vault.commit(model, message="a", lossy=0.1, vectors=0.1, samples=[batch], max_drop=0.001)
    found = vault.load()
    assert torch.equal(found["head.weight"], found["embedding.weight"])
    away = (found["head.weight"].double() - model.head.weight.detach().double()).abs()
    assert 0 < away.max() <= math.log1p(0.1)


@pytest.mark.parametrize(
    "wishes",
    [
        {"lossy": 0.1},  # and no word of what may be lost
        {"lossy": 0.1, "max_drop": 0.0},
        {"lossy": 0.1, "max_drop": 0.0001, "samples": []},
        {"lossy": 0.1, "max_drop": 0.0001, "bound": "rel"},
        {"lossy": 0.1, "max_drop": 0.0001, "bound": "paper"},
        {"lossy": 0.1, "max_drop": 0.0001, "model": "net"},
        {"lossy": 0.1, "max_drop": 0.0001, "exact": True},
        {"max_drop": 0.0001},
        {"max_drop": 0.0001, "evaluate": lambda path: 1.0},
    ],
)
def test_wishes_that_make_no_sense(
    vault: modelvault.Vault, trained: tuple[Shapes, dict[str, Any]], wishes: dict[str, Any]
) -> None:
    shapes, _ = trained
    with pytest.raises(errors.UsageError):
        vault.commit(shapes.network, message="a", **{"samples": [shapes.pictures(4)[0]], **wishes})
    assert not list(vault.log())


def test_networks_that_give_nothing_to_measure(vault: modelvault.Vault, trained: tuple[Shapes, dict[str, Any]]) -> None:
    shapes, _ = trained
    samples, wishes = [shapes.pictures(4)[0]], dict[str, Any](lossy=0.1, max_drop=0.0001)
    with pytest.raises(errors.InputError, match="not finite"):
        vault.commit(shapes.network, message="a", samples=[samples[0] * math.nan], **wishes)
    other = copy.deepcopy(shapes.network)
    torch.nn.init.normal_(other[0].weight)
    for parameter in other.parameters():
        parameter.data.mul_(1.5)
    for buffer in other.buffers():
        buffer.data.add_(1)
    with pytest.raises(errors.UsageError, match="none of the model's tensors"):
        vault.commit(shapes.network.state_dict(), message="a", model=other, samples=samples, **wishes)
    assert not list(vault.log())
