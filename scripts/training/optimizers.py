"""Optimizers that torch does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Lion(torch.optim.Optimizer):
    """Moves each weight by its rate, up or down, as the sign of a mean of gradients says (arXiv:2302.06675).

    Args:
        parameters: what is trained.
        lr: the rate.
        betas: how much of the mean is kept for the sign, and for the next step (algorithm 2).
        weight_decay: decoupled.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Take one step; there is no closure."""
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._move(parameter, parameter.grad, group)

    def _move(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        for_sign, for_mean = group["betas"]
        mean = self.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(torch.sign(mean * for_sign + gradient * (1 - for_sign)), alpha=-group["lr"])
        mean.mul_(for_mean).add_(gradient, alpha=1 - for_mean)
