"""Do damaged and forged checkpoints ever break or stall the reader, or get a layout that breaks a promise?"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from modelvault.checkpoint import PARSER_FAILED, BytesSource, read_layout
from modelvault.checkpoint.pickle_symbols import PickleError, read_pickle
from modelvault.checkpoint.torch_objects import storage_uses
from tests.unit.checkpoint.archives import FIXTURE_FILES, FORMAT_FILES, assert_promises, rebuild

PATHS = FIXTURE_FILES + FORMAT_FILES
FILES = [path.read_bytes() for path in PATHS]
NUMBERS = [0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


def hot_spots(data: bytes) -> list[int]:
    """Where headers stand: mutations there reach further than in the middle of a tensor."""
    spots = [0, max(0, len(data) - 22)]
    for signature in (
        b"PK\x01\x02",
        b"PK\x03\x04",
        b"PK\x07\x08",
        b"PK\x06\x06",
        b"data.pkl",
        b"data_offsets",
        b"\x93NUMPY",
        b"GGUF",
        b"weight",
        b"graph",
        b"\x89HDF",
        b"OHDR",
        b"TREE",
        b"SNOD",
        b"HEAP",
    ):
        at = data.find(signature)
        while at >= 0:
            spots.append(at)
            at = data.find(signature, at + 1)
    pickled = max(0, data.find(b"\x80\x02"))
    return spots + list(range(pickled, min(pickled + 3000, len(data)), 80))


STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0kX\x03\0\0\0cpuK\x06tQ"
REBUILDS = [
    b"_rebuild_tensor_v2",
    b"_rebuild_tensor_v3",
    b"_rebuild_qtensor",
    b"_rebuild_sparse_tensor",
    b"f",
]
PIECES = [
    *(bytes([code]) for code in b"N\x88)]}\x8f(((ttaeeudsb0122RRRRRQ\x81\x85\x86\x87\x90\x91\x94\x94lo"),
    *(b"ctorch._utils\n" + name + b"\n" for name in REBUILDS),
    b"ctorch._tensor\n_rebuild_from_type_v2\n",
    *(b"h" + bytes([index]) for index in range(6)),
    *(b"K" + bytes([number]) for number in range(4)),
    STORAGE,
    STORAGE + b"K\0K\x02K\x03\x86K\x03K\x01\x86",
    b"(" + STORAGE + b"K\0K\x02K\x03\x86K\x03K\x01\x86\x89)tR",
]

# Values, marks and memo entries to begin with, so that most opcodes find what they need.
STOCKED = (b"]q\0}q\1)q\2K\2q\3" + STORAGE + b"q\4cm\nf\nq\5((") * 8
SPOTS = [hot_spots(data) for data in FILES]


def mutated(chance: random.Random, which: int | None = None) -> bytes:
    """Return a fixture, any or the one asked for, with one to four things done to it."""
    if which is None:
        which = chance.randrange(len(FILES))
    return mutate(FILES[which], SPOTS[which], chance)


def mutate(original: bytes, spots: list[int], chance: random.Random) -> bytes:
    """Return a file with one to four things done to it, preferably where headers stand."""
    data = bytearray(original)
    for _ in range(chance.randint(1, 4)):
        if chance.random() < 0.6:
            at = min(chance.choice(spots) + chance.randrange(80), max(0, len(data) - 1))
        else:
            at = chance.randrange(len(data) + 1)
        # What moves the bytes behind it mostly ends at the zip directory, so it is rarer.
        match chance.choice([0, 0, 0, 1, 1, 1, 2, 3, 4, 4, 4, 5, 5, 6]):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(data):
                data[at] = chance.randrange(256)
            case 2:
                data[at:at] = chance.randbytes(chance.randint(1, 20))
            case 3:
                del data[at : at + chance.randint(1, 20)]
            case 4:
                width = chance.choice([2, 4, 8])
                number = chance.choice(NUMBERS) & ((1 << 8 * width) - 1)
                data[at : at + width] = number.to_bytes(width, "little")
            case 5:
                source = chance.randrange(len(data) + 1)
                piece = data[source : source + chance.randint(1, 200)]
                data[at : at + len(piece)] = piece
            case 6 if chance.random() < 0.2:
                del data[at:]
    return bytes(data)


def fuzz(count: int, seed: int, which: int | None = None) -> int:
    """Read `count` mutations; the first offender is named by its seed. Return how many were still understood."""
    contained: list[str] = []
    understood = 0
    for number in range(seed, seed + count):
        data = mutated(random.Random(number), which)
        start = time.process_time()
        layout = read_layout(BytesSource(data))
        elapsed = time.process_time() - start
        assert elapsed < 1, f"mutation {number} took {elapsed:.1f} s"
        assert_promises(layout)
        assert rebuild(data, layout)[0] == data, f"mutation {number}"
        contained += [f"{number}: {note}" for note in layout.notes if note.startswith(PARSER_FAILED)]
        understood += bool(layout.segments)
    assert contained == []
    return understood


def fuzz_pickles(count: int, seed: int) -> None:
    """Read `count` pickles of random opcodes, among them the calls that torch makes."""
    read = 0
    for number in range(seed, seed + count):
        chance = random.Random(number)
        pieces = (chance.choice(PIECES) for _ in range(chance.randint(1, 60)))
        data = STOCKED + b"".join(pieces) + b"."
        try:
            root = read_pickle(data)
        except PickleError:
            continue
        read += 1
        for use in storage_uses(root).values():
            use.shape(24)
    assert read > count // 20


def test_mutated_fixtures() -> None:
    # The mutations are not so rough that nothing is left to read.
    assert fuzz(2_000, seed=0) > 2_000 // 3


@pytest.mark.parametrize("path", FORMAT_FILES, ids=lambda path: path.name)
def test_mutations_of_each_format(path: Path) -> None:
    """A thousand mutations of each format: every format has several of these files."""
    fuzz(500, seed=5_000, which=PATHS.index(path))


def test_random_pickles() -> None:
    fuzz_pickles(5_000, seed=0)


@pytest.mark.slow
def test_many_mutated_fixtures() -> None:
    assert fuzz(100_000, seed=10_000) > 100_000 // 3


@pytest.mark.slow
def test_many_random_pickles() -> None:
    fuzz_pickles(500_000, seed=10_000)


@pytest.mark.slow
@pytest.mark.parametrize("path", FORMAT_FILES, ids=lambda path: path.name)
def test_many_mutations_of_each_format(path: Path) -> None:
    fuzz(10_000, seed=200_000, which=PATHS.index(path))
