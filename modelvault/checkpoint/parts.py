"""Which part of a checkpoint a tensor belongs to, told by its name.

Parts have retention of their own: optimizer state of old commits is often forgotten, weights hardly ever. So
doubt means weights, and a word such as `scaler` or `loops` deep inside a model decides nothing: names are
read from the left, only through the wrappers that training frameworks put around everything.
"""

from __future__ import annotations

import re
from typing import Literal

Part = Literal["weights", "optimizer", "other"]

_WRAPPERS = frozenset({"checkpoint", "ckpt", "trainer", "training", "train_state", "training_state", "app"})
_OTHER_WORDS = frozenset(
    {
        "scheduler", "schedulers", "rng", "scaler", "loader", "loaders", "dataloader", "dataloaders",
        "sampler", "samplers", "callback", "callbacks", "loop", "loops", "hparams",
    }
)  # fmt: skip
_OPTIMIZER_WORDS = frozenset({"optimizer", "optimizers", "optim", "optims", "optimiser", "optimisers"})
_OPTIMIZER_KEYS = frozenset({"opt_state", "opt_states", "opt_state_dict"})  # OPT alone is a language model
# What torch.optim, its descendants and apex call their state per parameter.
_SLOTS = frozenset(
    {
        "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_avg_diff", "exp_avg_slow", "exp_avg_sq_row",
        "exp_avg_sq_col", "exp_inf", "momentum_buffer", "square_avg", "acc_delta", "grad_avg",
    }
)  # fmt: skip
_SEPARATOR = re.compile(r"[./]")
_WORD = re.compile(r"[a-z]+|[A-Z][a-z]*|[A-Z]+(?![a-z])")


def part_of(name: str) -> Part:
    """Return the part of the checkpoint that a tensor of this name belongs to.

    >>> part_of("optimizer.state.0.exp_avg"), part_of("lr_schedulers.0.last_lr")
    ('optimizer', 'other')
    >>> part_of("model.scaler.weight")
    'weights'
    """
    keys = _SEPARATOR.split(name)
    if keys[-1] in _SLOTS:
        return "optimizer"
    for index, key in enumerate(keys):
        if key in _WRAPPERS:
            continue
        words = {word.lower() for word in _WORD.findall(key)}
        if words & _OTHER_WORDS:
            return "other"
        if words & _OPTIMIZER_WORDS or key in _OPTIMIZER_KEYS:
            return "optimizer"
        # An optimizer's state_dict() on its own: state.N.slot
        if key == "state" and len(keys) > index + 2 and keys[index + 1].isdigit():
            return "optimizer"
        break
    return "weights"
