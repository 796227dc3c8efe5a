#!/usr/bin/env python3
"""Train the paper's networks and keep every snapshot: DIR/NETWORK/epoch-NNN.pt, and what it scored in log.csv.

SGD with momentum 0.9 and weight decay 5e-4; the learning rate is that of the setting, a tenth of it from half of the
snapshots on, and a hundredth from three quarters on. A run that was stopped goes on where its last snapshot ends, with
the momentum of that moment. The small setting takes fewer images between snapshots, not smaller networks.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from pathlib import Path
from typing import NamedTuple

import torch
from images import Images, load_images
from networks import BATCH, NETWORKS
from torch import nn
from torch.nn import functional


class Setting(NamedTuple):
    """How much is trained: snapshots, steps between two of them, images of a step, the learning rate of the first."""

    snapshots: int
    steps: int
    batch: int = 128
    rate: float = 0.1


SMALL = {
    "shufflenet": Setting(24, 32),
    "mobilenet": Setting(20, 20),
    "efficientnet": Setting(6, 25),
    "googlenet": Setting(4, 30, 32, 0.02),
    "vgg16": Setting(5, 50, 64, 0.005),
    "resnet101": Setting(4, 30, 16, 0.005),
}
"""For two cores and two hours, all six. The large networks take small batches and small rates: a few dozen steps of 128
images at 0.1 teach them nothing. Right on 500 test images after their last snapshot, at 0.02 and at 0.005: VGG-16 33 %
and 85 %, ResNet101 13 % (48 steps of 32) and 51 % (120 of 16)."""

FULL = {name: Setting(100, 391) for name in NETWORKS}
"""A hundred epochs of 50,000 images, the paper's order of magnitude."""


def rate(snapshot: int, setting: Setting) -> float:
    """Return the learning rate on the way to a snapshot, counted from 1."""
    if snapshot * 4 > setting.snapshots * 3:
        return setting.rate / 100
    return setting.rate / 10 if snapshot * 2 > setting.snapshots else setting.rate


def accuracy(model: nn.Module, images: Images, count: int) -> float:
    """Return the share of the first `count` test images that are recognised."""
    model.eval()
    with torch.no_grad():
        found = [model(batch).argmax(1) for batch in images.test[:count].split(BATCH)]
    model.train()
    return float((torch.cat(found) == images.test_labels[:count]).double().mean())


def save(model: nn.Module, path: Path) -> None:
    """Write a snapshot, its tensors in rows as anybody would have them."""
    torch.save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)


def train(name: str, setting: Setting, images: Images, root: Path, seed: int) -> None:
    directory = root / name
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = NETWORKS[name].make().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    done = -1
    resume = directory / "resume.pt"
    if resume.exists():
        state = torch.load(resume, weights_only=True)
        done = state["snapshot"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    else:
        save(model, directory / "epoch-000.pt")
        done = 0
    for snapshot in range(done + 1, setting.snapshots + 1):
        generator = torch.Generator().manual_seed(1000 * seed + snapshot)
        order = torch.randperm(len(images.train), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = rate(snapshot, setting)
        begun, losses = time.process_time(), []
        for step in range(setting.steps):
            picked = order[(step * setting.batch) % len(order) :][: setting.batch]
            batch = images.train[picked]
            flipped = torch.rand(len(batch), generator=generator) < 0.5
            batch[flipped] = batch[flipped].flip(3)
            loss = functional.cross_entropy(model(batch), images.train_labels[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        score = accuracy(model, images, 500)
        save(model, directory / f"epoch-{snapshot:03}.pt")
        state = {"snapshot": snapshot, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, directory / "resume.tmp")
        (directory / "resume.tmp").replace(resume)
        row = [snapshot, rate(snapshot, setting), round(sum(losses) / len(losses), 4), round(score, 4)]
        with (directory / "log.csv").open("a", newline="") as file:
            csv.writer(file).writerow([*row, round(time.process_time() - begun, 1)])
        print(name, *row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="where snapshots go")
    parser.add_argument("--networks", nargs="+", default=list(SMALL), choices=list(NETWORKS))
    parser.add_argument("--full", action="store_true", help="a hundred epochs each instead of the small setting")
    parser.add_argument("--cifar", type=Path, help="the directory that holds cifar-10-batches-py")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--sizes", action="store_true", help="print the networks' sizes beside the paper's and stop")
    given = parser.parse_args()
    if given.sizes:
        for name, network in NETWORKS.items():
            tensors = network.make().state_dict().values()
            ours = sum(t.numel() * 4 for t in tensors if t.is_floating_point()) / 2**20
            print(f"{name:<14}{ours:7.1f} MB, paper {network.paper_mb} MB")
        return
    torch.set_num_threads(given.threads)
    images = load_images(given.cifar)
    for name in given.networks:
        train(name, (FULL if given.full else SMALL)[name], images, given.root, given.seed)


if __name__ == "__main__":
    main()
