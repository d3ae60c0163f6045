"""A fixed sample of the matrix is validated, with dynamic batch size and length, and takes its task's modalities."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.matrix.exports import run_matrix_pair
from conformance.matrix.sample import SAMPLE


@pytest.mark.parametrize("pair", SAMPLE, ids=":".join)
def test_pair_exports_and_validates(pair: tuple[str, str], tmp_path: Path) -> None:
    record = run_matrix_pair(*pair, tmp_path)
    assert record["status"] == "passed", (record["message"], record.get("trace"))
    assert record["batch"]
    assert record["length"] is not False
