"""Settings of all tests: one cache for the run, so that no test depends on earlier runs, and few threads.

Tests export hundreds of models in one process, where Python's garbage collector and PyTorch's structured log
(`torch.__trace`, which pytest would capture) take an eighth of the time.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator

import pytest

from onnxport._garbage import THRESHOLDS

if "PYTEST_XDIST_WORKER" in os.environ:  # before PyTorch is imported; there is a worker for each core
    os.environ.setdefault("OMP_NUM_THREADS", "1")
gc.set_threshold(*THRESHOLDS)
logging.getLogger("torch.__trace").setLevel(logging.CRITICAL)


@pytest.fixture(scope="session", autouse=True)
def isolated_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use a separate cache instead of the user's, shared by the workers of one run."""
    base = tmp_path_factory.getbasetemp()
    before = os.environ.get("ONNXPORT_CACHE")
    os.environ["ONNXPORT_CACHE"] = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache")
    yield
    if before is None:
        del os.environ["ONNXPORT_CACHE"]
    else:
        os.environ["ONNXPORT_CACHE"] = before
