"""Do bundles go from one vault to another, and onto a file, and say what they save?"""

from __future__ import annotations

from pathlib import Path

import pytest

from modelvault.cli.bundles import parse_rate
from modelvault.errors import UsageError
from tests.repository.test_lossy import Network

from .conftest import Cli


@pytest.fixture
def run(cli: Cli) -> Cli:
    """Three epochs, the second tagged."""
    network = Network()
    for epoch in range(3):
        (cli.root / f"epoch-{epoch}.bin").write_bytes(network.file())
        (cli.root / "model.pt").write_bytes(network.file())
        cli.ok("commit", "model.pt", "-m", f"epoch {epoch}", "--tag", f"e{epoch}")
        network.train()
    return cli


@pytest.fixture
def elsewhere(run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another vault, which is where commands run from then on; has the first epoch."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    run.ok("bundle", "e0", "-o", str(tmp_path / "first.mvb"))
    run.ok("bundle", "e0..main", "-o", str(tmp_path / "rest.mvb"))
    monkeypatch.chdir(place)
    run.ok("init")
    run.ok("unbundle", str(tmp_path / "first.mvb"), "--as", "main")
    return place


def test_from_vault_to_vault(run: Cli, elsewhere: Path, tmp_path: Path) -> None:
    shown = run.ok("unbundle", str(tmp_path / "rest.mvb"))
    assert "2 new commits" in shown and "lossless" in shown
    assert "branch main: " in shown and " -> " in shown
    assert "tag e2: new, at " in shown
    run.ok("checkout", "main")
    assert Path("model.pt").read_bytes() == (run.root / "epoch-2.bin").read_bytes()
    run.ok("fsck")
    assert "everything was here already" in run("unbundle", str(tmp_path / "rest.mvb")).err
    found = run.json("unbundle", str(tmp_path / "rest.mvb"))
    assert (found["commits"], found["moved"], found["mode"]) == ([], [], "lossless")
    assert "unbundle rest.mvb" in run.ok("reflog", "main")
    run.ok("undo")
    assert len(run.json("log")["commits"]) == 1


def test_onto_a_file(run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.ok("bundle", "e1..main", "-o", str(tmp_path / "update.mvb"))
    device = tmp_path / "device"
    device.mkdir()
    (device / "net.pt").write_bytes((run.root / "epoch-1.bin").read_bytes())
    monkeypatch.chdir(device)
    assert "sha256" in run.ok("unbundle", "../update.mvb", "--base", "net.pt", "-o", "new.pt")
    assert Path("new.pt").read_bytes() == (run.root / "epoch-2.bin").read_bytes()
    run.fails(16, "unbundle", "../update.mvb", "--base", "net.pt", "-o", "net.pt")
    found = run.json("unbundle", "../update.mvb", "--base", "net.pt", "-o", "net.pt", "--force")
    assert found["written"][0]["path"] == "net.pt"
    assert Path("net.pt").read_bytes() == Path("new.pt").read_bytes()
    assert "builds on" in run.fails(1, "unbundle", "../update.mvb", "--base", "net.pt", "-o", "third.pt")
    data = bytearray((tmp_path / "update.mvb").read_bytes())
    data[len(data) // 2] ^= 1
    Path("bad.mvb").write_bytes(data)
    assert "damaged" in run.fails(14, "unbundle", "bad.mvb", "--base", "new.pt", "-o", "third.pt")
    assert "is no bundle" in run.fails(1, "unbundle", "new.pt", "--base", "new.pt", "-o", "third.pt")
    assert sorted(path.name for path in Path().iterdir()) == ["bad.mvb", "net.pt", "new.pt"]


def test_it_says_what_it_saves(run: Cli) -> None:
    shown = run.ok("bundle", "e1..main", "-o", "update.mvb")
    assert "x lossless), for who has the files of " in shown
    assert "1mbit/s" in shown and "100mbit/s" in shown
    found = run.json(
        "bundle", "e1..main", "-o", "update.mvb", "--force", "--bandwidth", "8mbit", "--bandwidth", "64kbit"
    )
    assert found["bytes"] == (run.root / "update.mvb").stat().st_size
    assert found["raw_bytes"] == (run.root / "epoch-2.bin").stat().st_size
    first, second = found["bandwidths"]
    assert first["seconds"] == found["bytes"] / 1e6
    assert second["seconds_saved"] == pytest.approx((found["raw_bytes"] - found["bytes"]) / 8e3)
    assert found["refs"] == ["heads/main", "tags/e2"]
    run.ok("repack", "--lossy", "0.001", "--yes-lossy", "e1", "e2")
    assert "x lossy abs 0.001), for" in run.ok("bundle", "e1..main", "-o", "lossy.mvb")


def test_rates() -> None:
    for text, rate in (("10mbit", 1e7), ("1.5Gbit", 1.5e9), ("64kbit/s", 64e3), ("9600bit", 9600.0)):
        assert parse_rate(text) == rate
    for text in ("", "10", "mbit", "0mbit", "-1mbit", "10MB", "1e3kbit", "nanbit"):
        with pytest.raises(UsageError):
            parse_rate(text)


@pytest.mark.parametrize(
    "words",
    [
        ("bundle", "main"),
        ("bundle", "-o", "x.mvb"),
        ("bundle", "main..main", "-o", "x.mvb"),
        ("bundle", "main", "-o", "x.mvb", "--bandwidth", "fast"),
        ("unbundle", "x.mvb", "--base", "model.pt"),
        ("unbundle", "x.mvb", "-o", "model.pt"),
        ("unbundle", "x.mvb", "--base", "model.pt", "-o", "y.pt", "--as", "main"),
        ("unbundle", "x.mvb", "--force"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(run: Cli, words: tuple[str, ...]) -> None:
    run.fails(2, *words)
    assert not (run.root / "x.mvb").exists()
