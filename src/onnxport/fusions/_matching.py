"""Read producers, constants and shapes of a graph, and add nodes to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxport.passes.scopes import SCOPES
from onnxport.weights.parameters import ParameterTensor

Attributes = Mapping[str, int | float | str | Sequence[int] | ir.Attr]


MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""


def producer(value: ir.Value | None, op_type: str, domain: str = "") -> ir.Node | None:
    """Return the node that computes a value, if it has this operator."""
    node = value.producer() if value is not None else None
    return node if node is not None and (node.op_type, node.domain) == (op_type, domain) else None


def constant(value: ir.Value | None) -> np.ndarray | None:
    """Return a constant's elements; None for parameters, which have none, and for other values."""
    tensor = value.const_value if value is not None else None
    if value is None or tensor is None or isinstance(tensor, ParameterTensor) or value.is_graph_input():
        return None
    return tensor.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """Return the number of a constant with one element, also if it is cast to the type of another value."""
    cast = producer(value, "CastLike")
    elements = constant(value if cast is None else cast.inputs[0])
    return float(elements.reshape(())) if elements is not None and elements.size == 1 else None


def integers(value: ir.Value | None) -> list[int] | None:
    """Return the elements of an integer constant with at most one axis."""
    elements = constant(value)
    if elements is None or elements.ndim > 1 or elements.dtype.kind != "i":
        return None
    return [int(element) for element in elements.reshape(-1)]


def rank(value: ir.Value | None) -> int | None:
    """Return the number of axes of a value; None if it is unknown."""
    return len(value.shape) if value is not None and value.shape is not None else None


def size(value: ir.Value | None, axis: int) -> int | None:
    """Return the size of an axis; None if it is unknown or dynamic."""
    if value is None or value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    dim = value.shape[axis]
    return dim if isinstance(dim, int) else None


def same_axis(one: ir.Value, other: ir.Value, axis: int) -> bool:
    """Return whether two values have the same size on an axis, static or with the same symbols."""
    if one.shape is None or other.shape is None:
        return False
    return _terms(one.shape[axis]) == _terms(other.shape[axis]) != [""]


def same_shape(one: ir.Value | None, other: ir.Value | None) -> bool:
    """Return whether two values have the same shape."""
    if one is None or other is None or rank(one) is None or rank(one) != rank(other):
        return False
    return all(same_axis(one, other, axis) for axis in range(rank(one) or 0))


def _terms(dim: int | ir.SymbolicDim) -> list[str]:
    """Return the terms of a sum, in alphabetical order."""
    return [str(dim)] if isinstance(dim, int) else sorted((dim.value or "").split(" + "))


def sole_user(value: ir.Value) -> ir.Node | None:
    """Return the only node that reads a value, once; None if there are others, or it is a graph output."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def operand_orders(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Yield the inputs of a commutative node in both orders."""
    one, other = node.inputs
    if one is not None and other is not None:
        yield one, other
        yield other, one


def scaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """Return a value without multiplications and divisions by constant numbers, and their product."""
    factor = 1.0
    while value is not None:
        node = value.producer()
        if node is None or node.domain != "" or node.op_type not in ("Mul", "Div"):
            break
        number = scalar(node.inputs[1])
        if number is not None:
            factor, value = factor * number if node.op_type == "Mul" else factor / number, node.inputs[0]
            continue
        number = scalar(node.inputs[0]) if node.op_type == "Mul" else None
        if number is None:
            break
        factor, value = factor * number, node.inputs[1]
    return value, factor


def is_cast_to_float(node: ir.Node) -> bool:
    """Return whether a node casts to float32: of float32, as in attention that computes its softmax in it."""
    return (node.op_type, node.domain) == ("Cast", "") and node.attributes.get_int("to") == ir.DataType.FLOAT


def without_cast(value: ir.Value | None) -> ir.Value | None:
    """Return what a value is cast from, if it is cast to float32."""
    node = producer(value, "Cast")
    return node.inputs[0] if node is not None and is_cast_to_float(node) else value


def permutation(node: ir.Node) -> list[int]:
    """Return the `perm` of a `Transpose`."""
    return list(node.attributes.get_ints("perm", []))


def add_node(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Attributes | None = None,
    *,
    domain: str = "",
    outputs: int = 1,
) -> ir.Node:
    """Insert a node into the graph of another, before it and with its metadata."""
    scopes = before.metadata_props.get(SCOPES)
    node = ir.node(
        op_type,
        inputs,
        attributes or {},
        domain=domain,
        num_outputs=outputs,
        metadata_props={SCOPES: scopes} if scopes else None,
    )
    assert isinstance(before.graph, ir.Graph)
    before.graph.insert_before(before, node)
    return node


def add_constant(graph: ir.Graph, name: str, elements: np.ndarray) -> ir.Value:
    """Return an initializer with these elements; the one with that name, if the graph has it."""
    if name not in graph.initializers:
        tensor = ir.tensor(elements, name=name)
        value = ir.Value(
            name=name, shape=ir.Shape(elements.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        graph.register_initializer(value)
    return graph.initializers[name]


def int64(elements: int | Sequence[int]) -> np.ndarray:
    """Return integers as ONNX's operators take them."""
    return np.array(elements, np.int64)


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let all users of a value read another, which takes its name if it is a graph output."""
    new.shape, new.type = old.shape, old.type
    if old.is_graph_output():
        new.name, old.name = old.name, None
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
