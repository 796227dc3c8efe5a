"""Three small histories to plan on: a straight run, a run with branches, and a family of fine-tunes.

A convolutional network of 0.27 million numbers on Fashion-MNIST, SGD with momentum and weight decay. Each history is a
directory of torch files, oldest first in the order of their names, and `parents.json`: which file each one came from.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from training import sources
from training.networks import CLASSES, convolution

_RATE, _DECAY, _BATCH = 0.05, 5e-4, 64


def network() -> nn.Module:
    """Return five convolutions of 32 to 128 channels, and a linear layer."""
    layers: list[nn.Module] = []
    width = 3
    for after, stride in ((32, 2), (64, 2), (96, 1), (96, 2), (128, 1)):
        layers += [convolution(width, after, 3, stride), nn.ReLU()]
        width = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


class Course:
    """A network being trained, and how to go back to where it was."""

    def __init__(self, data: tuple[torch.Tensor, ...], rate: float = _RATE) -> None:
        self.model = network()
        self._data = data
        self._optimizer = torch.optim.SGD(self.model.parameters(), rate, momentum=0.9, weight_decay=_DECAY)

    def begin(self, file: Path, rate: float) -> None:
        """Go on from a snapshot, at another rate, without the momentum it had."""
        self.model.load_state_dict(torch.load(file, weights_only=True))
        self._optimizer = torch.optim.SGD(self.model.parameters(), rate, momentum=0.9, weight_decay=_DECAY)

    def train(self, steps: int, random: torch.Generator, labels: range = range(CLASSES)) -> None:
        """Train on images of some labels."""
        images, answers = self._data[:2]
        known = torch.nonzero((answers >= labels.start) & (answers < labels.stop)).squeeze(1)
        for _ in range(steps):
            chosen = known[torch.randint(len(known), (_BATCH,), generator=random)]
            self._optimizer.zero_grad()
            loss = functional.cross_entropy(self.model(sources.prepared(images[chosen])), answers[chosen])
            loss.backward()
            self._optimizer.step()


class Album:
    """The snapshots of one history."""

    def __init__(self, place: Path) -> None:
        self._place, self._parents = place, dict[str, str | None]()
        place.mkdir(parents=True, exist_ok=True)

    def add(self, model: nn.Module, parent: str | None) -> str:
        """Keep a snapshot; return its name."""
        name = f"{len(self._parents):03}.pt"
        torch.save(model.state_dict(), self._place / name)
        self._parents[name] = parent
        return name

    def close(self) -> None:
        """Say where each came from; the history is whole then."""
        (self._place / "parents.json").write_text(json.dumps(self._parents, indent=0) + "\n")

    def file(self, name: str) -> Path:
        """Return where a snapshot is."""
        return self._place / name


def line(album: Album, course: Course, random: torch.Generator) -> None:
    """64 snapshots, ten steps apart."""
    parent = None
    for _ in range(64):
        course.train(10, random)
        parent = album.add(course.model, parent)


def branches(album: Album, course: Course, random: torch.Generator) -> None:
    """A trunk of six, and two branches of three at other rates, snapshots ten steps apart."""
    trunk: list[str] = []
    for _ in range(6):
        course.train(10, random)
        trunk.append(album.add(course.model, trunk[-1] if trunk else None))
    for start, rate in ((trunk[1], _RATE / 5), (trunk[3], _RATE * 2)):
        course.begin(album.file(start), rate)
        parent = start
        for _ in range(3):
            course.train(10, random)
            parent = album.add(course.model, parent)


def family(album: Album, course: Course, random: torch.Generator) -> None:
    """A base, and eleven fine-tunes of it on five of the labels each; the base comes in the middle."""
    course.train(200, random)
    place = album.file("base.tmp")
    torch.save(course.model.state_dict(), place)
    for number in range(12):
        course.begin(place, _RATE / 50)
        if number == 6:
            album.add(course.model, None)
            continue
        course.train(20, random, range(number % 5, number % 5 + 5))
        album.add(course.model, None)
    place.unlink()


HISTORIES: dict[str, Callable[[Album, Course, torch.Generator], None]] = {
    "line": line,
    "branches": branches,
    "family": family,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="planning.train", description=__doc__.split("\n", 1)[0])
    parser.add_argument("place", metavar="DIR", type=Path, help="where the histories go")
    parser.add_argument("--sources", metavar="DIR", type=Path, help="where images are unpacked, or are already")
    words = parser.parse_args()
    torch.set_num_threads(1)
    data = sources.images(words.sources or words.place / "sources", None)
    for seed, (name, make) in enumerate(HISTORIES.items()):
        if (words.place / name / "parents.json").exists():
            continue
        torch.manual_seed(seed)
        album = Album(words.place / name)
        make(album, Course(data), torch.Generator().manual_seed(seed))
        album.close()
        print(name, flush=True)


if __name__ == "__main__":
    main()
