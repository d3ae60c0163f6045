"""Tolerances of a graph's outputs against those of the original model, and what stands for random numbers in both.

An output passes if `|graph - original| <= atol + rtol * max|original|`: `rtol` is relative to the output's largest
magnitude, since rounding errors of a matrix product scale with the terms that are summed, not with the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxport.description.description import GraphDescription
    from onnxport.options import FloatDtype, ValidationOptions

RTOL = {"fp32": 5e-4, "fp16": 2e-2, "bf16": 1e-1}
"""Relative tolerances: above the error of another summation order, far below that of a wrong graph (at least 1e-2).
Measured for fp32: 1.5e-4 for the 30 layers of SmolLM2-135M with a random past, at most 1e-5 for shallow models."""
RANDOM_CACHE_RTOL = 5e-3
"""Relative tolerance for a random cache, of outputs that are within `RTOL` for one that the model made: half of what a
wrong graph differs by. Measured for SmolLM2-135M in q8 and uint8: 4e-4, and 8e-4 calibrated with random tokens, where
its own cache gives 3e-6."""
MIN_ATOL = {"fp32": 0.0, "fp16": 1e-3, "bf16": 1e-2}
"""Lower bounds of the absolute tolerance: the resolution of the type for values near 1."""
_OWN_ROUNDING = 2.0
"""The original's own rounding error, and one of the same size of the graph."""
DRAWN = 0.5
"""What a graph or model that is compared draws from the standard normal distribution, and from [0, 1)."""


@dataclass(frozen=True)
class Tolerance:
    """Hold the tolerances of a comparison.

    Attributes:
        atol: absolute tolerance.
        rtol: tolerance relative to the output's largest finite magnitude.
        own_rounding: multiple of what rounding changes in the original that an output may differ by in any case, see
            `onnxport.validation.own_rounding`; 0 for none.
    """

    atol: float
    rtol: float
    own_rounding: float = 0.0


def default_tolerance(atol: float, dtype: FloatDtype) -> Tolerance:
    """Return the tolerance of a graph.

    Args:
        atol: absolute tolerance of its `OnnxConfig`, for fp32.
        dtype: floating-point type of the graph.
    """
    return Tolerance(max(atol, MIN_ATOL[dtype]), RTOL[dtype])


def tolerance_of(graph: GraphDescription, options: ValidationOptions) -> Tolerance:
    """Return the tolerance of a graph's validation: the user's option if set, else the description's."""
    if options.atol is None and options.rtol is None:
        return Tolerance(graph.atol, graph.rtol, _OWN_ROUNDING)
    atol = graph.atol if options.atol is None else options.atol
    return Tolerance(atol, graph.rtol if options.rtol is None else options.rtol)
