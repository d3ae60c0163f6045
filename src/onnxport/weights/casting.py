"""Cast arrays as torch does: rounded to nearest, ties to even, wide types by way of float32.

ml_dtypes' loops go element by element; between float32 and bfloat16 the same is done here with integers, in blocks.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]

FLOATS: frozenset[np.dtype[Any]] = frozenset(
    np.dtype(kind)
    for kind in (
        np.float16, np.float32, np.float64, ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz,
        ml_dtypes.float8_e8m0fnu,
    )
)  # fmt: skip
"""Floating-point types that can be cast from."""
TARGETS: frozenset[np.dtype[Any]] = frozenset(
    np.dtype(kind) for kind in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)
)
"""Types that can be cast to."""

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_FLOAT32 = np.dtype(np.float32)
_BLOCK = 1 << 18
"""Elements worked on at once: their temporaries stay in the cache."""


def can_cast(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Tell whether `cast_into` gives what torch gives."""
    return target in TARGETS and (source in FLOATS or source.kind in "iub")


def cast_into(source: Array, out: Array) -> None:
    """Cast an array into another one of the same shape.

    Args:
        source: any array.
        out: array of the wanted dtype; it need not be contiguous.
    """
    if source.dtype == out.dtype:
        np.copyto(out, source)
    elif source.flags.c_contiguous and out.flags.c_contiguous and source.size > _BLOCK:
        flat, target = source.reshape(-1), out.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            target[start : start + _BLOCK] = _cast(flat[start : start + _BLOCK], out.dtype)
    else:
        np.copyto(out, _cast(source, out.dtype))


def _cast(source: Array, dtype: np.dtype[Any]) -> Array:
    if source.dtype == _BFLOAT16 and dtype == _FLOAT32:
        return (source.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype.itemsize < 4 and source.dtype.itemsize >= 4 and source.dtype != _FLOAT32:
        source = source.astype(_FLOAT32)  # torch rounds twice here, by way of float
    if source.dtype == _FLOAT32 and dtype == _BFLOAT16:
        return _round_to_bfloat16(source)
    if source.dtype.itemsize < 4 and source.dtype.kind not in "iub" and source.dtype != np.float16:
        source = source.astype(_FLOAT32)  # exact; ml_dtypes has no direct cast between its own types and float16
    with np.errstate(over="ignore", invalid="ignore"):
        return source.astype(dtype)


def _round_to_bfloat16(source: Array) -> Array:
    bits = np.ascontiguousarray(source).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    result = rounded.astype(np.uint16)
    nan = np.isnan(source)
    if nan.any():
        result[nan] = np.uint16(0x7FC0)
    return result.view(_BFLOAT16)
