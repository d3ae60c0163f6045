"""Casts round as torch does, for every value of the small types and many of the large ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from onnx_ir.tensor_adapters import TorchTensor

from onnxport.weights.casting import can_cast, cast_into

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
EIGHTS = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
INTEGERS = [torch.int8, torch.uint8, torch.int64, torch.bool]


def samples(dtype: torch.dtype) -> torch.Tensor:
    random = np.random.default_rng(0)
    if dtype == torch.bool:
        return torch.tensor([True, False])
    if dtype.itemsize == 1:
        return torch.arange(256, dtype=torch.int16).to(torch.uint8).view(dtype)
    if dtype.itemsize == 2:
        return torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)
    if dtype == torch.int64:
        return torch.from_numpy(random.integers(-(1 << 40), 1 << 40, 1 << 16))
    if dtype == torch.float32:
        return torch.from_numpy(random.integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view(np.float32))
    halves = random.standard_normal(1 << 16).astype(np.float16).astype(np.float64)
    ties = halves * (1 + 2.0**-11)  # near midpoints of adjacent values, rounding twice differs from rounding once
    edges = np.array([np.inf, -np.inf, 1e300, -1e39, 65519.999999, 65520.0, 3.4028235677973366e38])
    return torch.from_numpy(np.concatenate([ties, ties * (1 + 1e-12), ties * (1 - 1e-12), edges]))


@pytest.mark.parametrize(("source", "target"), list(itertools.product(FLOATS + EIGHTS + INTEGERS, FLOATS)), ids=str)
def test_rounding_equals_torchs(source: torch.dtype, target: torch.dtype) -> None:
    tensor = samples(source)
    expected = TorchTensor(tensor.to(target)).numpy()
    array = TorchTensor(tensor).numpy()
    assert can_cast(array.dtype, expected.dtype)
    found, strided = np.empty_like(expected), np.empty((expected.size, 2), expected.dtype)[:, 0]
    cast_into(array, found)
    cast_into(array[::-1], strided[::-1])
    nan = np.isnan(tensor.to(torch.float32).numpy())
    assert np.isnan(found[nan].astype(np.float32)).all()
    assert found[~nan].tobytes() == expected[~nan].tobytes()
    assert strided[~nan].tobytes() == expected[~nan].tobytes()


def test_unsupported_casts_are_an_error() -> None:
    assert not can_cast(np.dtype(np.float32), np.dtype(np.int8))
    assert not can_cast(np.dtype(np.complex64), np.dtype(np.float32))
