"""Does a tensor's name tell its part, and does doubt mean weights?"""

from __future__ import annotations

import pytest

from modelvault.checkpoint import part_of

from .archives import expectations


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("", "weights"),
        ("conv1.weight", "weights"),
        ("model.layers.0.self_attn.q_proj.weight", "weights"),
        ("state_dict.optimizer_free_layer.weight", "weights"),
        ("state_dict.encoder.weight", "weights"),
        ("ema.shadow.0", "weights"),
        ("data/7", "weights"),
        # words of the other parts deep inside a model decide nothing
        ("model.scaler.weight", "weights"),
        ("encoder.loops.0.weight", "weights"),
        ("net.optimizer.weight", "weights"),
        ("opt.decoder.layers.0.fc1.weight", "weights"),
        ("rngesus.weight", "weights"),
        ("state.weight", "weights"),
        ("optimizer.state.0.exp_avg", "optimizer"),
        ("optimizer.state.0.step", "optimizer"),
        ("optimizer.param_groups.0.lr", "optimizer"),
        ("optimizer_states.0.state.17.exp_avg_sq", "optimizer"),
        ("optimizer_state_dict.state.3.momentum_buffer", "optimizer"),
        ("optim.state.0.exp_avg", "optimizer"),
        ("optimizers.1.state.0.step", "optimizer"),
        ("generator_optimizer.state.0.step", "optimizer"),
        ("optimizer_G.state.0.step", "optimizer"),
        ("trainOptimizer.state.0.step", "optimizer"),
        ("opt_state.0.mu", "optimizer"),
        ("checkpoint.optimizer.state.0.step", "optimizer"),
        ("state.0.exp_avg", "optimizer"),
        ("state.0.step", "optimizer"),
        ("0.state.exp_avg", "optimizer"),
        ("optimizer/state/0/exp_avg", "optimizer"),
        ("lr_schedulers.0._last_lr", "other"),
        ("lr_scheduler.base", "other"),
        ("scheduler.x", "other"),
        ("optimizer_scheduler.x", "other"),
        ("rng_state", "other"),
        ("torch_rng_state", "other"),
        ("cuda_rng_state_all.0", "other"),
        ("rng.torch", "other"),
        ("scaler._scale", "other"),
        ("grad_scaler.scale", "other"),
        ("train_loader.generator", "other"),
        ("dataloader_state.x", "other"),
        ("callbacks.EarlyStopping.best_score", "other"),
        ("loops.fit_loop.state", "other"),
        ("trainer.rng_state", "other"),
    ],
)
def test_part_of(name: str, part: str) -> None:
    assert part_of(name) == part


def test_a_whole_checkpoint_falls_into_its_parts() -> None:
    for file in ("adamw-checkpoint.pt", "sgd-momentum.pt"):
        for storage in expectations()[file]:
            head = storage.name.split(".")[0]
            assert part_of(storage.name) == {"model": "weights", "optimizer": "optimizer"}.get(head, "other")
