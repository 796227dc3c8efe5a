"""Do the examples in the docstrings say what happens?"""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import modelvault

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(modelvault.__path__, "modelvault.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_there_are_examples() -> None:
    """The test above would pass on a package without any."""
    finder = doctest.DocTestFinder()
    counted = sum(len(found.examples) for name in MODULES for found in finder.find(importlib.import_module(name)))
    assert counted >= 15
