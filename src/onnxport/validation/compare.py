"""Compare an output of the original model with the graph's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.description.tolerances import Tolerance
from onnxport.validation.report import OutputDifference

if TYPE_CHECKING:
    from numpy.typing import NDArray


def compare(
    name: str, original: NDArray[Any], graph: NDArray[Any], tolerance: Tolerance, least: float = 0.0
) -> OutputDifference:
    """Compare an output's shape, dtype and values.

    NaN equals NaN and an infinity equals itself: a graph that reproduces them reproduces the original. An output in 16
    bits that is NaN throughout is a failure all the same: the model overflows in that type, also in PyTorch.

    Args:
        name: flat output name.
        original: PyTorch's output.
        graph: ONNX Runtime's output.
        tolerance: bounds, see `onnxport.description.tolerances`.
        least: difference that is allowed in any case.
    """
    if original.shape != graph.shape:
        return _failed(name, graph, f"shape {graph.shape}, the original has {original.shape}")
    if original.dtype != graph.dtype:
        return _failed(name, graph, f"dtype {graph.dtype}, the original has {original.dtype}")
    a, b = original.astype(np.float64), graph.astype(np.float64)
    if a.size and original.dtype.itemsize == 2 and np.isnan(a).all() and np.isnan(b).all():
        problem = f"all values are NaN in {original.dtype}, also in PyTorch; export with --dtype fp32"
        return _failed(name, graph, problem)
    unequal = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    finite = np.isfinite(a) & np.isfinite(b)
    odd = unequal & ~finite
    if bool(odd.any()):
        sides = [side for side, values in (("PyTorch", a), ("the graph", b)) if not np.isfinite(values[odd]).all()]
        return _failed(name, graph, f"{odd.sum()} of {a.size} values are NaN or infinite in {' or '.join(sides)} alone")
    difference = np.where(finite, np.abs(a - b, where=finite, out=np.zeros_like(a)), 0.0)
    magnitude = np.abs(np.where(finite, a, 0.0))
    max_abs = float(difference.max(initial=0.0))
    above_atol = magnitude > tolerance.atol
    max_rel = float((difference[above_atol] / magnitude[above_atol]).max(initial=0.0))
    allowed = max(least, tolerance.atol + tolerance.rtol * float(magnitude.max(initial=0.0)))
    problem = "" if max_abs <= allowed else f"differs by {max_abs:.3g}, allowed is {allowed:.3g}"
    return OutputDifference(name, str(graph.dtype), graph.shape, max_abs, max_rel, not problem, problem, allowed)


def compare_all(
    arrays: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
    tolerance: Tolerance,
    least: Callable[[], Mapping[str, float]],
) -> tuple[OutputDifference, ...]:
    """Compare outputs, and again with what may differ in any case if values are outside the tolerance.

    Args:
        arrays: output name to the original's and the graph's.
        tolerance: bounds.
        least: returns output name to the difference that is allowed in any case, where there is one.
    """
    outputs = tuple(compare(name, *pair, tolerance) for name, pair in arrays.items())
    if all(output.passed or output.max_abs is None for output in outputs):
        return outputs
    allowed = least()
    return tuple(compare(name, *pair, tolerance, allowed.get(name, 0.0)) for name, pair in arrays.items())


def like(original: NDArray[Any], graph: NDArray[Any]) -> NDArray[Any]:
    """Return the original's output in the dtype to which the graph casts its own, if both are floating-point.

    Args:
        original: PyTorch's output.
        graph: ONNX Runtime's output.
    """
    return original.astype(graph.dtype) if original.dtype.kind == graph.dtype.kind == "f" else original


def _failed(name: str, graph: NDArray[Any], problem: str) -> OutputDifference:
    return OutputDifference(name, str(graph.dtype), graph.shape, None, None, False, problem)
