"""Exceptions of ONNX Runtime, which has no public base class for them."""

from __future__ import annotations

from functools import cache


@cache
def runtime_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of ONNX Runtime.

    Its exception classes have no common base class but `Exception` (up to 1.32), and aren't public. It raises
    `ValueError` for a wrong feed, and `RuntimeError` for some kernel failures.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    classes = (value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
    return (*classes, RuntimeError, ValueError)
