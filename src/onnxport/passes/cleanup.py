"""Fold constants, drop what isn't used, and merge what is computed twice.

    Shape(x) → Cast → Reshape([-1]) → …, once per use      →   Shape(x) → …, once
    two equal constants                                    →   one initializer

onnxscript's optimizer does the work. Parameters are hidden from it as graph inputs, so that it can't fold, compare or
read them.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from onnxscript.rewriter import MatchResult

from onnxport.passes.hiding import hidden_parameters
from onnxport.patching.patch import SLOW, Patch
from onnxport.patching.scope import patching


def _same_operator_first(original: Any) -> Any:
    """Compare operators before anything else: a pattern with several outputs is tried with every pair of nodes."""

    def match(self: Any, model: Any, graph: Any, node: ir.Node, **options: Any) -> Any:
        wanted = self.pattern.output_nodes[0].op_identifier()
        if wanted is not None and wanted != node.op_identifier():
            return MatchResult().fail("another operator")
        return original(self, model, graph, node, **options)

    return match


def _exact(_: Any) -> Any:
    """Take only zero for nothing to add, and only one for nothing to multiply by; other numbers are rounded."""

    def isclose(value: float, wanted: float, **tolerances: float) -> bool:
        return value == wanted if wanted in (0, 1) else math.isclose(value, wanted, **tolerances)

    return SimpleNamespace(isclose=isclose)


_PATCHES = (
    Patch(
        "onnxscript.rewriter._matcher:math",
        _exact,
        "adding up to 1e-8 is dropped as an identity: the epsilon of a norm, without which small values differ",
        "none known: onnxscript 0.7 compares constants of a pattern with math.isclose and abs_tol=1e-8",
        "the rules that drop identities compare with exactly 0 and 1",
    ),
    Patch(
        "onnxscript.rewriter._matcher:SimplePatternMatcher.match",
        _same_operator_first,
        "for each node and each pattern with several outputs all nodes of the graph are sorted by operator",
        SLOW,
        "the matcher looks at the operator first",
    ),
)


class CleanUpPass(ir.passes.InPlacePass):
    """Run onnxscript's optimizer on everything but the parameters, until it finds nothing."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Clean a graph in place."""
        from onnxscript.optimizer import optimize_ir
        from onnxscript.rewriter import onnx_fusions

        before = sum(1 for _ in model.graph.all_nodes())
        with hidden_parameters(model.graph), patching(*_PATCHES):
            optimize_ir(model, onnx_shape_inference=False)
            _merge_equal_constants(model.graph)
            common_passes.CommonSubexpressionEliminationPass()(model)
            onnx_fusions.fuse(model)
        return ir.passes.PassResult(model, modified=sum(1 for _ in model.graph.all_nodes()) != before)


def _merge_equal_constants(graph: ir.Graph) -> None:
    """Keep one of the constants with the same bytes, whatever their size: buffers that every layer has of its own."""
    seen: dict[tuple[object, ...], ir.Value] = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or value.is_graph_output():
            continue
        kept = seen.setdefault((tensor.dtype, tuple(tensor.shape), tensor.tobytes()), value)
        if kept is not value:
            ir.convenience.replace_all_uses_with(value, kept)
            del graph.initializers[name]
