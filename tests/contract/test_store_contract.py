"""Does every store keep the contract of modelvault.store.base?

One battery for all stores. A store joins by adding a row to HARNESSES.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from modelvault.errors import LockedError
from modelvault.store.base import (
    FORMAT_KEY,
    FORMAT_VERSION,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    TABLES,
    Holder,
    ReadTransaction,
    Store,
    Table,
    WriteTransaction,
)
from modelvault.store.lmdb_store import LmdbStore
from modelvault.store.memory import MemoryStore


class Harness(Protocol):
    """One store under test: how to make an empty one and how to close and open it again."""

    def make(self, place: Path) -> Store: ...

    def reopen(self, store: Store, place: Path) -> Store: ...


class InMemory:
    def make(self, place: Path) -> Store:
        return MemoryStore()

    def reopen(self, store: Store, place: Path) -> Store:
        return store  # it ends with its object


class OnDisk:
    def make(self, place: Path) -> Store:
        return LmdbStore.create(place / ".modelvault")

    def reopen(self, store: Store, place: Path) -> Store:
        return LmdbStore(place / ".modelvault")


HARNESSES: dict[str, Harness] = {"memory": InMemory(), "lmdb": OnDisk()}


@pytest.fixture(params=HARNESSES.values(), ids=list(HARNESSES))
def harness(request: pytest.FixtureRequest) -> Harness:
    chosen: Harness = request.param
    return chosen


@pytest.fixture
def store(harness: Harness, tmp_path: Path) -> Store:
    return harness.make(tmp_path)


def fill(store: Store, table: Table, entries: dict[bytes, bytes]) -> None:
    with store.write() as transaction:
        for key, value in entries.items():
            transaction.put(table, key, value)


def content(transaction: ReadTransaction, table: Table) -> dict[bytes, bytes]:
    return dict(transaction.scan(table))


def in_thread(work: Callable[[], None]) -> None:
    """Run it in another thread, to its end; what it raises is raised here."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed over to the caller
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


# What is kept


def test_a_new_store_holds_its_format_and_nothing_else(store: Store) -> None:
    with store.read() as transaction:
        assert content(transaction, "meta") == {FORMAT_KEY: str(FORMAT_VERSION).encode()}
        assert {table: transaction.count(table) for table in TABLES if table != "meta"} == dict.fromkeys(
            (table for table in TABLES if table != "meta"), 0
        )


@pytest.mark.parametrize("table", TABLES)
def test_tables_do_not_meet(store: Store, table: Table) -> None:
    fill(store, table, {b"key": table.encode()})
    with store.read() as transaction:
        holders = [other for other in TABLES if transaction.get(other, b"key") is not None]
        assert holders == [table]
        assert [other for other in TABLES if b"key" in content(transaction, other)] == [table]
        assert transaction.count(table) == (2 if table == "meta" else 1)


@pytest.mark.parametrize("value", [b"", b"\x00", b"value", bytes(range(256)) * 5_000], ids=len)
def test_what_is_put_is_got(store: Store, harness: Harness, tmp_path: Path, value: bytes) -> None:
    with store.write() as transaction:
        transaction.put("packs", b"key", value)
        assert transaction.get("packs", b"key") == value
    with harness.reopen(store, tmp_path).read() as reading:
        assert reading.get("packs", b"key") == value
        view = reading.view("packs", b"key")
        assert view is not None
        assert bytes(view) == value
        assert view.readonly


def test_what_was_not_put_is_not_there(store: Store) -> None:
    fill(store, "refs", {b"b": b"1"})
    with store.read() as transaction:
        for key in (b"", b"a", b"bb", b"c", b"x" * (MAX_KEY_BYTES + 1)):
            assert transaction.get("refs", key) is None
            assert transaction.view("refs", key) is None


def test_a_value_is_replaced(store: Store) -> None:
    fill(store, "refs", {b"main": b"a longer value than the next"})
    fill(store, "refs", {b"main": b"short"})
    with store.read() as transaction:
        assert content(transaction, "refs") == {b"main": b"short"}
        assert transaction.count("refs") == 1


def test_delete_says_whether_there_was_one(store: Store) -> None:
    fill(store, "refs", {b"a": b"1", b"b": b"2"})
    with store.write() as transaction:
        assert transaction.delete("refs", b"a")
        assert not transaction.delete("refs", b"a")
        assert not transaction.delete("refs", b"absent")
        assert not transaction.delete("refs", b"")
        assert not transaction.delete("refs", b"x" * (MAX_KEY_BYTES + 1))
        assert transaction.get("refs", b"a") is None
    with store.read() as reading:
        assert content(reading, "refs") == {b"b": b"2"}


def test_the_caller_may_change_its_buffer_afterwards(store: Store) -> None:
    buffer = bytearray(b"first")
    with store.write() as transaction:
        transaction.put("stats", b"key", memoryview(buffer))  # type: ignore[arg-type]
        buffer[:] = b"other"
        assert transaction.get("stats", b"key") == b"first"


# Scans

KEYS = [b"a", b"aa", b"ab", b"ab\x00", b"ab\xff", b"ab\xff\xff", b"ac", b"b", b"\xff", b"\xff\xff", b"\xff" * 510]
PREFIXES = [b"", b"a", b"ab", b"ab\xff", b"\xff", b"\xff" * 510, b"\xff" * 511, b"c", b"\x00", b"ab\x00\x00"]
STARTS = [None, b"", b"a", b"ab", b"abc", b"ab\xff\xff\xff", b"z", b"\x00", b"\xff" * 510, b"\xff" * 600, b"b" * 600]


def expected_scan(keys: list[bytes], prefix: bytes, start: bytes | None, *, reverse: bool) -> list[bytes]:
    chosen = [key for key in sorted(keys, reverse=reverse) if key.startswith(prefix)]
    if start is None:
        return chosen
    return [key for key in chosen if (key <= start if reverse else key >= start)]


@pytest.mark.parametrize("reverse", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("neighbours", [False, True], ids=["alone", "between"])
def test_scans_find_what_a_sorted_list_would(store: Store, reverse: bool, neighbours: bool) -> None:
    fill(store, "index", {key: b"v" + key for key in KEYS})
    if neighbours:
        for table in TABLES:
            if table not in ("index", "meta"):
                fill(store, table, {b"a": b"", b"ab": b"", b"\xff" * 510: b""})
    with store.read() as transaction:
        for prefix, start in itertools.product(PREFIXES, STARTS):
            found = list(transaction.scan("index", prefix=prefix, start=start, reverse=reverse))
            assert [key for key, _ in found] == expected_scan(KEYS, prefix, start, reverse=reverse), (prefix, start)
            assert all(value == b"v" + key for key, value in found)


@pytest.mark.parametrize("table", TABLES)
def test_an_empty_table_has_nothing_to_scan(store: Store, table: Table) -> None:
    with store.write() as transaction:
        if table == "meta":
            transaction.delete("meta", FORMAT_KEY)
        assert list(transaction.scan(table)) == []
        assert list(transaction.scan(table, reverse=True)) == []
        assert list(transaction.scan(table, prefix=b"a", start=b"ab", reverse=True)) == []
        transaction.put("meta", FORMAT_KEY, str(FORMAT_VERSION).encode())


@pytest.mark.parametrize("reverse", [False, True], ids=["up", "down"])
def test_a_scan_survives_the_deletion_of_all_it_yields(store: Store, reverse: bool) -> None:
    keys = [b"%04d" % number for number in range(2_000)]
    fill(store, "tensors", {key: key * 5 for key in keys})
    with store.write() as transaction:
        seen = []
        for key, _ in transaction.scan("tensors", reverse=reverse):
            seen.append(key)
            assert transaction.delete("tensors", key)
        assert seen == sorted(keys, reverse=reverse)
        assert transaction.count("tensors") == 0


@pytest.mark.parametrize("reverse", [False, True], ids=["up", "down"])
def test_a_scan_sees_what_is_written_ahead_of_it(store: Store, reverse: bool) -> None:
    fill(store, "tensors", {b"m": b""})
    with store.write() as transaction:
        seen = []
        for key, _ in transaction.scan("tensors", reverse=reverse):
            seen.append(key)
            if key == b"m":
                for other in (b"a", b"z"):
                    transaction.put("tensors", other, b"x" * 3_000)
        assert seen == [b"m", b"a" if reverse else b"z"]


def test_a_scan_can_be_left_early(store: Store) -> None:
    fill(store, "tensors", {b"%d" % number: b"" for number in range(10)})
    with store.read() as transaction:
        assert next(transaction.scan("tensors"))[0] == b"0"
        assert [key for key, _ in itertools.islice(transaction.scan("tensors"), 3)] == [b"0", b"1", b"2"]


# Limits


def test_the_longest_key_and_value_fit(store: Store) -> None:
    key, value = b"k" * MAX_KEY_BYTES, bytes(MAX_VALUE_BYTES)
    fill(store, "packs", {key: value})
    with store.read() as transaction:
        view = transaction.view("packs", key)
        assert view is not None
        assert view == value


@pytest.mark.parametrize(
    ("key", "length"),
    [(b"", 1), (b"k" * (MAX_KEY_BYTES + 1), 1), (b"k", MAX_VALUE_BYTES + 1)],
    ids=["empty key", "long key", "long value"],
)
def test_what_does_not_fit_is_refused_and_the_transaction_goes_on(store: Store, key: bytes, length: int) -> None:
    with store.write() as transaction:
        transaction.put("packs", b"before", b"1")
        with pytest.raises(ValueError, match="table packs"):
            transaction.put("packs", key, bytes(length))
        transaction.put("packs", b"after", b"2")
    with store.read() as reading:
        assert content(reading, "packs") == {b"before": b"1", b"after": b"2"}


# Transactions


class Abandoned(Exception):
    """What the tests abandon a transaction with."""


@pytest.mark.parametrize("error", [Abandoned, KeyboardInterrupt, GeneratorExit])
def test_an_abandoned_transaction_leaves_nothing(store: Store, error: type[BaseException]) -> None:
    fill(store, "refs", {b"main": b"1", b"dev": b"1"})
    with pytest.raises(error), store.write() as transaction:
        transaction.put("refs", b"main", b"2")
        transaction.put("commits", b"new", b"x" * 100_000)
        transaction.delete("refs", b"dev")
        raise error
    with store.read() as reading:
        assert content(reading, "refs") == {b"main": b"1", b"dev": b"1"}
        assert reading.count("commits") == 0
    fill(store, "refs", {b"main": b"3"})  # and the lock is free


def test_a_reader_keeps_its_snapshot(store: Store) -> None:
    fill(store, "refs", {b"main": b"old", b"gone": b"x"})
    with store.read() as before:
        scan = before.scan("refs")
        first = next(scan)
        for number in range(5):  # more than once, so that freed pages would be used again
            with store.write() as transaction:
                transaction.put("refs", b"main", b"%d" % number * 5_000)
                transaction.put("refs", b"added", b"y")
                transaction.delete("refs", b"gone")
        assert dict([first, *scan]) == {b"main": b"old", b"gone": b"x"}
        assert content(before, "refs") == {b"main": b"old", b"gone": b"x"}
        assert before.count("refs") == 2
        with store.read() as after:
            assert sorted(content(after, "refs")) == [b"added", b"main"]
        assert before.get("refs", b"main") == b"old"


def test_nobody_sees_a_transaction_before_it_ends(store: Store) -> None:
    with store.write() as transaction:
        transaction.put("refs", b"main", b"1")

        def look() -> None:
            with store.read() as elsewhere:
                assert elsewhere.get("refs", b"main") is None

        look()
        in_thread(look)
        assert transaction.get("refs", b"main") == b"1"
    with store.read() as reading:
        assert reading.get("refs", b"main") == b"1"


def test_reads_nest(store: Store) -> None:
    fill(store, "refs", {b"main": b"1"})
    with ExitStack() as stack:
        readers = [stack.enter_context(store.read()) for _ in range(20)]
        writer = stack.enter_context(store.write())
        writer.put("refs", b"main", b"2")
        readers.append(stack.enter_context(store.read()))
        assert {reader.get("refs", b"main") for reader in readers} == {b"1"}
        assert writer.get("refs", b"main") == b"2"


def test_a_transaction_that_is_over_is_of_no_use(store: Store) -> None:
    fill(store, "refs", {b"a": b"1", b"b": b"2"})
    with store.read() as reading:
        view = reading.view("refs", b"a")
        scan = reading.scan("refs")
        next(scan)
    with store.write() as writing:
        pass
    assert view is not None
    with pytest.raises(ValueError, match="released"):
        bytes(view)
    for use in (
        lambda: reading.get("refs", b"a"),
        lambda: reading.view("refs", b"a"),
        lambda: reading.count("refs"),
        lambda: list(reading.scan("refs")),
        lambda: next(scan),
        lambda: writing.put("refs", b"a", b"3"),
        lambda: writing.delete("refs", b"a"),
    ):
        with pytest.raises(RuntimeError):
            use()


# The writer lock


@pytest.mark.parametrize("timeout", [0.0, 0.1])
def test_a_second_writer_gives_up(store: Store, timeout: float) -> None:
    told: list[Holder | None] = []

    def try_to_write() -> None:
        with pytest.raises(LockedError, match="since") as caught, store.write(timeout=timeout, waiting=told.append):
            pass
        assert caught.value.hint

    with store.write() as transaction:
        transaction.put("refs", b"main", b"1")
        try_to_write()
        in_thread(try_to_write)
    assert len(told) == (2 if timeout else 0)
    assert all(holder is not None and holder.pid > 0 and holder.host for holder in told)
    with store.read() as reading:
        assert reading.get("refs", b"main") == b"1"


def test_a_waiting_writer_gets_its_turn(store: Store) -> None:
    waits = threading.Event()

    def append() -> None:
        with store.write(timeout=60, waiting=lambda _: waits.set()) as transaction:
            transaction.put("refs", b"main", (transaction.get("refs", b"main") or b"") + b"2")

    with store.write() as transaction:
        thread = threading.Thread(target=append)
        thread.start()
        assert waits.wait(60)
        transaction.put("refs", b"main", b"1")
    thread.join(60)
    with store.read() as reading:
        assert reading.get("refs", b"main") == b"12"


def test_many_threads_lose_no_update(store: Store) -> None:
    def count_up() -> None:
        for _ in range(10):
            with store.write(timeout=60) as transaction:
                number = int(transaction.get("stats", b"counter") or b"0")
                transaction.put("stats", b"counter", b"%d" % (number + 1))

    def look() -> None:
        last = 0
        for _ in range(50):
            with store.read() as reading:
                number = int(reading.get("stats", b"counter") or b"0")
                assert number >= last
                last = number

    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - looked at below
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (count_up, count_up, count_up, look, look)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures
    with store.read() as reading:
        assert reading.get("stats", b"counter") == b"30"


# Sessions


def test_sessions_are_listed_while_they_are_open(store: Store) -> None:
    assert store.live_sessions() == []
    floors = {"tensors": 17, "packs": 2**63}
    with store.open_session(floors) as one, store.open_session({}) as other:
        assert one.name != other.name
        live = {session.name: session for session in store.live_sessions()}
        assert set(live) == {one.name, other.name}
        assert live[one.name].floors == floors
        assert live[other.name].floors == {}
        assert str(live[one.name].holder.pid) in str(live[one.name].holder)
        other.close()
        assert [session.name for session in store.live_sessions()] == [one.name]
        in_thread(lambda: None if store.live_sessions() else pytest.fail("a thread sees no session"))
    assert store.live_sessions() == []


def test_a_session_ends_when_its_operation_fails(store: Store) -> None:
    with pytest.raises(Abandoned), store.open_session({"packs": 1}):
        raise Abandoned
    assert store.live_sessions() == []


def test_threads_open_and_list_sessions_at_once(store: Store) -> None:
    def work() -> None:
        for number in range(15):
            with store.open_session({"packs": number}) as session:
                assert session.name in {live.name for live in store.live_sessions()}

    threads = [threading.Thread(target=in_thread, args=(work,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert store.live_sessions() == []


# Compaction


def test_compaction_keeps_everything(store: Store, harness: Harness, tmp_path: Path) -> None:
    entries = {b"%d" % number: b"%d" % number * 1_000 for number in range(300)}
    for table in TABLES[1:]:
        fill(store, table, entries)
    with store.write() as transaction:
        for key in list(entries)[::2]:
            transaction.delete("packs", key)
    before = store.disk_bytes()
    with store.open_session({"packs": 5}) as session:
        store.compact()
        store.compact(timeout=1)
        assert [live.name for live in store.live_sessions()] == [session.name]
    assert store.disk_bytes() <= before
    for opened in (store, harness.reopen(store, tmp_path)):
        with opened.read() as reading:
            for table in TABLES[1:]:
                kept = dict(list(entries.items())[1::2]) if table == "packs" else entries
                assert content(reading, table) == kept
    fill(store, "refs", {b"main": b"after"})
    with store.read() as reading:
        assert reading.get("refs", b"main") == b"after"


def test_giving_back_keeps_everything_and_what_is_written_later(store: Store, harness: Harness, tmp_path: Path) -> None:
    entries = {b"%d" % number: bytes((number % 251,)) * 20_000 for number in range(300)}
    fill(store, "packs", entries)
    for _ in range(3):
        with store.write() as transaction:
            for key in list(entries)[:200]:
                transaction.delete("packs", key)
        before = store.disk_bytes()
        store.give_back()
        assert store.disk_bytes() <= (before - 3_500_000 if store.gives_back() else before)
        with store.read() as reading:
            assert content(reading, "packs") == dict(list(entries.items())[200:])
        fill(store, "packs", entries)
        for opened in (store, harness.reopen(store, tmp_path)):
            with opened.read() as reading:
                assert content(reading, "packs") == entries
    assert store.structure_problems() == []


def test_an_open_transaction_keeps_what_is_free_in_the_file(store: Store) -> None:
    fill(store, "packs", {b"1": bytes(500_000)})
    with store.read() as reading:
        with store.write() as transaction:
            transaction.delete("packs", b"1")
        before = store.disk_bytes()
        if store.gives_back():
            with pytest.raises(LockedError, match="did not end"):
                store.give_back(timeout=0.1)
            assert store.disk_bytes() >= before
        assert reading.get("packs", b"1") == bytes(500_000)


# Against a model


class StoreAgainstDict(RuleBasedStateMachine):
    """Any order of transactions, reopening and compaction, against plain dicts."""

    harness: Harness
    keys = st.one_of(st.binary(min_size=1, max_size=3), st.sampled_from([b"a" * MAX_KEY_BYTES, b"\xff" * 4]))
    values = st.one_of(
        st.binary(max_size=20),
        st.builds(lambda byte, length: byte * length, st.binary(min_size=1, max_size=1), st.integers(0, 40_000)),
    )
    tables = st.sampled_from(TABLES[1:4])

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._writing: tuple[ExitStack, WriteTransaction] | None = None
        self._snapshots: list[tuple[ReadTransaction, dict[Table, dict[bytes, bytes]], ExitStack]] = []

    @initialize()
    def create(self) -> None:
        self.place = Path(self._stack.enter_context(TemporaryDirectory()))
        self.store = self.harness.make(self.place)
        self.committed: dict[Table, dict[bytes, bytes]] = {table: {} for table in TABLES[1:4]}
        self.model = {table: dict(entries) for table, entries in self.committed.items()}

    @precondition(lambda self: self._writing is None)
    @rule()
    def begin(self) -> None:
        stack = ExitStack()
        self._writing = stack, stack.enter_context(self.store.write())

    @precondition(lambda self: self._writing is not None)
    @rule(table=tables, key=keys, value=values)
    def put(self, table: Table, key: bytes, value: bytes) -> None:
        assert self._writing is not None
        self._writing[1].put(table, key, value)
        self.model[table][key] = value

    @precondition(lambda self: self._writing is not None)
    @rule(table=tables, data=st.data())
    def delete(self, table: Table, data: st.DataObject) -> None:
        assert self._writing is not None
        key = data.draw(
            st.one_of(st.sampled_from(sorted(self.model[table])) if self.model[table] else self.keys, self.keys)
        )
        assert self._writing[1].delete(table, key) == (key in self.model[table])
        self.model[table].pop(key, None)

    @precondition(lambda self: self._writing is not None)
    @rule()
    def commit(self) -> None:
        assert self._writing is not None
        stack, _ = self._writing
        self._writing = None
        stack.close()
        self.committed = {table: dict(entries) for table, entries in self.model.items()}

    @precondition(lambda self: self._writing is not None)
    @rule()
    def abandon(self) -> None:
        assert self._writing is not None
        stack, _ = self._writing
        self._writing = None
        error = Abandoned()
        with pytest.raises(Abandoned), stack:
            raise error
        self.model = {table: dict(entries) for table, entries in self.committed.items()}

    @precondition(lambda self: len(self._snapshots) < 3)
    @rule()
    def take_snapshot(self) -> None:
        stack = ExitStack()
        reading = stack.enter_context(self.store.read())
        self._snapshots.append((reading, self.committed, stack))

    @precondition(lambda self: self._snapshots)
    @rule()
    def end_snapshot(self) -> None:
        self._snapshots.pop(0)[2].close()

    @precondition(lambda self: self._writing is None and not self._snapshots)
    @rule()
    def compact(self) -> None:
        self.store.compact()

    @precondition(lambda self: self._writing is None)
    @rule()
    def give_back(self) -> None:
        with suppress(LockedError) if self._snapshots else nullcontext():
            self.store.give_back()

    @precondition(lambda self: self._writing is None)
    @rule()
    def reopen(self) -> None:
        self.store = self.harness.reopen(self.store, self.place)

    @rule(table=tables, prefix=st.binary(max_size=2), start=st.none() | keys, reverse=st.booleans())
    def scan(self, table: Table, prefix: bytes, start: bytes | None, reverse: bool) -> None:
        model = self.model if self._writing is not None else self.committed
        expected = expected_scan(list(model[table]), prefix, start, reverse=reverse)
        with self._some_transaction() as transaction:
            found = list(transaction.scan(table, prefix=prefix, start=start, reverse=reverse))
        assert found == [(key, model[table][key]) for key in expected]

    @invariant()
    def everybody_sees_what_they_should(self) -> None:
        with self._some_transaction() as transaction:
            model = self.model if self._writing is not None else self.committed
            for table, entries in model.items():
                assert content(transaction, table) == entries
                assert transaction.count(table) == len(entries)
        for reading, entries_then, _ in self._snapshots:
            for table, entries in entries_then.items():
                assert content(reading, table) == entries

    def _some_transaction(self) -> _Borrowed:
        return _Borrowed(self._writing[1] if self._writing is not None else None, self.store)

    def teardown(self) -> None:
        for _, _, stack in self._snapshots:
            stack.close()
        if self._writing is not None:
            self._writing[0].close()
        self._stack.close()


class _Borrowed:
    """The open write transaction, or a read transaction of its own."""

    def __init__(self, writing: WriteTransaction | None, store: Store) -> None:
        self._writing = writing
        self._store = store
        self._stack = ExitStack()

    def __enter__(self) -> ReadTransaction:
        if self._writing is not None:
            return self._writing
        return self._stack.enter_context(self._store.read())

    def __exit__(self, *exception: object) -> None:
        self._stack.close()


class MemoryAgainstDict(StoreAgainstDict):
    harness = HARNESSES["memory"]


class LmdbAgainstDict(StoreAgainstDict):
    harness = HARNESSES["lmdb"]


TestMemoryAgainstDict = MemoryAgainstDict.TestCase
TestMemoryAgainstDict.settings = settings(stateful_step_count=40)
TestLmdbAgainstDict = LmdbAgainstDict.TestCase
TestLmdbAgainstDict.settings = settings(stateful_step_count=40)
