"""Is a session known exactly as long as its process lives?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modelvault.errors import CorruptError
from modelvault.store.lmdb_store import LmdbStore
from modelvault.store.sessions import SessionFile, live_sessions

ROOT = Path(__file__).parents[3]
HOLD = """
import sys
from pathlib import Path
from modelvault.store.sessions import SessionFile
session = SessionFile(Path(sys.argv[1]), {"packs": 7})
print(session.name, flush=True)
sys.stdin.read()
session.close()
"""


def start(directory: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=60)


def test_sessions_of_other_processes_are_seen_until_they_end(tmp_path: Path) -> None:
    ended, first = start(tmp_path)
    killed, second = start(tmp_path)
    own = SessionFile(tmp_path, {})
    live = {session.name: session for session in live_sessions(tmp_path)}
    assert set(live) == {first, second, own.name}
    assert live[first].floors == {"packs": 7}
    assert live[first].holder.pid == ended.pid
    end(ended)
    killed.send_signal(signal.SIGKILL)
    end(killed)
    assert (tmp_path / second).exists()
    assert [session.name for session in live_sessions(tmp_path)] == [own.name]
    assert [entry.name for entry in tmp_path.iterdir()] == [own.name]
    own.close()
    own.close()
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_file_is_no_session_and_goes_with_its_process(tmp_path: Path) -> None:
    (tmp_path / ".new-1-2-3").write_text("{")
    assert live_sessions(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_live_session_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    session = SessionFile(tmp_path, {"packs": 1})
    for text in ("", "[]", '{"pid": 1}', '{"pid": 1, "host": "", "since": 0, "command": "", "floors": {"a": "b"}}'):
        (tmp_path / session.name).write_text(text)
        with pytest.raises(CorruptError, match=session.name):
            live_sessions(tmp_path)
    session.close()


def test_a_forked_child_leaves_its_parents_session_alone(tmp_path: Path) -> None:
    store = LmdbStore.create(tmp_path / ".modelvault")
    with store.open_session({"packs": 3}) as session:
        child = os.fork()
        if not child:
            session.close()
            names = [live.name for live in store.live_sessions()]
            os._exit(0 if names == [session.name] else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert [live.name for live in store.live_sessions()] == [session.name]
    assert store.live_sessions() == []


def test_a_directory_that_is_missing_has_no_sessions(tmp_path: Path) -> None:
    assert live_sessions(tmp_path / "absent") == []
