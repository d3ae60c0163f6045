"""Transpose products with a weight instead of what is multiplied, where ONNX Runtime couldn't load the graph.

    MatMul(Transpose(x), W)         →   Transpose(MatMul(x, W))
    MatMul(Cast(Transpose(x)), W)   →   Transpose(MatMul(Cast(x), W))

A transpose in 16 bits that moves the first axis next to the last, before a product in float32 (ONNX Runtime inserts the
cast on CPUs), makes ONNX Runtime crash on x86 while it loads the graph: its fusion of transposes and products leaves a
node without a schema, which NchwcTransformer reads. Since 1.24, also in 1.32, and in every client:
https://github.com/microsoft/onnxruntime/issues/28392. Each row is multiplied as before.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnxport.passes.scopes import node_like, replace_node

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class TransposedProductPass(ir.passes.InPlacePass):
    """Move transposes behind products with a weight."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite a graph in place."""
        found = [node for node in model.graph if _crashes(node)]
        for product in found:
            _exchange(product)
        if found:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=bool(found))


def _crashes(node: ir.Node) -> bool:
    """Return whether a node is the product of a weight with what is transposed in 16 bits."""
    if node.op_type != "MatMul" or node.domain != "":
        return False
    weight, transpose = node.inputs[1], _transpose(node)
    if weight is None or weight.const_value is None or len(weight.const_value.shape) != 2 or transpose is None:
        return False
    axes = list(transpose.attributes.get_ints("perm", []))
    is_half = any(
        value is not None and value.dtype in _HALF for value in (*transpose.inputs, *transpose.outputs, weight)
    )
    return is_half and len(axes) > 2 and axes[-1] == len(axes) - 1 and axes[-2] == 0


def _transpose(product: ir.Node) -> ir.Node | None:
    """Return the node that transposes the left factor of a product, before it is cast or not."""
    node = product.inputs[0].producer() if product.inputs[0] is not None else None
    if node is not None and node.op_type == "Cast":
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node if node is not None and node.op_type == "Transpose" else None


def _exchange(product: ir.Node) -> None:
    transpose, left, shape = _transpose(product), product.inputs[0], product.outputs[0].shape
    assert transpose is not None and left is not None
    axes, source, nodes = transpose.attributes.get_ints("perm"), transpose.inputs[0], []
    if left.producer() is not transpose:
        nodes.append(node_like("Cast", [source], product))
        nodes[0].attributes.update(left.producer().attributes)  # type: ignore[union-attr]  # a cast
        source = nodes[0].outputs[0]
    nodes.append(node_like("MatMul", [source, product.inputs[1]], product))
    nodes.append(node_like("Transpose", [nodes[-1].outputs[0]], product))
    nodes[-1].attributes["perm"] = transpose.attributes["perm"]
    untransposed = nodes[-2].outputs[0]
    untransposed.type = product.outputs[0].type
    if shape is not None:
        untransposed.shape = ir.Shape([shape[axes.index(axis)] for axis in range(len(axes))])
    replace_node(product, nodes)
