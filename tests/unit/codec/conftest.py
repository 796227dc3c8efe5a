"""All kernels that this machine has, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from modelvault.codec import kernels

from .test_kernels import NATIVE


@pytest.fixture(params=["numpy", *NATIVE])
def kernel(request: pytest.FixtureRequest) -> Iterator[kernels.Kernels]:
    before = kernels.in_use()
    kernels.use(request.param)
    yield kernels.current
    kernels.use(before)
