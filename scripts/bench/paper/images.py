"""Labelled images of 3 x 32 x 32: CIFAR-10 where the user has it, else Fashion-MNIST padded to that form.

CIFAR-10 is looked for as the directory `cifar-10-batches-py` (the archive of its authors, unpacked) in the directory
that is given. Fashion-MNIST is what Debian's package `dataset-fashion-mnist` installs. Nothing is downloaded.
"""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


class Images(NamedTuple):
    """A data set: its name, images (N, 3, 32, 32) in float32 of mean 0 and deviation 1, labels (N,)."""

    name: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def load_images(cifar: Path | None, *, training: int | None = None) -> Images:
    """Return CIFAR-10 from a directory, or Fashion-MNIST.

    Args:
        cifar: the directory that holds `cifar-10-batches-py`, or None.
        training: how many training images are wanted, all if None; they take most of the time and room.

    Raises:
        SystemExit: neither is there.
    """
    if cifar is not None:
        return _cifar10(cifar / "cifar-10-batches-py", training)
    if not FASHION_MNIST.is_dir():
        raise SystemExit("no images: give --cifar DIR, or install the Debian package dataset-fashion-mnist")
    train, test = _idx("train-images-idx3-ubyte"), _idx("t10k-images-idx3-ubyte")
    labels, test_labels = _idx("train-labels-idx1-ubyte"), _idx("t10k-labels-idx1-ubyte")
    return _scaled("Fashion-MNIST", _padded(train), labels, _padded(test), test_labels, training)


def _idx(name: str) -> np.ndarray:
    with gzip.open(FASHION_MNIST / f"{name}.gz") as file:
        data = file.read()
    shape = [int.from_bytes(data[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(data[3])]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def _padded(images: np.ndarray) -> Tensor:
    """Return grey images (N, 28, 28) with a margin of two, three times over."""
    padded = functional.pad(torch.from_numpy(images.copy()), (2, 2, 2, 2))
    return padded[:, None].expand(-1, 3, -1, -1)


def _cifar10(directory: Path, training: int | None) -> Images:
    def batch(name: str) -> tuple[np.ndarray, np.ndarray]:
        # The authors' own archive is a pickle; the user vouches for it by naming it here.
        found = pickle.loads((directory / name).read_bytes(), encoding="bytes")
        return found[b"data"].reshape(-1, 3, 32, 32), np.asarray(found[b"labels"])

    train = [batch(f"data_batch_{number}") for number in range(1, 6)]
    images, labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
    test, test_labels = batch("test_batch")
    return _scaled("CIFAR-10", torch.from_numpy(images), labels, torch.from_numpy(test), test_labels, training)


def _scaled(
    name: str, train: Tensor, labels: np.ndarray, test: Tensor, test_labels: np.ndarray, training: int | None
) -> Images:
    sample = train[::50].float()
    mean, deviation = sample.mean((0, 2, 3), keepdim=True), sample.std((0, 2, 3), keepdim=True)
    train, labels = train[:training], labels[:training]
    scaled = [((images.float() - mean) / deviation).contiguous() for images in (train, test)]
    return Images(
        name,
        scaled[0],
        torch.from_numpy(labels.astype(np.int64)),
        scaled[1],
        torch.from_numpy(test_labels.astype(np.int64)),
    )
