"""Remove the `Transpose` of linear layers' weights, which would be run, or folded each time the graph is loaded.

    MatMul(x, Transpose(W))                →   MatMul(x, W'), W' bound to the transposed parameter: written transposed
    the same, W used elsewhere or linked   →   Gemm(x as a matrix, W, transB=1), reshaped to x's leading axes

Other exporters write the first form, and tools expect it. A parameter that is also used by an embedding, or that stays
in the checkpoint's file, keeps its layout.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxport.passes.scopes import node_like, replace_node
from onnxport.weights.parameters import ParameterTensor

SMALLEST = 16
"""Rows and columns from which matrices are packed and quantized: smaller ones, such as a head of two classes, save
nothing."""
_ROUTER_DEPTH = 6
"""Operators between the linear layer of a router and the choice of experts: casts, softmax, bias, reshapes."""


def chooses_experts(node: ir.Node) -> bool:
    """Return whether a linear layer is the router of a mixture of experts: its choice depends on small differences."""
    values = list(node.outputs) if node.op_type != "Gather" else []
    for _ in range(_ROUTER_DEPTH):
        users = [use.node for value in values for use in value.uses()]
        if any(user.op_type == "TopK" for user in users):
            return True
        values = [value for user in users if len(user.inputs) <= 2 for value in user.outputs]
    return False


class LinearPass(ir.passes.InPlacePass):
    """Remove the `Transpose` of linear layers' weights.

    Args:
        keep_layout: use every parameter in the checkpoint's layout, because the weights are linked.
    """

    def __init__(self, *, keep_layout: bool = False) -> None:
        super().__init__()
        self._keep_layout = keep_layout

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite a graph in place."""
        modified = False
        shapes = _Shapes(model.graph)
        for transpose in [node for node in model.graph if _transposes_parameter(node)]:
            weight, users = transpose.inputs[0], [node for node, _ in transpose.outputs[0].uses()]
            assert weight is not None
            if not users or not all(_is_matmul_with(node, transpose.outputs[0]) for node in users):
                continue
            if self._keep_layout or len(weight.uses()) > 1:
                for node in users:
                    _to_gemm(model.graph, node, weight, shapes)
            else:
                _bind_transposed(model.graph, transpose, weight)
            model.graph.remove(transpose, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _transposes_parameter(node: ir.Node) -> bool:
    source = node.inputs[0] if node.op_type == "Transpose" and node.domain == "" else None
    if source is None or not isinstance(source.const_value, ParameterTensor):
        return False
    perm = node.attributes.get_ints("perm", None)
    return len(source.const_value.shape) == 2 and (perm is None or list(perm) == [1, 0])


def _is_matmul_with(node: ir.Node, right: ir.Value) -> bool:
    left = node.inputs[0]
    has_rank = left is not None and left.shape is not None and len(left.shape) >= 2
    return node.op_type == "MatMul" and node.domain == "" and node.inputs[1] is right and left is not right and has_rank


def _bind_transposed(graph: ir.Graph, transpose: ir.Node, weight: ir.Value) -> None:
    """Replace the transpose of a parameter with a parameter that is bound to the transposed tensor."""
    tensor = weight.const_value
    assert isinstance(tensor, ParameterTensor)
    transposed = tensor.transposed()
    shape = ir.Shape(transposed.shape.numpy())
    del graph.initializers[str(weight.name)]
    value = ir.Value(name=weight.name, shape=shape, type=weight.type, const_value=transposed)
    weight.const_value = None  # renaming a value renames its tensor, which clones of the graph share
    weight.name = None
    graph.register_initializer(value)
    ir.convenience.replace_all_uses_with(transpose.outputs[0], value)


class _Shapes:
    """Compute the leading sizes of tensors, once for each tensor."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._leading: dict[ir.Value, ir.Value] = {}
        self._constants: dict[tuple[int, ...], ir.Value] = {}

    def constant(self, *sizes: int) -> ir.Value:
        """Return an int64 initializer with these elements."""
        if sizes not in self._constants:
            name = "shape_" + "_".join(str(size).replace("-", "minus_") for size in sizes)
            tensor = ir.tensor(np.array(sizes, np.int64), name=name)
            tensor_type = ir.TensorType(tensor.dtype)
            value = ir.Value(name=name, shape=ir.Shape([len(sizes)]), type=tensor_type, const_value=tensor)
            self._graph.register_initializer(value)
            self._constants[sizes] = value
        return self._constants[sizes]

    def leading(self, value: ir.Value, before: ir.Node) -> ir.Value:
        """Return all sizes of a tensor except the last, computed before a node."""
        if value not in self._leading:
            assert value.shape is not None
            node = node_like("Shape", [value], before, {"start": 0, "end": len(value.shape) - 1})
            self._graph.insert_before(before, node)
            self._leading[value] = node.outputs[0]
        return self._leading[value]


def _to_gemm(graph: ir.Graph, node: ir.Node, weight: ir.Value, shapes: _Shapes) -> None:
    left, product = node.inputs[0], node.outputs[0]
    assert left is not None and left.shape is not None and isinstance(weight.const_value, ParameterTensor)
    width, depth = weight.const_value.shape.numpy()
    last, bias = _bias(product)
    inputs = [left, weight] if bias is None else [left, weight, bias]
    nodes: list[ir.Node] = []
    if len(left.shape) > 2:
        leading = shapes.leading(left, node)
        nodes.append(node_like("Reshape", [left, shapes.constant(-1, depth)], node))
        inputs[0] = nodes[-1].outputs[0]
        nodes.append(node_like("Gemm", inputs, node, {"transB": 1}))
        nodes.append(node_like("Concat", [leading, shapes.constant(width)], node, {"axis": 0}))
        nodes.append(node_like("Reshape", [nodes[1].outputs[0], nodes[2].outputs[0]], node))
    else:
        nodes.append(node_like("Gemm", inputs, node, {"transB": 1}))
    replace_node(last, nodes)
    if last is not node:
        graph.remove(node, safe=True)


def _bias(product: ir.Value) -> tuple[ir.Node, ir.Value | None]:
    """Return the last node of a linear layer, and its bias: an `Add` of a vector, or the product itself and None."""
    uses = product.uses()
    user = next(iter(uses)).node if len(uses) == 1 and not product.is_graph_output() else None
    if user is not None and user.op_type == "Add" and user.domain == "":
        other = user.inputs[1] if user.inputs[0] is product else user.inputs[0]
        if other is not None and other.const_value is not None and len(other.const_value.shape) == 1:
            return user, other
    return product.producer(), None  # type: ignore[return-value]
