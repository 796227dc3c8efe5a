"""Does `repack` at its highest effort find what an optimizer kept beside the weights, and change nothing but bytes?"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from modelvault import codec
from modelvault.ids import CommitId
from modelvault.repository import refine
from modelvault.repository.cost import seconds
from modelvault.repository.gc import collect_garbage
from modelvault.repository.kept import State
from modelvault.repository.liveness import Cutoff, mark
from modelvault.repository.moments import find_moments
from modelvault.repository.repack import Bounds, repack
from modelvault.repository.repository import Repository

from .garbage import assert_restores, assert_tidy, entries, forget
from .networks import torch_file
from .test_repack import checked
from .vaults import commit, fsck, tensor_records

WEIGHTS = {"a.weight": 40_000, "b.weight": 30_000, "c.weight": 40_000}
FROZEN = {"frozen.weight": 40_000}


def checkpoints(count: int, frozen: dict[str, int], steps: int = 4) -> Iterator[bytes]:
    """Yield checkpoints of weights that Adam moves, as torch names them: weights by name, state by number."""
    chance = np.random.default_rng(0)
    still = {name: chance.normal(0, 1, size) for name, size in frozen.items()}
    weights = {name: chance.normal(0, 1, size) for name, size in WEIGHTS.items()}
    slopes = {name: chance.normal(0, 1e-3, size) for name, size in WEIGHTS.items()}
    means = {name: np.zeros(size) for name, size in WEIGHTS.items()}
    squares = {name: np.full(size, 1e-6) for name, size in WEIGHTS.items()}
    for _ in range(count):
        for _ in range(steps):
            for name, size in WEIGHTS.items():
                gradient = slopes[name] + chance.normal(0, 3e-3, size)
                means[name] = 0.9 * means[name] + 0.1 * gradient
                squares[name] = 0.99 * squares[name] + 0.01 * gradient**2
                weights[name] = weights[name] - 1e-3 * means[name] / (np.sqrt(squares[name]) + 1e-8)
        state = {}
        for at, name in enumerate(WEIGHTS):
            state[f"optimizer.state.{at}.exp_avg"] = means[name]
            state[f"optimizer.state.{at}.exp_avg_sq"] = squares[name]
        named = {f"model.{name}": values for name, values in (still | weights).items()}
        yield torch_file({name: values.astype("<f4") for name, values in (named | state).items()})


@pytest.fixture(params=[{}, FROZEN], ids=["all trained", "one frozen"])
def history(request: pytest.FixtureRequest, vault: Repository) -> dict[CommitId, dict[str, bytes]]:
    return {commit(vault, data).commit_id: {"model.pt": data} for data in checkpoints(4, request.param)}


def is_step(predictor: codec.Predictor) -> bool:
    return isinstance(predictor, codec.Combined) and any(term.kind is codec.TermKind.STEP for term in predictor.terms)


def test_weights_follow_their_own_moments(vault: Repository, history: dict[CommitId, dict[str, bytes]]) -> None:
    with vault.store.read() as txn:
        beside = find_moments(txn, mark(txn, Cutoff(0, 0)))
    plain = repack(vault, Bounds())
    before = sum(record.stored_bytes for record in tensor_records(vault).values())
    done = repack(vault, Bounds(thorough=True))
    records = tensor_records(vault)
    assert done.after.nbytes == sum(record.stored_bytes for record in records.values()) < before <= plain.before.nbytes
    refined = {
        number: record
        for number, record in records.items()
        if any(map(is_step, codec.Parameters.from_bytes(record.parameters).predictors))
    }
    assert len(refined) >= 6
    for number, record in refined.items():
        own = {one.mean for weight in (number, record.base) for one in beside.weights[weight]}
        assert set(record.others) & own
        assert record.stored_bytes < 0.995 * record.nbytes
    assert_restores(vault, history)
    assert_tidy(vault, swept=False)
    fsck(vault)


def test_once_is_enough(vault: Repository, history: dict[CommitId, dict[str, bytes]]) -> None:
    repack(vault, Bounds(thorough=True))
    after = entries(vault)
    assert repack(vault, Bounds(thorough=True)).recoded == 0
    assert entries(vault) == after
    assert repack(vault, Bounds()).recoded == 0
    assert_restores(vault, history)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_bound_on_depth_is_kept(vault: Repository, history: dict[CommitId, dict[str, bytes]], depth: int) -> None:
    repack(vault, Bounds(max_depth=depth, thorough=True))
    assert max(record.depth for record in tensor_records(vault).values()) <= depth
    assert_restores(vault, history)
    assert_tidy(vault, swept=False)


@pytest.mark.parametrize("bounds", [Bounds(thorough=True, max_restore=60.0), Bounds(thorough=True, budget=1 << 30)])
def test_where_restoring_is_bounded_nothing_is_made_dearer(
    vault: Repository, history: dict[CommitId, dict[str, bytes]], bounds: Bounds
) -> None:
    repack(vault, bounds)
    parameters = [codec.Parameters.from_bytes(record.parameters) for record in tensor_records(vault).values()]
    assert not any(is_step(predictor) for one in parameters for predictor in one.predictors)
    assert_restores(vault, history)


@pytest.mark.parametrize(
    "bound",
    [
        lambda free: Bounds(max_depth=1),
        lambda free: Bounds(max_depth=2),
        lambda free: Bounds(max_restore=seconds(free.work_max) / 2),
        lambda free: Bounds(budget=int(free.nbytes * 1.03)),
        lambda free: Bounds(budget=int(free.nbytes * 1.2), max_depth=2),
        lambda free: Bounds(keyframe_tips=True),
    ],
)
def test_what_was_refined_stands_in_the_way_of_no_bound(
    vault: Repository, history: dict[CommitId, dict[str, bytes]], bound: Callable[[State], Bounds]
) -> None:
    free = repack(vault, Bounds(thorough=True)).after
    bounds = bound(free)
    done = checked(vault, bounds).after
    assert bounds.budget is None or done.nbytes <= bounds.budget
    assert bounds.max_restore is None or seconds(done.work_max) <= bounds.max_restore


def test_what_would_grow_is_put_back(
    vault: Repository, history: dict[CommitId, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample that promises too much. Factors may gain all the same: they need no predictor."""
    repack(vault, Bounds())
    before = tensor_records(vault)
    improvement, offered = refine._improvement, 0

    def wrong(*arguments: object) -> refine.Improvement | None:
        found = improvement(*arguments)  # type: ignore[arg-type]
        if found is None:
            return None
        nonlocal offered
        offered += 1
        nonsense = codec.Combined(-1.0, (codec.Term(codec.TermKind.WORD, 1, 1.0),))
        return found._replace(parameters=codec.Parameters(found.parameters.dtype, (nonsense,)))

    monkeypatch.setattr(refine, "_improvement", wrong)
    done = repack(vault, Bounds(thorough=True))
    assert done.recoded < offered / 2
    assert done.after.nbytes <= done.before.nbytes
    after = tensor_records(vault)
    assert after.keys() == before.keys()
    same = [after[number]._replace(extents=()) == record._replace(extents=()) for number, record in before.items()]
    assert same.count(False) == done.recoded
    assert_restores(vault, history)


def test_optimizer_state_that_is_given_up_is_kept_as_long_as_weights_need_it(
    vault: Repository, history: dict[CommitId, dict[str, bytes]]
) -> None:
    repack(vault, Bounds(thorough=True))
    forget(vault, list(history)[:2])
    forget(vault, list(history)[2:3], ["optimizer"])
    collect_garbage(vault, grace=0)
    last = list(history)[3]
    assert_restores(vault, {last: history[last]})
    assert_tidy(vault)


def test_states_are_found_by_order_and_kept_in_it(vault: Repository) -> None:
    for data in checkpoints(1, {}):
        commit(vault, data)
    with vault.store.read() as txn:
        beside = find_moments(txn, mark(txn, Cutoff(0, 0)))
    sizes = {number: record.nbytes for number, record in tensor_records(vault).items()}
    assert len(beside.weights) == 3
    assert len(beside.squares) == 3
    for weight, states in beside.weights.items():
        assert all(sizes[state.mean] == sizes[weight] for state in states)
    firsts = [states[0] for states in beside.weights.values()]
    assert len(set(firsts)) == 3
    assert all(state.square is not None for state in firsts)
