"""Where a commit or a checkout spends its time, stage by stage.

The stages are functions of the vault, wrapped while the budget is kept. A stage within another counts for itself alone,
so that the stages add up; what is in none of them (planning, recipes, the interpreter) is left for `rest`. Kept on one
processor, where the vault works with one thread, wall seconds are a budget of the whole.
"""

from __future__ import annotations

import functools
import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

_STAGES: tuple[tuple[str, str, str], ...] = (
    ("read", "modelvault.checkpoint.source:FileSource", "read"),
    ("decode reference", "modelvault.repository.chunks:ChunkReader", "chunk"),
    ("encode", "modelvault.codec", "encode_chunk"),
    ("verify", "modelvault.codec", "decodes_to"),
    ("write", "modelvault.store.lmdb_store:LmdbWriteTransaction", "put"),
    ("write", "modelvault.store.lmdb_store:LmdbWriteTransaction", "commit"),
    ("write", "modelvault.repository.worktree", "write_all"),
    ("write", "os", "fsync"),
    ("write", "os", "fdatasync"),
)
"""Stage, where it is, and its name there."""

_HASHERS = ("tensor_hasher", "file_hasher")


@dataclass
class Spent:
    """Seconds of one stage, over all threads."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


@dataclass
class _Frame:
    stage: str
    wall: float
    cpu: float
    within: Spent = field(default_factory=Spent)


class Budget:
    """Keeps account while it is entered; one at a time in a process."""

    def __init__(self) -> None:
        self.stages: dict[str, Spent] = {}
        self._local, self._lock = threading.local(), threading.Lock()
        self._originals = list[tuple[Any, str, Any]]()

    def __enter__(self) -> Budget:
        for stage, place, name in _STAGES:
            self._replace(place, name, functools.partial(self._wrapped, stage))
        for name in _HASHERS:
            self._replace("modelvault.ids", name, lambda make: lambda: _Hasher(make(), self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for owner, name, original in reversed(self._originals):
            setattr(owner, name, original)

    def _replace(self, place: str, name: str, change: Callable[[Any], Any]) -> None:
        module, _, inner = place.partition(":")
        owner = importlib.import_module(module)
        if inner:
            owner = getattr(owner, inner)
        original = getattr(owner, name)
        self._originals.append((owner, name, original))
        setattr(owner, name, change(original))

    def _wrapped(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            with self.stage(stage):
                return function(*arguments, **named)

        return timed

    @contextmanager
    def stage(self, stage: str) -> Iterator[None]:
        """Count what happens inside for a stage."""
        stack: list[_Frame] = self._local.__dict__.setdefault("stack", [])
        frame = _Frame(stage, time.perf_counter(), time.thread_time())
        stack.append(frame)
        try:
            yield
        finally:
            stack.pop()
            wall, used = time.perf_counter() - frame.wall, time.thread_time() - frame.cpu
            if stack:
                stack[-1].within.wall_s += wall
                stack[-1].within.cpu_s += used
            with self._lock:
                spent = self.stages.setdefault(stage, Spent())
                spent.wall_s += wall - frame.within.wall_s
                spent.cpu_s += used - frame.within.cpu_s


class _Hasher:
    """A hasher whose time is counted."""

    def __init__(self, hasher: Any, budget: Budget) -> None:
        self._hasher, self._budget = hasher, budget

    def update(self, data: Any) -> None:
        with self._budget.stage("hash"):
            self._hasher.update(data)

    def digest(self) -> bytes:
        with self._budget.stage("hash"):
            return bytes(self._hasher.digest())


@contextmanager
def one_processor() -> Iterator[None]:
    """Keep this process on one processor."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def kept(action: Callable[[], None]) -> dict[str, Spent]:
    """Run something of the vault on one processor and return its stages, `rest` and `all` last."""
    with one_processor(), Budget() as budget:
        wall, used = time.perf_counter(), time.process_time()
        action()
        whole = Spent(time.perf_counter() - wall, time.process_time() - used)
    stages = dict(budget.stages)
    rest_wall = whole.wall_s - sum(spent.wall_s for spent in stages.values())
    rest_cpu = whole.cpu_s - sum(spent.cpu_s for spent in stages.values())
    return {**stages, "rest": Spent(rest_wall, rest_cpu), "all": whole}
