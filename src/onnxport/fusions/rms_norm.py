"""Fuse root mean square normalization.

    x ─┬─ Pow(2) ─ ReduceMean ─ Add(epsilon) ─ Sqrt ─ Reciprocal ─┐
       └───────────────────────────────────────────────────────── Mul ─ Mul(weight)   →   RMSNormalization(x, weight)

The weight may be computed (Gemma's is 1 + the parameter), or missing. Of float16, it is computed in float32.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxport.fusions._matching import (
    add_constant,
    add_node,
    integers,
    operand_orders,
    producer,
    rank,
    replace,
    scalar,
    size,
    sole_user,
    without_cast,
)


class RmsNormPass(ir.passes.InPlacePass):
    """Replace normalizations over the last axis with `RMSNormalization`."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse in place."""
        modified = False
        for node in [node for node in model.graph if node.op_type == "Mul" and node.domain == ""]:
            modified = _fuse(model.graph, node) or modified
        return ir.passes.PassResult(model, modified=modified)


def _fuse(graph: ir.Graph, node: ir.Node) -> bool:
    for x, inverse in operand_orders(node):
        epsilon = _epsilon(x, inverse)
        if epsilon is None or x.dtype is None:
            continue
        for source in (_wide_source(x), x):
            last, weight = _weighted(_cast_back(node, source), source)
            if weight is not None:
                break
        else:
            last, source, weight = node, x, _ones(graph, x)
        if weight is None:
            return False
        fused = add_node(last, "RMSNormalization", [source, weight], {"axis": -1, "epsilon": epsilon})
        replace(last.outputs[0], fused.outputs[0])
        return True
    return False


def _wide_source(x: ir.Value) -> ir.Value:
    """Return what is cast to float32 to be normalized, if it is float16 or bfloat16."""
    source = without_cast(x)
    is_narrow = source is not None and source.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return source if is_narrow and source is not None else x


def _cast_back(node: ir.Node, source: ir.Value) -> ir.Node:
    """Return the node that casts a normalization to the type of its source: of float16, it is computed in float32."""
    user = sole_user(node.outputs[0])
    is_cast = user is not None and user.op_type == "Cast" and user.outputs[0].dtype == source.dtype
    return user if is_cast and user is not None else node


def _ones(graph: ir.Graph, x: ir.Value) -> ir.Value | None:
    """Return the weight of a normalization without one."""
    width = size(x, -1)
    if width is None or x.dtype is None:
        return None
    return add_constant(graph, f"ones_{width}_{x.dtype.name.lower()}", np.ones(width, x.dtype.numpy()))


def _epsilon(x: ir.Value, inverse: ir.Value) -> float | None:
    """Return epsilon, if a value is the inverse of the root mean square of x."""
    total = None
    reciprocal, power = producer(inverse, "Reciprocal"), producer(inverse, "Pow")
    if reciprocal is not None and (root := producer(reciprocal.inputs[0], "Sqrt")) is not None:
        total = producer(root.inputs[0], "Add")
    elif power is not None and scalar(power.inputs[1]) == -0.5:
        total = producer(power.inputs[0], "Add")
    if total is None:
        return None
    for mean, epsilon in operand_orders(total):
        node = producer(mean, "ReduceMean")
        if node is None or len(node.inputs) < 2 or integers(node.inputs[1]) not in ([-1], [(rank(x) or 0) - 1]):
            continue
        if node.attributes.get_int("keepdims", 1) == 1 and _is_square_of(node.inputs[0], x):
            return scalar(epsilon)
    return None


def _is_square_of(value: ir.Value | None, x: ir.Value) -> bool:
    power, product = producer(value, "Pow"), producer(value, "Mul")
    if power is not None:
        return power.inputs[0] is x and scalar(power.inputs[1]) == 2.0
    return product is not None and product.inputs[0] is x and product.inputs[1] is x


def _weighted(node: ir.Node, x: ir.Value) -> tuple[ir.Node, ir.Value | None]:
    """Return the last node of a normalization, and its weight, if it has one."""
    user = sole_user(node.outputs[0])
    if user is not None and user.op_type == "Mul" and user.domain == "":
        for weight, normalized in operand_orders(user):
            is_vector = rank(weight) == 1 and size(weight, 0) == size(x, -1) is not None
            if normalized is node.outputs[0] and is_vector and weight.dtype == x.dtype:
                return user, weight
    return node, None
