"""Fuse normalization with the residual connection before it.

    Add(x, y) ─ LayerNormalization   →   SkipLayerNormalization(x, y)
    Add(x, y) ─ RMSNormalization     →   SkipSimplifiedLayerNormalization(x, y)
    RMSNormalization                 →   SimplifiedLayerNormalization, without a residual connection

The sum is another output.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxport.fusions._matching import MICROSOFT, add_node, producer, rank, replace, same_shape


class ContribNormPass(ir.passes.InPlacePass):
    """Replace normalizations with those of ONNX Runtime."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace the nodes in place."""
        modified = False
        for node in [node for node in model.graph if node.op_type in _SKIP and node.domain == ""]:
            modified = _replace(node) or modified
        model.graph.sort()  # other uses of a sum may come before the normalization
        return ir.passes.PassResult(model, modified=modified)


_SKIP = {"LayerNormalization": "SkipLayerNormalization", "RMSNormalization": "SkipSimplifiedLayerNormalization"}


def _replace(node: ir.Node) -> bool:
    x, *weights = node.inputs
    added = producer(x, "Add")
    attributes = {"epsilon": node.attributes["epsilon"]}
    if node.attributes.get_int("axis", -1) not in (-1, (rank(x) or 0) - 1):
        return False
    if added is not None and rank(x) == 3 and all(same_shape(x, part) for part in added.inputs):
        inputs = [*added.inputs, *weights]
        fused = add_node(node, _SKIP[node.op_type], inputs, attributes, domain=MICROSOFT, outputs=4)
        replace(added.outputs[0], fused.outputs[3])
    elif node.op_type == "RMSNormalization":
        attributes |= {"axis": node.attributes["axis"]}
        fused = add_node(node, "SimplifiedLayerNormalization", node.inputs, attributes)
    else:
        return False
    replace(node.outputs[0], fused.outputs[0])
    return True
