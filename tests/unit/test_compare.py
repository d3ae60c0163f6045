"""An output is compared with the original's."""

from __future__ import annotations

import numpy as np
import pytest

from onnxport.description.tolerances import Tolerance
from onnxport.validation.compare import compare

NAN = np.array([[np.nan, np.nan]])


@pytest.mark.parametrize(
    ("values", "dtype", "passes"),
    [(NAN, np.float16, False), (NAN, np.float32, True), (np.array([[np.nan, 1.0]]), np.float16, True)],
)
def test_an_output_that_is_nan_throughout_in_16_bits_fails(values: np.ndarray, dtype: type, *, passes: bool) -> None:
    output = values.astype(dtype)
    found = compare("logits", output, output.copy(), Tolerance(1e-3, 1e-3))
    assert found.passed == passes
    assert passes or "all values are NaN in float16, also in PyTorch; export with --dtype fp32" in found.problem


@pytest.mark.parametrize(
    ("original", "graph", "where"),
    [([np.nan, 1.0], [2.0, 1.0], "PyTorch"), ([2.0, 1.0], [2.0, np.inf], "the graph")],
)
def test_a_problem_names_the_side_that_is_not_finite(original: list[float], graph: list[float], where: str) -> None:
    found = compare("logits", np.array(original), np.array(graph), Tolerance(1e-3, 1e-3))
    assert found.problem == f"1 of 2 values are NaN or infinite in {where} alone"
