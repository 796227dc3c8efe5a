"""Do directories come back as the libraries that made them left them, understood as far as they can be, and mangled?"""

from __future__ import annotations

import random
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest

from modelvault.checkpoint import PARSER_FAILED, BytesSource, read_layout
from modelvault.repository.checkout import checkout
from modelvault.repository.commit import Request, make_commit
from modelvault.repository.repository import Repository
from modelvault.repository.revisions import Resolved
from tests.fuzz.test_checkpoint_fuzz import hot_spots, mutate
from tests.unit.checkpoint.archives import assert_promises, rebuild

from .vaults import commit, contents_of, files_of, new_vault

FIXTURES = Path(__file__).parents[1] / "fixtures" / "directories"
LIBRARIES = sorted(path.name for path in FIXTURES.iterdir())

UNDERSTOOD: dict[str, tuple[str, float]] = {
    "lightning/*.ckpt": ("torch-zip", 0.60),
    "transformers/*.safetensors": ("safetensors", 0.90),
    "transformers/*/optimizer.pt": ("torch-zip", 0.80),
    "dcp/*.distcp": ("torch-dcp", 0.30),
    "deepspeed/*_model_states.pt": ("torch-zip", 0.60),
    "deepspeed/*_optim_states.pt": ("torch-zip", 0.75),
}
"""Pattern -> its format, and the least share of its bytes that is understood as tensors. These networks are tiny: most
of what is left is the container. orbax compresses its arrays, so what it writes is kept as bytes."""


def tree(directory: Path) -> dict[str, bytes]:
    """Return path -> bytes of all files below a directory, links followed."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def copy(name: str, root: Path) -> Path:
    shutil.copytree(FIXTURES / name, root / name, symlinks=True)
    return root / name


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv("MODELVAULT_AUTHOR", "Ada")
    return new_vault(tmp_path / "vault")


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_directory_comes_back(vault: Repository, name: str, tmp_path: Path) -> None:
    directory = copy(name, vault.root)
    expected = tree(directory)
    assert len(expected) >= 3
    done = make_commit(vault, Request([directory], name))
    assert files_of(vault, done.commit_id) == {f"{name}/{path}": data for path, data in expected.items()}
    checkout(vault, Resolved(done.commit_id), (), output=tmp_path / "back", is_directory=True)
    assert tree(tmp_path / "back" / name) == expected


@pytest.mark.parametrize("name", LIBRARIES)
def test_its_tensors_are_understood(vault: Repository, name: str) -> None:
    done = make_commit(vault, Request([copy(name, vault.root)], name))
    contents = contents_of(vault, done.commit_id)
    for pattern, (format_name, share) in UNDERSTOOD.items():
        matching = {path: found for path, found in contents.items() if fnmatch(path, pattern)}
        assert bool(matching) == pattern.startswith(f"{name}/")
        for path, found in matching.items():
            assert found.format == format_name, path
            assert found.understood_share >= share, (path, found.understood_share)


def test_a_snapshot_in_a_cache_is_committed_with_what_it_links_to(vault: Repository, tmp_path: Path) -> None:
    cache = copy("transformers", vault.root) / "cache"
    (snapshot,) = cache.glob("*/snapshots/*")
    assert all(path.is_symlink() for path in snapshot.iterdir())
    done = make_commit(vault, Request([snapshot], "a snapshot"))
    shutil.rmtree(cache)
    checkout(vault, Resolved(done.commit_id), (), output=tmp_path / "back", is_directory=True)
    back = tmp_path / "back" / snapshot.relative_to(vault.root)
    assert not any(path.is_symlink() for path in back.iterdir())
    assert tree(back) == tree(FIXTURES / "transformers" / "cache" / snapshot.relative_to(cache))


@pytest.mark.parametrize("name", LIBRARIES)
def test_what_is_there_already_is_not_stored_again(vault: Repository, name: str) -> None:
    directory = copy(name, vault.root)
    make_commit(vault, Request([directory], "all of it"))
    again = make_commit(vault, Request([directory], "all of it again"))
    assert again.unchanged
    assert again.payload.added_bytes < 200 * (1 + len(again.commit.files))
    (vault.root / "moved").mkdir()
    directory.rename(vault.root / "moved" / name)
    moved = make_commit(vault, Request([vault.root / "moved"], "in another place"))
    assert moved.payload.keyframes == moved.payload.deltas == 0


def mangled(name: str, chance: random.Random) -> dict[str, bytes]:
    return {
        path: mutate(data, hot_spots(data), chance) if chance.random() < 0.7 else data
        for path, data in tree(FIXTURES / name).items()
    }


def run_mangled(repository: Repository, name: str, count: int) -> None:
    for seed in range(count):
        files = mangled(name, random.Random(seed))
        assert files_of(repository, commit(repository, files).commit_id) == files


@pytest.mark.parametrize("name", LIBRARIES)
def test_mangled_directories_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MODELVAULT_AUTHOR", "Ada")
    run_mangled(new_vault(tmp_path, "memory"), name, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARIES)
def test_many_mangled_directories_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MODELVAULT_AUTHOR", "Ada")
    run_mangled(new_vault(tmp_path, "memory"), name, 60)


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_thousand_mangled_files_are_read(name: str) -> None:
    files = [(data, hot_spots(data)) for path, data in sorted(tree(FIXTURES / name).items()) if data]
    for seed in range(1_000):
        data = mutate(*files[seed % len(files)], random.Random(seed))
        layout = read_layout(BytesSource(data))
        assert_promises(layout)
        assert rebuild(data, layout)[0] == data
        assert not [note for note in layout.notes if note.startswith(PARSER_FAILED)]
