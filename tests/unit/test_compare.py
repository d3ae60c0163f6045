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
