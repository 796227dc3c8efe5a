"""Does `doctor` say what we run on and who is at work, and find what is wrong?"""

from __future__ import annotations

from pathlib import Path

import pytest

from modelvault.repository import doctor
from modelvault.repository.repository import open_repository
from modelvault.store.base import FORMAT_VERSION
from modelvault.version import __version__

from .terminal import run


def test_outside_a_vault_versions_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODELVAULT_DIR", raising=False)
    said = run("doctor", "--json")
    assert (said.code, said.json["schema"], said.json["vault"]) == (0, "modelvault.doctor/1", None)
    assert said.json["versions"]["modelvault"] == __version__
    assert all(said.json["versions"][name] for name in doctor.PACKAGES)
    assert said.json["kernels"]
    assert run("doctor").out.endswith("no problem found\n")


def test_a_vault_that_is_named_and_not_there_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELVAULT_DIR", str(tmp_path / "absent"))
    said = run("doctor")
    assert said.code == 1
    assert "problem: there is no vault in" in said.out


def test_a_vault_at_rest(vault: Path) -> None:
    found = run("doctor", "--json").json["vault"]
    assert found["format"] == str(FORMAT_VERSION)
    assert found["writer"] is None
    assert found["sessions"] == []
    assert found["free_bytes"] > 0 < found["disk_bytes"]
    assert "nobody" in run("doctor").out


def test_who_is_at_work_is_named(vault: Path) -> None:
    store = open_repository(vault).store
    with store.open_session({"tensors": 1}), store.write():
        found = run("doctor", "--json").json["vault"]
        assert "since" in run("doctor").out
    assert found["writer"]["pid"] == found["sessions"][0]["pid"]


def test_what_is_wrong_is_said(vault: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOW_SPACE", 1 << 80)
    monkeypatch.setattr(doctor, "file_system_of", lambda _: "nfs4")
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    (vault / ".modelvault" / "current").unlink()
    said = run("doctor", "--json")
    assert said.code == 1
    for problem, word in zip(said.json["problems"], ("not installed", "left", "nfs4", "missing"), strict=True):
        assert word in problem
