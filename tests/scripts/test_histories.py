"""Do the histories come out the same whether or not their training was stopped, and are they what they are called?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from training import networks, optimizers, run, transformers  # noqa: E402  # isort: skip

pytestmark = pytest.mark.torch


class Stopped(Exception):
    pass


def _run() -> run.Run:
    return run.Run(
        name="tiny",
        about="a perceptron",
        network=lambda: torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2)),
        optimizer=lambda network: torch.optim.AdamW(network.parameters(), 1e-2),
        rate=lambda step: 1 / step,
        loss=lambda network, random: network(torch.randn(4, 8, generator=random)).square().mean(),
        measure=lambda network: {},
        snapshots=(0, 2, 4, 6),
        close=(4, 5),
        casts=True,
    )


def _contents(place: Path) -> dict[str, str | bytes]:
    """Return what is in each file; of those by torch.save the values, for its pickle knows who was whom in memory."""
    torch.set_printoptions(threshold=10**6, precision=10)
    return {
        str(file.relative_to(place)): (
            repr(torch.load(file, weights_only=True)) if file.suffix == ".pt" else file.read_bytes()
        )
        for file in place.rglob("step-*")
    }


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    _run().train(tmp_path / "whole", lambda line: None)

    def stop(line: str) -> None:
        if "'step': 4" in line:
            raise Stopped

    with pytest.raises(Stopped):
        _run().train(tmp_path / "parts", stop)
    _run().train(tmp_path / "parts", lambda line: None)
    whole = _contents(tmp_path / "whole")
    assert whole == _contents(tmp_path / "parts")
    assert sorted(whole) == sorted(
        [f"tiny/step-{step:06}.safetensors" for step in (0, 2, 4, 6)]
        + [f"tiny-cast-bf16/step-{step:06}.safetensors" for step in (0, 2, 4, 6)]
        + [f"tiny-checkpoints/step-{step:06}.pt" for step in (0, 2, 4, 6)]
        + [f"tiny-close/step-{step:06}.safetensors" for step in (4, 5)]
    )
    assert len(set(whole.values())) == len(whole) - 1  # step 4 lies in two histories


def test_lion_moves_every_weight_by_the_rate() -> None:
    """Up or down, as algorithm 2 of its paper says, behind what decays; one without a gradient stays."""
    weights, still = (torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0])) for _ in range(2))
    lion = optimizers.Lion([weights, still], 0.125, weight_decay=0.5)
    for gradient in ((1.0, -1.0, 0.0), (-0.05, 1.0, 0.0), (-9.0, 0.0, 0.0)):
        weights.grad = torch.tensor(gradient)
        lion.step()
    assert still.tolist() == [1.0, -2.0, 3.0]
    expected = []
    for value, signs in ((1.0, (1, 1, -1)), (-2.0, (-1, 1, 1)), (3.0, (0, 0, 0))):
        for sign in signs:
            value = value * (1 - 0.125 * 0.5) - 0.125 * sign
        expected.append(value)
    assert weights.tolist() == pytest.approx(expected)
    assert lion.state[weights]["exp_avg"].tolist() == pytest.approx([-0.080694, 0.000099, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("make", "parameters", "given"),
    [
        (networks.shufflenet, 0.888e6, (2, 3, 32, 32)),
        (networks.resnet18, 11.2e6, (2, 3, 32, 32)),
        (networks.mobilenet, 2.24e6, (2, 3, 32, 32)),
    ],
)
def test_networks_have_the_size_they_are_said_to_have(
    make: Callable[[], Any], parameters: float, given: tuple[int, ...]
) -> None:
    network = make()
    assert sum(value.numel() for value in network.parameters()) == pytest.approx(parameters, rel=0.01)
    assert network(torch.zeros(given)).shape == (2, 10)


def test_padding_changes_no_sentence() -> None:
    encoder = transformers.Encoder(width=24, layers=1, heads=2, words=50).eval()
    alone = torch.tensor([[3, 4, 5]])
    padded = torch.tensor([[3, 4, 5, 0, 0]])
    with torch.no_grad():
        assert torch.allclose(encoder(alone, alone != 0), encoder(padded, padded != 0), atol=1e-6)


def test_a_decoder_does_not_look_ahead() -> None:
    decoder = transformers.Decoder(width=24, layers=1, heads=2, words=50, context=8).eval()
    with torch.no_grad():
        first, second = (decoder(torch.tensor([tokens])) for tokens in ([1, 2, 3, 4], [1, 2, 3, 9]))
    assert torch.allclose(first[:, :3], second[:, :3], atol=1e-6)
    assert not torch.allclose(first[:, 3], second[:, 3])
