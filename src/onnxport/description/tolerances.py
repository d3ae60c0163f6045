"""How much a graph may differ from its original.

An output passes where `|graph - original| <= atol + rtol * max|original|`: the relative part is taken of the output's
largest magnitude, since rounding errors of a matrix product scale with the terms that are summed, not with the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxport.description.description import GraphDescription
    from onnxport.options import Dtype, ValidationOptions

RTOL = {"fp32": 5e-4, "fp16": 2e-2, "bf16": 1e-1}
"""Relative tolerances: what rounding in another order costs, and far below what a wrong graph shows (from 1e-2 on).
Measured for fp32: 1.5e-4 for the 30 layers of SmolLM2-135M behind a random past, 1e-5 and less for shallow models."""
MIN_ATOL = {"fp32": 0.0, "fp16": 1e-3, "bf16": 1e-2}
"""Lower bounds of the absolute tolerance: below them the type itself can't tell values near 1 apart."""


@dataclass(frozen=True)
class Tolerance:
    """Hold the two bounds of a comparison.

    Attributes:
        atol: absolute difference that passes anywhere.
        rtol: difference that passes, relative to the output's largest finite magnitude.
    """

    atol: float
    rtol: float


def default_tolerance(atol: float, dtype: Dtype) -> Tolerance:
    """Return the tolerance of a graph.

    Args:
        atol: the absolute one that its `OnnxConfig` asks for, in fp32.
        dtype: floating-point type of the graph.
    """
    return Tolerance(max(atol, MIN_ATOL[dtype]), RTOL[dtype])


def tolerance_of(graph: GraphDescription, options: ValidationOptions) -> Tolerance:
    """Choose the tolerance of a graph's validation: what the user asks for, else its own."""
    atol = graph.atol if options.atol is None else options.atol
    return Tolerance(atol, graph.rtol if options.rtol is None else options.rtol)
