"""Train a small network on real data and save it after every epoch: the training script of scripts/demo.

A perceptron of two hidden layers (301,066 parameters, fp32) learns scikit-learn's handwritten digits by SGD with
momentum, weight decay and a falling learning rate. After each epoch it writes model.safetensors in the working
directory and a line "epoch step accuracy loss", then waits for a line on stdin before it goes on.
"""

from __future__ import annotations

import itertools
import sys

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

EPOCHS = 20
BATCH = 32
LEARNING_RATE = 0.05
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
WIDTHS = (64, 512, 512, 10)
TEST_IMAGES = 360

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


class Network:
    """Linear layers with ReLU between them, and what SGD remembers of each."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.weights: dict[str, Array] = {}
        for place, (fan_in, fan_out) in enumerate(itertools.pairwise(WIDTHS)):
            scale = np.sqrt(2 / fan_in)
            self.weights[f"layer{place}.weight"] = (rng.standard_normal((fan_in, fan_out)) * scale).astype(np.float32)
            self.weights[f"layer{place}.bias"] = np.zeros(fan_out, np.float32)
        self.momenta = {name: np.zeros_like(weight) for name, weight in self.weights.items()}

    def layers(self) -> list[tuple[Array, Array]]:
        return [(self.weights[f"layer{i}.weight"], self.weights[f"layer{i}.bias"]) for i in range(len(WIDTHS) - 1)]

    def forward(self, images: Array) -> list[Array]:
        """Return the input of every layer, then the logits."""
        values = [images]
        for place, (weight, bias) in enumerate(self.layers()):
            output = values[-1] @ weight + bias
            values.append(output if place == len(WIDTHS) - 2 else np.maximum(output, 0))
        return values

    def step(self, images: Array, labels: Labels, rate: float) -> None:
        """Take one step of SGD on the cross entropy of a batch."""
        values = self.forward(images)
        slope = softmax(values[-1])  # (batch, 10)
        slope[np.arange(len(labels)), labels] -= 1
        slope /= np.float32(len(labels))
        for place in reversed(range(len(WIDTHS) - 1)):
            weight = self.weights[f"layer{place}.weight"]
            gradients = {"weight": values[place].T @ slope + np.float32(WEIGHT_DECAY) * weight, "bias": slope.sum(0)}
            slope = (slope @ weight.T) * (values[place] > 0)
            for kind, gradient in gradients.items():
                name = f"layer{place}.{kind}"
                self.momenta[name] = np.float32(MOMENTUM) * self.momenta[name] + gradient
                self.weights[name] = self.weights[name] - np.float32(rate) * self.momenta[name]

    def measure(self, images: Array, labels: Labels) -> tuple[float, float]:
        """Return accuracy and mean cross entropy."""
        chances = softmax(self.forward(images)[-1])
        loss = -np.log(chances[np.arange(len(labels)), labels] + 1e-12).mean()
        return float((chances.argmax(1) == labels).mean()), float(loss)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    chances: Array = powers / powers.sum(1, keepdims=True)
    return chances


def main() -> None:
    rng = np.random.default_rng(7)
    digits = load_digits()
    order = rng.permutation(len(digits.target))
    images, labels = (digits.data[order] / 16).astype(np.float32), digits.target[order]
    test, train = slice(0, TEST_IMAGES), slice(TEST_IMAGES, None)
    network, step = Network(rng), 0
    batches = len(labels[train]) // BATCH
    for epoch in range(1, EPOCHS + 1):
        shuffled = rng.permutation(len(labels[train]))
        for batch in range(batches):
            rate = LEARNING_RATE * (1 + np.cos(np.pi * step / (EPOCHS * batches))) / 2
            chosen = shuffled[batch * BATCH : (batch + 1) * BATCH]
            network.step(images[train][chosen], labels[train][chosen], rate)
            step += 1
        accuracy, loss = network.measure(images[test], labels[test])
        save_file(network.weights, "model.safetensors")
        print(epoch, step, f"{accuracy:.4f}", f"{loss:.4f}", flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main()
