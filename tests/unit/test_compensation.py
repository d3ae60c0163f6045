"""Errors of rounded columns are compensated by later ones, for the inputs that the layer has."""

from __future__ import annotations

import numpy as np
import pytest

from onnxport.weights.compensation import compensated
from onnxport.weights.grids import ZeroPoints
from onnxport.weights.quantization import BlockScheme


@pytest.mark.parametrize("columns", [96, 80])
@pytest.mark.parametrize("zero_points", ["none", "integer"])
def test_the_error_of_the_output_is_smaller_than_with_scales_alone(columns: int, zero_points: ZeroPoints) -> None:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(4000, 24)) @ random.normal(size=(24, columns)) + 0.3 * random.normal(
        size=(4000, columns)
    )
    matrix = random.normal(size=(64, columns)).astype(np.float32)
    moments, scheme, dtype = inputs.T @ inputs / len(inputs), BlockScheme(4, 32, zero_points), np.dtype(np.float32)

    def error(parts: dict) -> float:  # type: ignore[type-arg]
        return float(np.square(inputs @ (scheme.dequantize(parts, columns) - matrix).T).mean())

    searched = error(scheme.quantize(matrix, dtype, np.diag(moments).astype(np.float32)))
    assert error(compensated(matrix, moments, scheme, dtype)) < searched / 3


def test_inputs_that_are_never_used_are_rounded_to_nearest() -> None:
    matrix = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
    scheme = BlockScheme(8, 32)
    found = compensated(matrix, np.zeros((32, 32)), scheme, np.dtype(np.float32))
    np.testing.assert_allclose(scheme.dequantize(found, 32), matrix, atol=np.abs(matrix).max() / 127)
