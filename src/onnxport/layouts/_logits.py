"""Give a decoder an input that says of how many last tokens it computes logits, as transformers.js passes it.

    hidden → Slice(-n:) → head → logits [batch, n, vocabulary]

Of a prompt, generation needs the last token's logits alone: the head is as large as several layers, and a prompt of 500
tokens has 100 MB of logits if the vocabulary has 50,000.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.description.axes import LOGITS_TO_KEEP
from onnxport.layouts._graph_files import ints, replace_graph

if TYPE_CHECKING:
    import onnx_ir as ir

_PRODUCTS = {"MatMul": "", "MatMulNBits": "", "MatMulInteger": "DynamicQuantizeLinear", "Gemm": "Reshape"}
"""Operators of the head's product, and what prepares the hidden states for each."""
_BY_TOKEN = ("Mul", "Div", "Add", "Tanh", "Cast", "Reshape")
"""What may follow the head's product."""
_LAST = 2**63 - 1
_RANK = 3
"""Rank of logits and hidden states: [batch, sequence, size]."""


def add_logits_to_keep(file: Path) -> bool:
    """Add the input to a graph with the output `logits`; return False if its head isn't recognized.

    Args:
        file: the graph, [batch, sequence, vocabulary] logits; it is replaced.
    """
    import onnx_ir as ir

    model = ir.load(file)
    graph = model.graph
    logits = next((value for value in graph.outputs if value.name == "logits"), None)
    found = None if logits is None or logits.shape is None or len(logits.shape) != _RANK else _head_of(logits)
    if logits is None or logits.shape is None or found is None:
        return False
    node, states = found
    count = ir.Value(name=LOGITS_TO_KEEP, shape=ir.Shape([]), type=ir.TensorType(ir.DataType.INT64))
    last = ints(_LAST)
    start, axis = ir.node("Neg", [count]), ints(1)
    starts = ir.node("Reshape", [start.outputs[0], axis.outputs[0]])
    kept = ir.node("Slice", [states, starts.outputs[0], last.outputs[0], axis.outputs[0]])
    new = [last, start, axis, starts, kept]
    kept.outputs[0].type = states.type
    graph.insert_before(node, new)
    node.replace_input_with(0, kept.outputs[0])
    if node.op_type == "Reshape":
        _reshape_like(graph, _only_user(_only_user(node)), kept.outputs[0])
    graph.inputs.append(count)
    logits.shape = ir.Shape([logits.shape[0], "num_logits", logits.shape[2]])
    replace_graph(file, model)
    return True


def _head_of(value: ir.Value) -> tuple[ir.Node, ir.Value] | None:
    """Return the first node of the head, and its first input, the hidden states; None if there is none.

    It is the product with the head's weights, what quantizes its input, or the Reshape before a Gemm.
    """
    node = value.producer()
    if node is None:
        return None
    if node.op_type in _PRODUCTS:
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        is_prepared = before is not None and before.op_type == _PRODUCTS[node.op_type] and _feeds_one_product(before)
        first = before if is_prepared and before is not None else node
        states = first.inputs[0]
        has_tokens = states is not None and (states.shape is None or len(states.shape) == _RANK)
        return (first, states) if has_tokens and states is not None and not states.is_initializer() else None
    if node.op_type not in _BY_TOKEN:
        return None
    sources = (source for source in node.inputs if source is not None and not source.is_initializer())
    return next((found for source in sources if (found := _head_of(source)) is not None), None)


def _feeds_one_product(node: ir.Node) -> bool:
    return sum(use.node.op_type in _PRODUCTS for use in node.outputs[0].uses()) == 1


def _only_user(node: ir.Node) -> ir.Node:
    """Return the node that takes the output: the Gemm, and the Reshape behind it."""
    return next(use.node for use in node.outputs[0].uses())


def _reshape_like(graph: ir.Graph, reshape: ir.Node, states: ir.Value) -> None:
    """Let a Reshape restore batch and sequence of other hidden states."""
    import onnx_ir as ir

    sizes = ir.node("Shape", [states], {"start": 0, "end": _RANK - 1})
    rest = ints(-1)
    shape = ir.node("Concat", [sizes.outputs[0], rest.outputs[0]], {"axis": 0})
    graph.insert_before(reshape, [sizes, rest, shape])
    reshape.replace_input_with(1, shape.outputs[0])
