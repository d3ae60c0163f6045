"""Cast arrays with torch's rounding: to nearest, ties to even, wider types through float32.

ml_dtypes casts element by element; casts between float32 and bfloat16 are computed here with integers, in blocks.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]

FLOATS: frozenset[np.dtype[Any]] = frozenset(
    np.dtype(scalar)
    for scalar in (
        np.float16, np.float32, np.float64, ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz,
        ml_dtypes.float8_e8m0fnu,
    )
)  # fmt: skip
"""Floating-point source types."""
TARGETS: frozenset[np.dtype[Any]] = frozenset(
    np.dtype(scalar) for scalar in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)
)
"""Target types."""

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_FLOAT16 = np.dtype(np.float16)
_FLOAT32 = np.dtype(np.float32)
_BLOCK = 1 << 16
"""Elements that are cast at once, so that temporaries stay in the CPU's cache."""


def can_cast(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Return whether `cast_into` returns torch's result for the two types."""
    return target in TARGETS and (source in FLOATS or source.kind in "iub")


def cast_into(source: Array, out: Array) -> None:
    """Cast an array into another of the same shape.

    Args:
        source: any array.
        out: array of the target dtype; it need not be contiguous.
    """
    if source.dtype == out.dtype:
        copy_into(source, out)
    elif source.flags.c_contiguous and out.flags.c_contiguous:
        flat, target = source.reshape(-1), out.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            _cast(flat[start : start + _BLOCK], target[start : start + _BLOCK])
    else:
        contiguous = np.empty(out.shape, out.dtype)
        cast_into(np.ascontiguousarray(source), contiguous)
        copy_into(contiguous, out)


def copy_into(source: Array, out: Array) -> None:
    """Copy an array into another of the same shape and dtype, as integers: numpy copies ml_dtypes' types slowly."""
    if source.dtype.itemsize in (1, 2, 4, 8):
        bits = f"u{source.dtype.itemsize}"
        source, out = source.view(bits), out.view(bits)
    np.copyto(out, source)


def _cast(source: Array, out: Array) -> None:
    """Cast one block."""
    with np.errstate(over="ignore", invalid="ignore"):
        _cast_quietly(source, out)


def _cast_quietly(source: Array, out: Array) -> None:
    if source.dtype == _BFLOAT16 and out.dtype == _FLOAT32:
        bits = out.view(np.uint32)
        np.copyto(bits, source.view(np.uint16))
        np.left_shift(bits, np.uint32(16), out=bits)
        return
    if source.dtype == _FLOAT16 and out.dtype == _FLOAT32:
        np.take(_float16_values(), source.view(np.uint16), out=out, mode="clip")
        return
    if out.dtype.itemsize < 4 and source.dtype.itemsize >= 4 and source.dtype != _FLOAT32:
        source = source.astype(_FLOAT32)  # torch rounds twice here, through float
    if source.dtype == _FLOAT32 and out.dtype == _BFLOAT16:
        _round_to_bfloat16(source, out)
        return
    if source.dtype.itemsize < 4 and source.dtype.kind not in "iub":
        source = source.astype(_FLOAT32)  # exact; ml_dtypes has no direct cast between its types and float16
    np.copyto(out, source, casting="unsafe")


def _round_to_bfloat16(source: Array, out: Array) -> None:
    bits = source.view(np.uint32)
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    np.copyto(out.view(np.uint16), rounded, casting="unsafe")
    nan = np.isnan(source)
    if nan.any():
        out.view(np.uint16)[nan] = np.uint16(0x7FC0)


@cache
def _float16_values() -> Array:
    """Return all 65536 values of float16 as float32; a table look-up is faster than numpy's conversion."""
    return np.arange(1 << 16, dtype=np.uint16).view(_FLOAT16).astype(_FLOAT32)
