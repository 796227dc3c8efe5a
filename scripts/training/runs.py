"""The runs: which networks, data, optimizers and gaps. Small ones take minutes, whole ones hours of one core."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from training import networks, sources
from training.optimizers import Lion
from training.run import Run
from training.transformers import Decoder, Encoder

_TEXT_TOKENS = 48
_TEMPERATURE = 0.05
_UNKNOWN = 100
"""What MiniLM's tokenizer calls a word it does not know."""


def all_runs(place: Path, images: Path | None, whole: bool) -> Iterator[Run]:
    """Return the runs, those first that are used most."""
    cached = place / "sources"
    pictures = cache(lambda: sources.images(cached, images))
    texts = cache(lambda: _texts(cached))
    more = 2 if whole else 1

    def fine_tune(name: str, dtype: torch.dtype, about: str, schedule: bool = False) -> Run:
        last = 100 * more
        return Run(
            name=name,
            about=f"all-MiniLM-L6-v2 (22.7 M) fine-tuned on Python's docstrings, {about}",
            network=lambda: _minilm(cached, dtype),
            optimizer=lambda network: _adamw(network, 2e-5, 0.01, apart=schedule),
            rate=(lambda step: min(step / 10, (last - step) / (last - 10))) if schedule else (lambda step: 1.0),
            loss=lambda network, random: _contrast(network, texts(), random),
            measure=lambda network: {},
            snapshots=range(0, last + 1, 20),
            close=(80, 81, 82, 85, 90) if dtype == torch.float32 and not schedule else (),
            casts=dtype == torch.float32,
        )

    yield fine_tune("minilm-adamw", torch.float32, "AdamW, fp32, constant rate 2e-5, weight decay 0.01")
    yield Run(
        name="mobilenet-adamw",
        about="MobileNetV2 (2.3 M) on Fashion-MNIST, AdamW, rate 1e-3 falling as a cosine, weight decay 0.05",
        network=networks.mobilenet,
        optimizer=lambda network: torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.05),
        rate=lambda step: (1 + math.cos(math.pi * step / (400 * more))) / 2,
        loss=lambda network, random: _classify(network, pictures(), random, 32),
        measure=lambda network: _accuracy(network, pictures()),
        snapshots=range(0, 240 * more + 1, 40),
        casts=True,
        torch_files=True,
    )
    yield Run(
        name="resnet-sgd",
        about="ResNet-18 (11.2 M) on Fashion-MNIST, SGD, rate 0.05, 0.005, momentum 0.9, weight decay 5e-4",
        network=networks.resnet18,
        optimizer=lambda network: torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, weight_decay=5e-4),
        rate=lambda step: 1.0 if step <= 90 * more else 0.1,
        loss=lambda network, random: _classify(network, pictures(), random, 32),
        measure=lambda network: _accuracy(network, pictures(), 500),
        snapshots=range(0, 150 * more + 1, 30),
        casts=True,
    )
    yield fine_tune("minilm-bf16", torch.bfloat16, "AdamW, weights and optimizer in bf16, constant rate 2e-5")
    yield Run(
        name="shufflenet-sgd",
        about="ShuffleNet, 2 groups (0.9 M) on Fashion-MNIST, SGD, rate 0.1, 0.01, momentum 0.9, weight decay 5e-4",
        network=networks.shufflenet,
        optimizer=lambda network: torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4),
        rate=lambda step: 1.0 if step <= 240 * more else 0.1,
        loss=lambda network, random: _classify(network, pictures(), random, 64),
        measure=lambda network: _accuracy(network, pictures()),
        snapshots=range(0, 320 * more + 1, 40),
        casts=True,
        torch_files=True,
    )
    yield Run(
        name="gpt-adamw",
        about="GPT-2's form (12.6 M) from nothing on Python's docstrings, AdamW, rate 6e-4, matrices decay by 0.1",
        network=Decoder,
        optimizer=lambda network: _adamw(network, 6e-4, 0.1, apart=True),
        rate=lambda step: min(step / 20, (1 + math.cos(math.pi * step / (240 * more))) / 2),
        loss=lambda network, random: _predict(network, texts(), random),
        measure=lambda network: {},
        snapshots=range(0, 160 * more + 1, 40),
        casts=True,
    )
    yield fine_tune(
        "minilm-schedule", torch.float32, "AdamW, fp32, rate rising then falling, no decay on biases and norms", True
    )


def optimizer_runs(place: Path, images: Path | None) -> Iterator[Run]:
    """Return short runs of one network, each with another optimizer: what the coder was not tuned on."""
    pictures = cache(lambda: sources.images(place / "sources", images))
    made: dict[str, tuple[str, Callable[[nn.Module], torch.optim.Optimizer]]] = {
        "adam": ("Adam, rate 1e-3", lambda network: torch.optim.Adam(network.parameters(), 1e-3)),
        "adagrad": ("Adagrad, rate 1e-2", lambda network: torch.optim.Adagrad(network.parameters(), 1e-2)),
        "rmsprop": (
            "RMSprop, rate 1e-3, momentum 0.9, weight decay 1e-5",
            lambda network: torch.optim.RMSprop(network.parameters(), 1e-3, momentum=0.9, weight_decay=1e-5),
        ),
        "nesterov": (
            "SGD, rate 0.05, Nesterov's momentum 0.9, weight decay 1e-4",
            lambda network: torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=1e-4),
        ),
        "plain-sgd": ("SGD, rate 0.05, nothing else", lambda network: torch.optim.SGD(network.parameters(), 0.05)),
        "lion": (
            "Lion, rate 1e-4, weight decay 0.1",
            lambda network: Lion(network.parameters(), 1e-4, weight_decay=0.1),
        ),
    }
    for name, (about, optimizer) in made.items():
        yield Run(
            name=f"shufflenet-{name}",
            about=f"ShuffleNet, 2 groups (0.9 M) on Fashion-MNIST, {about}",
            network=networks.shufflenet,
            optimizer=optimizer,
            rate=lambda step: 1.0,
            loss=lambda network, random: _classify(network, pictures(), random, 32),
            measure=lambda network: _accuracy(network, pictures(), 500),
            snapshots=range(0, 121, 30),
            casts=True,
        )


def _adamw(network: nn.Module, rate: float, decay: float, apart: bool) -> torch.optim.Optimizer:
    """Return AdamW; `apart`: vectors are in a group that does not decay, as trainers do it."""
    if not apart:
        return torch.optim.AdamW(network.parameters(), rate, weight_decay=decay)
    groups = [
        {"params": [value for value in network.parameters() if value.dim() >= 2], "weight_decay": decay},
        {"params": [value for value in network.parameters() if value.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, rate, betas=(0.9, 0.95) if decay == 0.1 else (0.9, 0.999))


def _classify(network: nn.Module, data: tuple[Tensor, ...], random: torch.Generator, batch: int) -> Tensor:
    chosen = torch.randint(len(data[0]), (batch,), generator=random)
    return functional.cross_entropy(network(sources.prepared(data[0][chosen])), data[1][chosen])


def _accuracy(network: nn.Module, data: tuple[Tensor, ...], images: int = 1000) -> dict[str, float]:
    with torch.no_grad():
        answers = torch.cat([network(sources.prepared(part)).argmax(1) for part in data[2][:images].split(250)])
    return {"accuracy": round(float((answers == data[3][:images]).float().mean()), 4)}


class _Texts(NamedTuple):
    """Word numbers: of first paragraphs, of what follows each, and of everything in one run."""

    first: list[list[int]]
    rest: list[list[int]]
    stream: Tensor


def _texts(cached: Path) -> _Texts:
    tokenizer = sources.minilm(cached)[1]
    columns = [
        [encoding.ids for encoding in tokenizer.encode_batch(list(column))]
        for column in zip(*sources.documentation(), strict=True)
    ]
    words = [word for column in columns for text in column for word in text]
    if words.count(_UNKNOWN) > len(words) / 100:
        raise sources.SourceError("more than one word in a hundred is unknown to the tokenizer: it is not MiniLM's")
    stream = [word for pair in zip(*columns, strict=True) for text in pair for word in text]
    return _Texts(columns[0], columns[1], torch.tensor(stream))


def _minilm(cached: Path, dtype: torch.dtype) -> nn.Module:
    network = Encoder()
    weights = sources.minilm(cached)[0]
    del weights["embeddings.position_ids"]  # 0, 1, 2, ...: no parameter
    network.load_state_dict(weights)
    return network.to(dtype)


def _contrast(network: nn.Module, texts: _Texts, random: torch.Generator) -> Tensor:
    """Return the loss that sentence encoders are tuned by: which of the batch's texts follows this first paragraph."""
    chosen = torch.randint(len(texts.first), (16,), generator=random).tolist()
    sides = []
    for column in (texts.first, texts.rest):
        lines = [column[place][: _TEXT_TOKENS - 1] + column[place][-1:] for place in chosen]
        longest = max(map(len, lines))
        tokens = torch.tensor([line + [0] * (longest - len(line)) for line in lines])
        sides.append(network(tokens, tokens != 0))
    alike = sides[0] @ sides[1].T / _TEMPERATURE
    return functional.cross_entropy(alike.float(), torch.arange(len(chosen)))


def _predict(network: nn.Module, texts: _Texts, random: torch.Generator) -> Tensor:
    starts = torch.randint(len(texts.stream) - 129, (8,), generator=random).tolist()
    tokens = torch.stack([texts.stream[start : start + 129] for start in starts])
    return functional.cross_entropy(network(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
