"""One training run: steps that depend on nothing but their number, and snapshots that can be taken up again.

Every step draws its batch and its dropout from its own number, so a run that was stopped goes on from its last
snapshot as if it had never been.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

Loss = Callable[[nn.Module, torch.Generator], Tensor]
"""Draws a batch and returns its loss."""


@dataclass(frozen=True)
class Run:
    """What is trained, and which snapshots are kept.

    Attributes:
        name: of the histories it makes.
        about: one line for the README.
        network: makes the network, its initial weights as they are.
        optimizer: makes the optimizer of its parameters.
        rate: the learning rate of a step, as a share of the optimizer's.
        loss: of a batch.
        measure: names and values, after a snapshot.
        snapshots: the steps that are kept, ascending; 0 is before the first.
        close: steps of a history of its own, whose snapshots lie next to one another.
        torch_files: weights as torch.save writes them rather than safetensors.
        checkpoints: also keep full checkpoints with optimizer state.
        casts: also keep the weights cast to bf16.
    """

    name: str
    about: str
    network: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    rate: Callable[[int], float]
    loss: Loss
    measure: Callable[[nn.Module], dict[str, float]]
    snapshots: Sequence[int]
    close: Sequence[int] = ()
    torch_files: bool = False
    checkpoints: bool = True
    casts: bool = False

    def histories(self) -> dict[str, str]:
        """Return the directories that it fills, and what is in each."""
        found = {self.name: f"{self.about}: weights"}
        if self.casts:
            found[f"{self.name}-cast-bf16"] = "the same weights, cast to bf16"
        if self.checkpoints:
            found[f"{self.name}-checkpoints"] = "the same moments with the optimizer's state, by torch.save"
        if self.close:
            found[f"{self.name}-close"] = f"weights at steps {', '.join(map(str, self.close))}"
        return found

    def train(self, place: Path, say: Callable[[str], None]) -> None:
        """Train to the last snapshot, from where an earlier call was stopped."""
        torch.manual_seed(0)
        network = self.network()
        optimizer = self.optimizer(network)
        rates = [group["lr"] for group in optimizer.param_groups]
        state = place / "state" / f"{self.name}.pt"
        kept = sorted({*self.snapshots, *self.close})
        done, records = -1, list[dict[str, Any]]()
        if state.is_file():
            saved = torch.load(state, weights_only=True)
            network.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            done, records = saved["step"], saved["records"]
        begun = time.monotonic()
        losses = list[float]()
        for step in range(done + 1, kept[-1] + 1):
            if step:
                losses.append(self._step(network, optimizer, step, rates))
            if step not in kept:
                continue
            network.eval()
            record = {"step": step, **self.measure(network)}
            network.train()
            if losses:
                record["loss"] = round(sum(losses) / len(losses), 4)  # since the last snapshot
            losses.clear()
            records.append(record)
            self._keep(place, network, optimizer, record)
            saved = {
                "model": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "records": records,
            }
            _write(state, functools.partial(torch.save, saved))
            for name in self.histories():
                about = {"about": self.histories()[name], "torch": torch.__version__, "snapshots": records}
                (place / name / "history.json").write_text(json.dumps(about, indent=1) + "\n")
            say(f"{self.name} {record} after {time.monotonic() - begun:.0f} s")

    def _step(self, network: nn.Module, optimizer: torch.optim.Optimizer, step: int, rates: list[float]) -> float:
        torch.manual_seed(step)  # dropout
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * self.rate(step)
        loss = self.loss(network, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.item())

    def _keep(
        self, place: Path, network: nn.Module, optimizer: torch.optim.Optimizer, record: dict[str, float]
    ) -> None:
        weights = {name: value.detach() for name, value in network.state_dict().items()}
        step = record["step"]
        name = f"step-{step:06}"
        for history in self.histories():
            (place / history).mkdir(parents=True, exist_ok=True)
        if step in self.snapshots:
            self._weights(place / self.name / name, weights)
            if self.casts:
                cast = {
                    key: value.bfloat16() if value.dtype == torch.float32 else value for key, value in weights.items()
                }
                self._weights(place / f"{self.name}-cast-bf16" / name, cast)
            if self.checkpoints:
                whole = {"model": weights, "optimizer": optimizer.state_dict(), **record}
                _write(place / f"{self.name}-checkpoints" / f"{name}.pt", lambda file: torch.save(whole, file))
        if step in self.close:
            self._weights(place / f"{self.name}-close" / name, weights)

    def _weights(self, path: Path, weights: dict[str, Tensor]) -> None:
        if self.torch_files:
            _write(path.with_suffix(".pt"), lambda file: torch.save(weights, file))
        else:
            _write(path.with_suffix(".safetensors"), lambda file: save_file(weights, file))


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    write(unfinished)
    unfinished.replace(path)
