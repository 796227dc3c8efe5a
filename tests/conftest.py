"""How much is tested: Hypothesis profiles, the long batteries, and what needs torch.

HYPOTHESIS_PROFILE chooses between `default`, `ci` (the same examples in every run) and `nightly` (many more). No
profile has a deadline: a busy machine is no failure. Tests marked `slow` run with --slow, or where -m or a name asks
for them. Tests marked `torch` are skipped where torch is missing, unless MODELVAULT_TORCH=1 promises it.
"""

from __future__ import annotations

import importlib.util
import os

import hypothesis
import pytest

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=5_000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def _own_configuration(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own configuration matters here."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-configuration"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _skip_torch(items)
    _leave_out_slow(config, items)


def _skip_torch(items: list[pytest.Item]) -> None:
    promised = os.environ.get("MODELVAULT_TORCH") == "1"
    if promised or importlib.util.find_spec("torch") is not None:
        return
    missing = pytest.mark.skip(reason="torch is not installed; scripts/test --torch installs it")
    for item in items:
        if item.get_closest_marker("torch"):
            item.add_marker(missing)


def _leave_out_slow(config: pytest.Config, items: list[pytest.Item]) -> None:
    named = any("::" in argument for argument in config.args)
    if config.getoption("--slow") or named or "slow" in config.getoption("-m"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        items[:] = [item for item in items if item not in slow]
        config.hook.pytest_deselected(items=slow)
