"""Fold constants, remove unused nodes, and merge common subexpressions.

    Shape(x) → Cast → Reshape([-1]) → …, once per use      →   Shape(x) → …, once
    two equal constants                                    →   one initializer

onnxscript's optimizer does this. Parameters are passed to it as graph inputs, so that it can't fold, compare or read
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from onnxscript.rewriter import MatchResult

from onnxport.passes.hiding import hidden_parameters
from onnxport.patching.patch import SLOW, Patch
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    from onnxscript.rewriter._matcher import SimplePatternMatcher


def _same_operator_first(original: Callable[..., MatchResult]) -> Callable[..., MatchResult]:
    """Compare operators first, before a pattern with several outputs is matched against all combinations of nodes."""

    def match(
        self: SimplePatternMatcher, model: ir.Model, graph: ir.Graph | ir.Function, node: ir.Node, **options: object
    ) -> MatchResult:
        operator = self.pattern.output_nodes[0].op_identifier()
        if operator is not None and operator != node.op_identifier():
            return MatchResult().fail("another operator")
        return original(self, model, graph, node, **options)

    return match


def _exact_zero_and_one(_: ModuleType) -> SimpleNamespace:
    """Match the constants 0 and 1 of patterns exactly, and other constants within tolerances."""

    def isclose(value: float, expected: float, **tolerances: float) -> bool:
        return value == expected if expected in (0, 1) else math.isclose(value, expected, **tolerances)

    return SimpleNamespace(isclose=isclose)


_PATCHES = (
    Patch(
        "onnxscript.rewriter._matcher:math",
        _exact_zero_and_one,
        "adding up to 1e-8 is removed as an identity: the epsilon of a norm, without which small values differ",
        "none known: onnxscript 0.7 compares constants of a pattern with math.isclose and abs_tol=1e-8",
        "the rules that remove identities compare with exactly 0 and 1",
    ),
    Patch(
        "onnxscript.rewriter._matcher:SimplePatternMatcher.match",
        _same_operator_first,
        "for each node and each pattern with several outputs all nodes of the graph are sorted by operator",
        SLOW,
        "the matcher compares the operator first",
    ),
)


class CleanUpPass(ir.passes.InPlacePass):
    """Run onnxscript's optimizer on a graph without its parameters, until nothing changes."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Optimize a graph in place."""
        from onnxscript.optimizer import optimize_ir
        from onnxscript.rewriter import onnx_fusions

        before = sum(1 for _ in model.graph.all_nodes())
        # The logarithm of 0 in a branch that isn't selected (T5's position buckets) is no error, as in PyTorch.
        with hidden_parameters(model.graph), patching(*_PATCHES), np.errstate(all="ignore"):
            optimize_ir(model, onnx_shape_inference=False)
            _merge_equal_constants(model.graph)
            common_passes.CommonSubexpressionEliminationPass()(model)
            onnx_fusions.fuse(model)
        return ir.passes.PassResult(model, modified=sum(1 for _ in model.graph.all_nodes()) != before)


def _merge_equal_constants(graph: ir.Graph) -> None:
    """Merge constants with equal bytes, of any size, such as a buffer that each layer registers."""
    first_by_content: dict[tuple[object, ...], ir.Value] = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or value.is_graph_output():
            continue
        first = first_by_content.setdefault((tensor.dtype, tuple(tensor.shape), tensor.tobytes()), value)
        if first is not value:
            ir.convenience.replace_all_uses_with(value, first)
            del graph.initializers[name]
