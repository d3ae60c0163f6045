"""The trained models of these tests; without them, the tests fail instead of being skipped."""

from __future__ import annotations

import pytest

from scripts.fetch_real_models import MODELS, model_directory


@pytest.fixture(scope="session", autouse=True)
def real_models() -> None:
    """Fail where a model isn't there."""
    missing = [name for name in MODELS if not model_directory(name).is_dir()]
    if missing:
        pytest.fail(f"the real models {', '.join(missing)} aren't there; run: make real-models", pytrace=False)
