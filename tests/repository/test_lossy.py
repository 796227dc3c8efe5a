"""Does a lossy commit keep its promise: the bound for every number, the same bytes each time, and no word of more?"""

from __future__ import annotations

import io
import math
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from modelvault.codec import Bound
from modelvault.errors import InputError, UsageError, WouldLoseDataError
from modelvault.ids import FileId
from modelvault.objects.payload import EXACT, LOSSY
from modelvault.repository import history
from modelvault.repository.checkout import checkout, restore
from modelvault.repository.commit import Committed, Request, make_commit
from modelvault.repository.damage import commits_hurt_by
from modelvault.repository.evaluator import Evaluate, checked, command
from modelvault.repository.fsck import check
from modelvault.repository.gc import collect_garbage
from modelvault.repository.lossy import Evaluation, LossyRequest
from modelvault.repository.repack import Bounds, repack
from modelvault.repository.repository import Repository
from modelvault.repository.revisions import resolve
from modelvault.repository.status import read_status
from tests.unit.checkpoint.archives import Member, checkpoint, tensor_pickle

from .vaults import commit, new_vault

SHAPES = {
    "conv.weight": (64, 32, 3, 3),
    "fc.weight": (96, 64),
    "conv.bias": (64,),
    "norm.running_var": (64,),
    "optimizer.state.0.exp_avg": (64, 32, 3, 3),
}


class Network:
    """Weights of two dimensions and of one, and an optimizer's state, as float32 storages of a torch archive."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self.tensors: dict[str, NDArray[np.float32]] = {
            name: self._random.normal(0, 0.05, shape).astype("<f4") for name, shape in SHAPES.items()
        }
        self.tensors["norm.running_var"] = np.exp(self._random.normal(-4, 4, 64)).astype("<f4")

    def train(self) -> None:
        for name, values in self.tensors.items():
            self.tensors[name] = values + self._random.normal(0, 0.002, values.shape).astype("<f4") * np.abs(values)

    def file(self) -> bytes:
        pickled = tensor_pickle(
            *((name, "FloatStorage", str(key), v.shape) for key, (name, v) in enumerate(self.tensors.items()))
        )
        storages = (Member(f"archive/data/{key}", v.tobytes()) for key, v in enumerate(self.tensors.values()))
        return checkpoint(pickled, *storages, root="archive")


def numbers(data: bytes) -> dict[str, NDArray[np.float64]]:
    """Read an archive back with zipfile, which checks every checksum."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {
            name: np.frombuffer(archive.read(f"archive/data/{key}"), "<f4").astype(np.float64)
            for key, name in enumerate(SHAPES)
        }


def lossy_commit(vault: Repository, data: bytes, wish: LossyRequest, message: str = "epoch 1") -> Committed:
    path = vault.root / "model.pt"
    path.write_bytes(data)
    return make_commit(vault, Request([path], message, lossy=wish))


def given_back(vault: Repository, done: Committed) -> bytes:
    with vault.store.read() as txn:
        (entry,) = history.kept_files(txn, done.commit_id, done.commit)
    return b"".join(restore(vault.store, entry))


@pytest.mark.parametrize("vectors", [0.0, 0.01])
@pytest.mark.parametrize("bound", Bound)
def test_the_bound_holds_for_every_number(vault: Repository, bound: Bound, vectors: float) -> None:
    data = Network().file()
    eps = 0.002
    done = lossy_commit(vault, data, LossyRequest(eps, bound, vectors))
    found = given_back(vault, done)
    assert len(found) == len(data)
    assert found != data
    before, after = numbers(data), numbers(found)
    largest = 0.0
    for name, shape in SHAPES.items():
        error = np.abs(after[name] - before[name])
        limit = eps * np.abs(before[name]) if bound is Bound.REL else np.full(error.size, math.log1p(eps))
        assert (error <= limit).all(), name
        if name.startswith("optimizer") or (len(shape) == 1 and not vectors):
            assert not error.any(), f"{name} is exact"
        elif len(shape) == 1:
            assert (error <= vectors * np.abs(before[name])).all(), name
            assert error.any()
        largest = max(largest, float(error.max()))
    lossy = done.payload.lossy
    assert lossy is not None
    assert done.payload.mode == LOSSY
    assert (lossy.eps, lossy.vectors, lossy.max_abs) == (eps, vectors, largest)
    assert lossy.changed == sum(int((after[name] != before[name]).sum()) for name in SHAPES)
    assert done.payload.mode_name == f"lossy {bound.name.lower()} 0.002"
    with vault.store.read() as txn:
        assert history.read_payload(txn, done.commit_id) == done.payload


def test_thirty_commits_in_a_row_stay_within_the_bound_and_cost_less(vault: Repository) -> None:
    network = Network()
    wish = LossyRequest(0.001, vectors=0.001)
    made = []
    for epoch in range(30):
        data = network.file()
        made.append((data, lossy_commit(vault, data, wish, f"epoch {epoch}")))
        network.train()
    for data, done in made:
        before, after = numbers(data), numbers(given_back(vault, done))
        assert all(np.abs(after[name] - before[name]).max() <= math.log1p(0.001) for name in SHAPES)
    assert check(vault).problems == ()
    exact = new_vault(vault.root / "exact")
    first, second = made[0][0], made[1][0]
    commit(exact, first)
    assert made[1][1].payload.added_bytes < 0.8 * commit(exact, second).payload.added_bytes


def test_the_same_bytes_before_and_after_garbage_collection(vault: Repository) -> None:
    network = Network()
    made = []
    for epoch in range(4):
        made.append(lossy_commit(vault, network.file(), LossyRequest(0.001), f"epoch {epoch}"))
        network.train()
    before = [given_back(vault, done) for done in made]
    collect_garbage(vault, grace=0.0, compact=True)
    assert [given_back(vault, done) for done in made] == before
    assert check(vault).problems == ()


def test_the_original_counts_as_bytes_that_no_commit_holds(disk_vault: Repository) -> None:
    data = Network().file()
    lossy_commit(disk_vault, data, LossyRequest(0.001))
    assert read_status(disk_vault).is_clean, "it is what was committed"
    with disk_vault.store.read() as txn:
        resolved = resolve(txn, "HEAD", disk_vault.config)
    with pytest.raises(WouldLoseDataError):
        checkout(disk_vault, resolved)
    assert (disk_vault.root / "model.pt").read_bytes() == data
    checkout(disk_vault, resolved, force=True)
    assert (disk_vault.root / "model.pt").read_bytes() != data
    assert read_status(disk_vault).is_clean
    checkout(disk_vault, resolved)  # the stand-in may be written over


def test_an_exact_commit_of_the_same_file_keeps_every_bit(vault: Repository) -> None:
    data = Network().file()
    lossy = lossy_commit(vault, data, LossyRequest(0.001))
    exact = commit(vault, data, "the same")
    assert exact.commit.files == lossy.commit.files
    assert exact.payload.mode == EXACT
    assert given_back(vault, exact) == data
    assert given_back(vault, lossy) != data


def test_what_has_nothing_to_round_is_kept_exactly(vault: Repository) -> None:
    data = np.random.default_rng(1).bytes(300_000)
    done = lossy_commit(vault, data, LossyRequest(0.1))
    assert done.payload.mode == EXACT
    assert given_back(vault, done) == data


def test_damage_names_the_lossy_commit(vault: Repository) -> None:
    done = lossy_commit(vault, Network().file(), LossyRequest(0.001))
    with vault.store.read() as txn:
        (entry,) = history.kept_files(txn, done.commit_id, done.commit)
        assert entry.file_id != done.commit.files[0].file_id
        assert commits_hurt_by(txn, set(), {FileId(entry.file_id)}) == [done.commit_id]
    with vault.store.write() as txn:
        txn.delete("recipes", entry.file_id)
    (problem,) = check(vault).problems
    assert problem.commits == (done.commit_id,)


def test_a_damaged_payload_record_lets_no_stand_in_go(vault: Repository) -> None:
    done = lossy_commit(vault, Network().file(), LossyRequest(0.001))
    found = given_back(vault, done)
    record = done.payload.to_bytes(done.commit_id)
    with vault.store.write() as txn:
        txn.put("payloads", done.commit_id, record[:-1])
    collect_garbage(vault, grace=0.0)
    with vault.store.write() as txn:
        txn.put("payloads", done.commit_id, record)
    assert given_back(vault, done) == found


def evaluation(evaluate: Evaluate, max_drop: float = 0.01, **more: float) -> Evaluation:
    return Evaluation(checked(evaluate, "closeness"), "closeness", max_drop, bounds=(0.0005, 0.005, 0.05), **more)


def test_the_search_takes_the_best_of_the_bounds_that_lose_little_enough(vault: Repository) -> None:
    data = Network().file()
    before = numbers(data)["conv.weight"]
    seen = []

    def closeness(path: Path) -> float:
        seen.append(path.name)
        error = float(np.abs(numbers(path.read_bytes())["conv.weight"] - before).max())
        return 0.9 if error < 0.01 else 0.5

    done = lossy_commit(vault, data, LossyRequest(None, evaluation=evaluation(closeness)))
    lossy = done.payload.lossy
    assert lossy is not None
    assert lossy.eps == 0.005, "the largest ratio of those that lose nothing"
    assert [trial.metric for trial in lossy.trials] == [0.9, 0.9, 0.5]
    assert lossy.trials[2].score == 0
    assert lossy.trials[1].score > lossy.trials[0].score
    assert lossy.trials[0].ratio < lossy.trials[1].ratio < lossy.trials[2].ratio
    assert (lossy.original_metric, lossy.max_drop, lossy.evaluator) == (0.9, 0.01, "closeness")
    assert seen == ["model.pt"] * 4, "it sees the file under its own name"
    with vault.store.read() as txn:
        assert history.read_payload(txn, done.commit_id).lossy == lossy


def fails(_: Path) -> float:
    raise RuntimeError("no such layer")


@pytest.mark.parametrize(
    ("evaluate", "why"),
    [
        (fails, "RuntimeError: no such layer"),
        (lambda _: math.nan, "returned nan"),
        (lambda _: math.inf, "returned inf"),
        (lambda _: "good", "ValueError"),
        (lambda _: None, "TypeError"),
    ],
)
def test_an_evaluator_that_fails_commits_nothing(vault: Repository, evaluate: Evaluate, why: str) -> None:
    with pytest.raises(InputError, match=why):
        lossy_commit(vault, Network().file(), LossyRequest(0.001, evaluation=evaluation(evaluate)))
    with vault.store.read() as txn:
        assert txn.count("commits") == txn.count("recipes") == 0


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("false", "exit code 1"),
        ("sh -c 'echo broken >&2; exit 3'", "exit code 3: broken"),
        ("sh -c 'kill -9 $$'", "signal 9"),
        ("echo", "ended with"),
        ("true", "printed nothing"),
        ("sh -c 'echo nan'", "printed nan"),
        ("sh -c 'echo -inf'", "printed -inf"),
        ("sh -c 'sleep 60 & sleep 60'", "longer than"),
        ("yes", "longer than"),
        ("sh -c 'echo 0.5; exec >&-; sleep 60'", "longer than"),
        ("no-such-program-here", "No such file"),
    ],
)
def test_a_command_that_fails_commits_nothing(vault: Repository, program: str, why: str) -> None:
    judged = Evaluation(command(program, timeout=2.0), program, 0.01)
    with pytest.raises(InputError, match=why):
        lossy_commit(vault, Network().file(), LossyRequest(0.001, evaluation=judged))
    with vault.store.read() as txn:
        assert txn.count("commits") == 0


def test_a_command_gets_the_path_and_gives_a_number(vault: Repository) -> None:
    judged = Evaluation(command("sh -c 'echo some words; wc -c < \"$0\"; echo'"), "size", 0.0)
    done = lossy_commit(vault, Network().file(), LossyRequest(0.001, evaluation=judged))
    assert done.payload.lossy is not None
    assert done.payload.lossy.original_metric == done.commit.raw_bytes


def test_what_a_command_prints_is_not_held_whole(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        assert command("sh -c 'yes | head -c 30000000; yes | head -c 30000000 >&2; echo 0.5'")(tmp_path) == 0.5
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_bounds_that_all_lose_too_much_commit_nothing(vault: Repository) -> None:
    metrics = iter([1.0, 0.5, 0.5, 0.5])
    with pytest.raises(InputError, match="no bound keeps"):
        lossy_commit(vault, Network().file(), LossyRequest(None, evaluation=evaluation(lambda _: next(metrics))))
    with vault.store.read() as txn:
        assert txn.count("commits") == 0


def test_wishes_that_make_no_sense(vault: Repository) -> None:
    good = evaluation(lambda _: 1.0)
    for wish in (
        LossyRequest(0.0),
        LossyRequest(-0.1),
        LossyRequest(math.nan),
        LossyRequest(1.5),
        LossyRequest(0.01, vectors=-1.0),
        LossyRequest(None),
        LossyRequest(None, evaluation=Evaluation(good.evaluate, "x", -0.1)),
        LossyRequest(None, evaluation=Evaluation(good.evaluate, "x", 0.1, 2.0)),
    ):
        with pytest.raises(UsageError):
            lossy_commit(vault, Network().file(), wish)
    (vault.root / "other.pt").write_bytes(Network(1).file())
    both = [vault.root / "model.pt", vault.root / "other.pt"]
    with pytest.raises(UsageError, match="2 files"):
        make_commit(vault, Request(both, "two", lossy=LossyRequest(None, evaluation=good)))


def test_the_papers_formula_counts_from_what_the_parent_gives_back(vault: Repository) -> None:
    """Hu et al., ICPP 2020: A' = B + 2 M log(1 + eps), B as a checkout gives it; so no error grows along the chain."""
    network, eps = Network(), 0.004
    step = 2 * math.log(1 + eps)
    data = [network.file()]
    made = [commit(vault, data[0])]
    for epoch in range(12):
        network.train()
        data.append(network.file())
        made.append(lossy_commit(vault, data[-1], LossyRequest(eps, Bound.PAPER), f"epoch {epoch}"))
    before = numbers(data[0])
    for file, done in zip(data[1:], made[1:], strict=True):
        old, new = numbers(file), numbers(given_back(vault, done))
        for name, shape in SHAPES.items():
            assert (np.abs(new[name] - old[name]) <= math.log1p(eps)).all()
            if len(shape) > 1 and not name.startswith("optimizer"):
                multiples = (new[name] - before[name]) / step
                assert np.abs(multiples - np.rint(multiples)).max() < 1e-4
                papers = before[name] + step * np.floor((old[name] - before[name]) / step + 0.5)
                assert np.mean(np.abs(new[name] - papers) < 1e-7) > 0.999
            else:
                assert (new[name] == old[name]).all()
        before = new
        assert done.payload.mode_name == "lossy paper 0.004"
    assert made[-1].payload.added_bytes < 0.7 * made[0].payload.added_bytes
    assert check(vault).problems == ()


def test_the_papers_formula_without_a_reference_counts_from_zero(vault: Repository) -> None:
    done = lossy_commit(vault, Network().file(), LossyRequest(0.01, Bound.PAPER))
    multiples = numbers(given_back(vault, done))["conv.weight"] / (2 * math.log(1.01))
    assert np.abs(multiples - np.rint(multiples)).max() < 1e-5
    other = Network(1)
    other.tensors["fc.weight"] = other.tensors["fc.weight"].reshape(-1)[:64].reshape(8, 8)
    other.tensors = {name: other.tensors[name] for name in SHAPES}
    pickled = tensor_pickle(
        *((name, "FloatStorage", str(k), v.shape) for k, (name, v) in enumerate(other.tensors.items()))
    )
    storages = (Member(f"archive/data/{k}", v.tobytes()) for k, v in enumerate(other.tensors.values()))
    reshaped = lossy_commit(
        vault, checkpoint(pickled, *storages, root="archive"), LossyRequest(0.01, Bound.PAPER), "new"
    )
    assert reshaped.payload.mode == LOSSY


OPTIMIZER = {
    "model.weight": (64, 64),
    "optimizer.state.0.step": (1,),
    "optimizer.state.0.exp_avg": (64, 64),
    "optimizer.state.0.exp_avg_sq": (64, 64),
    "optimizer.state.0.max_exp_avg_sq": (64, 64),
    "optimizer.state.1.exp_avg": (300,),
    "optimizer.state.1.exp_avg_sq": (300,),
    "optimizer.state.2.momentum_buffer": (600_000,),
    "optimizer.state.3.exp_avg": (40,),  # its second moments are missing
    "optimizer.state.4.acc_delta": (40,),
}


def optimizer_file() -> tuple[bytes, dict[str, NDArray[np.float32]]]:
    chance = np.random.default_rng(2)
    values = {name: chance.normal(0, 0.01, shape).astype("<f4") for name, shape in OPTIMIZER.items()}
    for name in values:
        if name.endswith("_sq"):
            values[name] = np.exp(chance.normal(-14, 4, OPTIMIZER[name])).astype("<f4")
            values[name].reshape(-1)[:3] = [0.0, 1e-42, np.inf]
    pickled = tensor_pickle(*((n, "FloatStorage", str(k), v.shape) for k, (n, v) in enumerate(values.items())))
    storages = (Member(f"archive/data/{k}", v.tobytes()) for k, v in enumerate(values.values()))
    return checkpoint(pickled, *storages, root="archive"), values


@pytest.mark.parametrize("bound", Bound)
def test_optimizer_state_keeps_its_own_bounds(vault: Repository, bound: Bound) -> None:
    data, old = optimizer_file()
    share = 0.125
    done = lossy_commit(vault, data, LossyRequest(0.001, bound, optimizer=share))
    assert done.payload.lossy is not None
    assert done.payload.lossy.optimizer == share
    with vault.store.read() as txn:
        assert history.read_payload(txn, done.commit_id) == done.payload, "the record has it"
    with zipfile.ZipFile(io.BytesIO(given_back(vault, done))) as archive:
        assert archive.testzip() is None
        new = {
            name: np.frombuffer(archive.read(f"archive/data/{key}"), "<f4").reshape(OPTIMIZER[name]).astype(np.float64)
            for key, name in enumerate(OPTIMIZER)
        }
    changed = set()
    for name, shape in OPTIMIZER.items():
        before = old[name].astype(np.float64)
        with np.errstate(invalid="ignore"):
            error = np.where(new[name] == before, 0.0, np.abs(new[name] - before))
        owner, _, kind = name.rpartition(".")
        if kind.endswith("_sq"):
            limit = share * np.abs(before)
            assert ((new[name] == 0) == (before == 0)).all(), "no second moment becomes 0"
        elif kind == "exp_avg" and owner + ".exp_avg_sq" in old:
            limit = share * np.sqrt(old[owner + ".exp_avg_sq"].astype(np.float64))
            limit[~np.isfinite(limit)] = 0.0
        elif kind == "momentum_buffer":
            limit = np.full(shape, share * np.sqrt(np.mean(before * before)))
        elif kind == "weight":
            assert done.payload.lossy.max_abs == error.max(), "what the bound does not hold for is not in there"
            continue
        else:
            limit = np.zeros(shape)
        assert (error <= limit).all(), name
        if error.any():
            changed.add(name)
    assert changed == {
        name for name in OPTIMIZER if name.endswith(("_sq", "momentum_buffer", "0.exp_avg", "1.exp_avg"))
    }


def test_optimizer_state_is_exact_unless_it_is_named(vault: Repository) -> None:
    data, old = optimizer_file()
    done = lossy_commit(vault, data, LossyRequest(0.001))
    with zipfile.ZipFile(io.BytesIO(given_back(vault, done))) as archive:
        for key, name in enumerate(OPTIMIZER):
            if name.startswith("optimizer"):
                assert archive.read(f"archive/data/{key}") == old[name].tobytes()
    rounded = lossy_commit(vault, data, LossyRequest(0.001, optimizer=0.125), "again")
    assert rounded.payload.added_bytes < 0.5 * done.payload.added_bytes
    for share in (-0.1, 1.5, math.nan):
        with pytest.raises(UsageError):
            lossy_commit(vault, data, LossyRequest(0.001, optimizer=share))


def test_lossy_commits_are_planned_like_any(vault: Repository) -> None:
    network, commits = Network(), list[Committed]()
    for epoch in range(6):
        commits.append(lossy_commit(vault, network.file(), LossyRequest(0.001), f"epoch {epoch}"))
        network.train()
    expected = [given_back(vault, done) for done in commits]
    alone = repack(vault, Bounds(max_depth=0))
    assert alone.after.depth_max == 0
    done = repack(vault, Bounds())
    assert done.versions >= 6
    assert done.after.nbytes < 0.8 * alone.after.nbytes
    assert [given_back(vault, one) for one in commits] == expected
    assert check(vault).problems == ()
