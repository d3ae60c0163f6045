"""The fixed sample of the matrix exports, is proved, and is dynamic in batch and length."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.matrix.exports import run_matrix_pair
from conformance.matrix.pairs import pairs
from conformance.matrix.sample import SAMPLE


def test_the_sample_is_wide() -> None:
    assert len(set(SAMPLE)) >= 120
    assert set(SAMPLE) <= set(pairs())
    assert len({model_type for model_type, _ in SAMPLE}) >= 100


@pytest.mark.parametrize("pair", SAMPLE, ids=":".join)
def test_pair_exports_and_validates(pair: tuple[str, str], tmp_path: Path) -> None:
    record = run_matrix_pair(*pair, tmp_path)
    assert record["status"] == "passed", record.get("trace")
    assert record["batch"]
    assert record["length"] is not False
