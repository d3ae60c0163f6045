"""What all tests share: one cache for the run, so that no test depends on what an earlier run left, and few threads."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before PyTorch is imported: workers as many as cores need no more threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache out of the tests, and the tests out of it; the workers of one run share theirs."""
    base = tmp_path_factory.getbasetemp()
    before = os.environ.get("ONNXPORT_CACHE")
    os.environ["ONNXPORT_CACHE"] = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache")
    yield
    if before is None:
        del os.environ["ONNXPORT_CACHE"]
    else:
        os.environ["ONNXPORT_CACHE"] = before
