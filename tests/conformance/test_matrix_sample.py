"""A fixed sample of the matrix is validated, with dynamic batch size and length, and takes its task's modalities."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.matrix.exports import run_matrix_pair
from conformance.matrix.sample import SAMPLE
from tests.breadth import sampled

WIDE = {
    "donut-swin:image-classification",
    "encoder-decoder:text2text-generation",
    "levit:image-classification",
    "sam:mask-generation",
}
"""Pairs that take longer than others, whose tasks other tests export; `make conformance` runs them."""
PAIRS = [":".join(pair) for pair in SAMPLE]


@pytest.mark.parametrize("pair", sampled(PAIRS, set(PAIRS) - WIDE))
def test_pair_exports_and_validates(pair: str, tmp_path: Path) -> None:
    record = run_matrix_pair(*pair.split(":"), tmp_path)
    assert record["status"] == "passed", (record["message"], record.get("trace"))
    assert record["batch"]
    assert record["length"] is not False
