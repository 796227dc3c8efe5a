"""Are results in order, is what is under way bounded, and does nobody wait for work that was given up?"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from modelvault.repository import threads
from modelvault.repository.threads import Aside, in_order


@pytest.fixture(params=[1, 2, 5], autouse=True)
def count(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run with so many threads."""
    monkeypatch.setattr(threads, "thread_count", lambda: request.param)
    found: int = request.param
    return found


def test_results_come_in_order(count: int) -> None:
    assert list(in_order(lambda number: number * number, range(100))) == [number * number for number in range(100)]


def test_what_is_under_way_is_bounded(count: int) -> None:
    asked = 0

    def items() -> Iterator[int]:
        nonlocal asked
        for number in range(1_000):
            asked += 1
            yield number

    for given in in_order(lambda number: number, items()):
        assert asked <= given + 2 * count + 8


def test_the_caller_is_one_of_the_threads(count: int) -> None:
    """Each item waits until as many are under way as there are threads."""
    together = threading.Barrier(count)

    def wait(number: int) -> int:
        together.wait(10)
        return number

    assert list(in_order(wait, range(4 * count))) == list(range(4 * count))


def test_an_error_stands_in_its_place(count: int) -> None:
    def fail_at_three(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    results = in_order(fail_at_three, range(10))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_giving_up_waits_for_nothing(count: int) -> None:
    """The garbage collector may do it, while some thread is being started: to wait for another there never ends."""
    if count == 1:
        pytest.skip("one thread is the caller's own")
    end = threading.Event()
    results = in_order(lambda number: number == 0 or end.wait(30), range(100))
    try:
        assert next(results) is True
        closer = threading.Thread(target=results.close, daemon=True)
        closer.start()
        closer.join(10)
        assert not closer.is_alive()
    finally:
        end.set()


def test_calls_aside_are_made_in_their_order_by_one_other_thread() -> None:
    made, makers = list[int](), set[int]()

    def make(number: int) -> int:
        made.append(number)
        makers.add(threading.get_ident())
        return -number

    with contextlib.closing(Aside(3)) as aside:
        called = [aside.call(make, number) for number in range(50)]
        assert [one.result(10) for one in called] == [-number for number in range(50)]
    assert made == list(range(50))
    assert len(makers) == 1
    assert threading.get_ident() not in makers


def test_no_more_calls_wait_than_may() -> None:
    go_on = threading.Event()
    given = 0

    def give() -> None:
        nonlocal given
        for _ in range(10):
            aside.call(go_on.wait, 30)
            given += 1

    with contextlib.closing(Aside(3)) as aside:
        giver = threading.Thread(target=give, daemon=True)
        giver.start()
        try:
            for _ in range(3_000):
                if given == 3:
                    break
                time.sleep(0.01)
            giver.join(0.1)
            assert given == 3
        finally:
            go_on.set()
        giver.join(10)
        assert given == 10


def test_the_caller_makes_calls_itself_where_none_may_wait() -> None:
    aside = Aside(0)
    assert aside.call(threading.get_ident).result(0) == threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        aside.call(divmod, 1, 0)


def test_what_a_call_raised_is_raised_by_one_after_it() -> None:
    with contextlib.closing(Aside(2)) as aside:
        failing = aside.call(divmod, 1, 0)
        aside.call(divmod, 1, 1)
        with pytest.raises(ZeroDivisionError):
            aside.call(divmod, 2, 1)
        with pytest.raises(ZeroDivisionError):
            failing.result(10)


def test_calls_that_wait_are_made_when_the_thread_is_let_go() -> None:
    """Nobody waits for them: what they give is asked for later."""
    go_on = threading.Event()
    aside = Aside(2)
    aside.call(go_on.wait, 30)
    last = aside.call(divmod, 7, 2)
    aside.close()
    assert not last.done()
    go_on.set()
    assert last.result(10) == (3, 1)
