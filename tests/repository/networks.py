"""Made-up training runs as torch archives: numbers that move as weights do, in files that torch would write."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tests.unit.checkpoint.archives import Member, checkpoint, tensor_pickle

SHUFFLENET = {
    **{f"stage{n // 4}.{n % 4}.pointwise.weight": 20_000 + 1_000 * n for n in range(22)},
    **{f"stage{n // 50}.{n % 50}.norm.weight": 40 + n for n in range(274)},
}
"""As many storages as ShuffleNetV2 x0.5 has, in the same proportions: 296, of which 22 have 64 KiB and more."""


class Run:
    """A training run: float32 storages of the given numbers of elements, that change a little every epoch.

    Args:
        sizes: elements by name.
        seed: for another run, another seed.
        rate: how far one epoch moves a weight, as a share of its size.
    """

    def __init__(self, sizes: dict[str, int], *, seed: int = 0, rate: float = 1e-3) -> None:
        self._generator = np.random.default_rng(seed)
        self._rate = rate
        self.weights: dict[str, NDArray[np.float32]] = {
            name: self._generator.normal(0, 0.05, size).astype("<f4") for name, size in sizes.items()
        }

    def train(self) -> None:
        """Move every weight."""
        for name, values in self.weights.items():
            step = self._generator.normal(0, self._rate, values.size).astype("<f4")
            self.weights[name] = (values + values * step).astype("<f4")

    def file(self, root: str = "archive") -> bytes:
        """Return the archive that torch.save would write."""
        return torch_file(self.weights, root)

    def epochs(self, count: int) -> Iterator[bytes]:
        """Yield the archive of each of the next epochs."""
        for _ in range(count):
            yield self.file()
            self.train()


def torch_file(weights: dict[str, NDArray[np.float32]], root: str = "archive") -> bytes:
    """Return a torch archive of named float32 storages."""
    pickled = tensor_pickle(
        *((name, "FloatStorage", str(key), (values.size,)) for key, (name, values) in enumerate(weights.items()))
    )
    storages = (Member(f"{root}/data/{key}", values.tobytes()) for key, values in enumerate(weights.values()))
    return checkpoint(pickled, *storages, root=root)


def safetensors_file(tensors: dict[str, tuple[str, bytes]]) -> bytes:
    """Return a safetensors file of vectors: dtype and bytes by name."""
    header, end = {}, 0
    for name, (dtype, raw) in tensors.items():
        size = {"F32": 4, "BF16": 2}[dtype]
        header[name] = {"dtype": dtype, "shape": [len(raw) // size], "data_offsets": [end, end + len(raw)]}
        end += len(raw)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(raw for _, raw in tensors.values())


def noise(size: int, seed: int = 0) -> bytes:
    """Return bytes that nothing compresses."""
    return np.random.default_rng(seed).bytes(size)
