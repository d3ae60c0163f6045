"""Exceptions of ONNX Runtime, which has no public base class for them."""

from __future__ import annotations

from functools import cache


@cache
def runtime_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of ONNX Runtime.

    Its own have no base class but `Exception` (up to 1.32), and aren't public; for a wrong feed it raises `ValueError`,
    and for some failures of a kernel `RuntimeError`.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
    return (*own, RuntimeError, ValueError)
