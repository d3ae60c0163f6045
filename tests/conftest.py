"""What all tests share: a cache of their own, so that no test depends on what an earlier run left."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache out of the tests, and the tests out of it."""
    before = os.environ.get("ONNXPORT_CACHE")
    os.environ["ONNXPORT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["ONNXPORT_CACHE"]
    else:
        os.environ["ONNXPORT_CACHE"] = before
