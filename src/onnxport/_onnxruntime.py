"""Exceptions of ONNX Runtime, which has no public base class for them."""

from __future__ import annotations

from functools import cache

from onnxport.errors import NoKernelError, ValidationError


@cache
def runtime_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of ONNX Runtime.

    Its exception classes have no common base class but `Exception` (up to 1.32), and aren't public. It raises
    `ValueError` for a wrong feed, and `RuntimeError` for some kernel failures.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    classes = (value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
    return (*classes, RuntimeError, ValueError)


def load_error(name: object, error: Exception) -> ValidationError:
    """Return the error for a graph that ONNX Runtime can't load; `NoKernelError` if it lacks a kernel.

    Args:
        name: the graph's file, as the message shows it.
        error: ONNX Runtime's exception.
    """
    error_type = NoKernelError if "NOT_IMPLEMENTED" in str(error) else ValidationError
    return error_type(f"ONNX Runtime can't load {name}: {error}")
