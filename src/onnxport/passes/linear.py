"""Multiply by a parameter as it is stored, without a `Transpose` that would be run, or folded, at each loading.

    MatMul(x, Transpose(W))                →   MatMul(x, W'), W' bound to the transposed parameter: written transposed
    the same, W used elsewhere or linked   →   Gemm(x as a matrix, W, transB=1), back to x's axes

The first is what other exporters write and other tools look for. A parameter that an embedding uses too, or that stays
in the checkpoint's file, has to be used as it is.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxport.passes.scopes import SCOPES
from onnxport.weights.parameters import ParameterTensor


class LinearPass(ir.passes.InPlacePass):
    """Take the `Transpose` off the parameters of linear layers.

    Args:
        keep_layout: use every parameter as it is stored, because the weights are linked.
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
            if not users or not all(_multiplies(node, transpose.outputs[0]) for node in users):
                continue
            if self._keep_layout or len(weight.uses()) > 1:
                for node in users:
                    _to_gemm(model.graph, node, weight, shapes)
            else:
                _turn(model.graph, transpose, weight)
            model.graph.remove(transpose, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _transposes_parameter(node: ir.Node) -> bool:
    source = node.inputs[0] if node.op_type == "Transpose" and node.domain == "" else None
    if source is None or not isinstance(source.const_value, ParameterTensor):
        return False
    perm = node.attributes.get_ints("perm", None)
    return len(source.const_value.shape) == 2 and (perm is None or list(perm) == [1, 0])


def _multiplies(node: ir.Node, by: ir.Value) -> bool:
    left = node.inputs[0]
    known = left is not None and left.shape is not None and len(left.shape) >= 2
    return node.op_type == "MatMul" and node.domain == "" and node.inputs[1] is by and left is not by and known


def _turn(graph: ir.Graph, transpose: ir.Node, weight: ir.Value) -> None:
    """Let the users of a transposed parameter read one that is bound to the transpose."""
    tensor = weight.const_value
    assert isinstance(tensor, ParameterTensor)
    turned = tensor.transposed()
    del graph.initializers[str(weight.name)]
    value = ir.Value(name=weight.name, shape=ir.Shape(turned.shape.numpy()), type=weight.type, const_value=turned)
    weight.const_value = None  # a value renames its tensor, and other clones of the graph have the same one
    weight.name = None
    graph.register_initializer(value)
    ir.convenience.replace_all_uses_with(transpose.outputs[0], value)


class _Shapes:
    """Make, once for each tensor, the leading sizes that a product keeps."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._leading: dict[ir.Value, ir.Value] = {}
        self._constants: dict[tuple[int, ...], ir.Value] = {}

    def constant(self, *numbers: int) -> ir.Value:
        """Return an initializer with these numbers."""
        if numbers not in self._constants:
            name = "shape_" + "_".join(str(number).replace("-", "minus_") for number in numbers)
            tensor = ir.tensor(np.array(numbers, np.int64), name=name)
            kind = ir.TensorType(tensor.dtype)
            value = ir.Value(name=name, shape=ir.Shape([len(numbers)]), type=kind, const_value=tensor)
            self._graph.register_initializer(value)
            self._constants[numbers] = value
        return self._constants[numbers]

    def leading(self, value: ir.Value, before: ir.Node) -> ir.Value:
        """Return all sizes of a tensor but the last, computed before a node."""
        if value not in self._leading:
            assert value.shape is not None
            node = _node("Shape", [value], before, {"start": 0, "end": len(value.shape) - 1})
            self._graph.insert_before(before, node)
            self._leading[value] = node.outputs[0]
        return self._leading[value]


def _to_gemm(graph: ir.Graph, node: ir.Node, weight: ir.Value, shapes: _Shapes) -> None:
    left, product = node.inputs[0], node.outputs[0]
    assert left is not None and left.shape is not None and isinstance(weight.const_value, ParameterTensor)
    width, depth = weight.const_value.shape.numpy()
    last, bias = _bias(product)
    inputs = [left, weight] if bias is None else [left, weight, bias]
    made: list[ir.Node] = []
    if len(left.shape) > 2:
        leading = shapes.leading(left, node)
        made.append(_node("Reshape", [left, shapes.constant(-1, depth)], node))
        inputs[0] = made[-1].outputs[0]
        made.append(_node("Gemm", inputs, node, {"transB": 1}))
        made.append(_node("Concat", [leading, shapes.constant(width)], node, {"axis": 0}))
        made.append(_node("Reshape", [made[1].outputs[0], made[2].outputs[0]], node))
    else:
        made.append(_node("Gemm", inputs, node, {"transB": 1}))
    new = made[-1].outputs[0]
    old = last.outputs[0]
    new.shape, new.type = old.shape, old.type
    graph.insert_after(last, made)
    if old.is_graph_output():
        new.name = old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove([last] if last is node else [last, node], safe=True)


def _bias(product: ir.Value) -> tuple[ir.Node, ir.Value | None]:
    """Return the node that a product ends with, and the bias that it adds, if it does."""
    uses = product.uses()
    user = next(iter(uses)).node if len(uses) == 1 and not product.is_graph_output() else None
    if user is not None and user.op_type == "Add" and user.domain == "":
        other = user.inputs[1] if user.inputs[0] is product else user.inputs[0]
        if other is not None and other.const_value is not None and len(other.const_value.shape) == 1:
            return user, other
    return product.producer(), None  # type: ignore[return-value]


def _node(operator: str, inputs: list[ir.Value], like: ir.Node, attributes: dict[str, int] | None = None) -> ir.Node:
    scope = like.metadata_props.get(SCOPES)
    return ir.node(operator, inputs, attributes or {}, metadata_props={SCOPES: scope} if scope else None)
