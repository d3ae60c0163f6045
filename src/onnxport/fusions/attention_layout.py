"""Let attention take and return states [batch, sequence, heads * head_size], without transposes.

    Reshape ─ Transpose ─┐
    Reshape ─ Transpose ─ Attention ─ Transpose ─ Reshape   →   Attention(q_num_heads, kv_num_heads)
    Reshape ─ Transpose ─┘

Rotary embeddings and normalizations of queries and keys after the transpose are computed in that layout, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxport.fusions._matching import (
    Attributes,
    add_constant,
    add_node,
    int64,
    permutation,
    producer,
    rank,
    replace,
    same_axis,
    same_shape,
    scalar,
    size,
    sole_user,
)

_EXCHANGE = [0, 2, 1, 3]


class AttentionLayoutPass(ir.passes.InPlacePass):
    """Remove the transposes around `Attention`."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse in place."""
        layout = Layout(model.graph)
        modified = False
        for node in [node for node in model.graph if node.op_type == "Attention" and node.domain == ""]:
            modified = layout.change(node) or modified
        return ir.passes.PassResult(model, modified=modified)


@dataclass(frozen=True)
class _Output:
    """What follows an attention.

    Attributes:
        reshape: the node that merges the heads of [batch, sequence, heads, head_size].
        empty: whether a row attends to no key, [batch, 1 or heads, sequence, 1]; None if that isn't checked.
        zero: the output of those rows.
    """

    reshape: ir.Node
    empty: ir.Value | None = None
    zero: ir.Value | None = None


class Layout:
    """Change the layout of attentions."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._exchanged: dict[ir.Value, ir.Value] = {}

    def change(self, node: ir.Node) -> bool:
        """Remove the transposes around a node, if all its states have them."""
        states = node.inputs[:3]
        output = output_of(node)
        if output is None or rank(states[0]) != 4 or not all(is_transposed(value) for value in states):
            return False
        q_heads, kv_heads = size(states[0], 1), size(states[1], 1)
        assert q_heads is not None and kv_heads is not None, "the first pass requires it"
        inputs = [*(self.flat_states(value) for value in states), *node.inputs[3:]]
        attributes: Attributes = {**node.attributes, "q_num_heads": q_heads, "kv_num_heads": kv_heads}
        fused = add_node(output.reshape, "Attention", inputs, attributes, outputs=len(node.outputs))
        for old, new in zip(node.outputs[1:], fused.outputs[1:], strict=True):
            replace(old, new)
        flat = fused.outputs[0]
        width = q_heads * (size(states[2], 3) or 0)
        flat.type, flat.shape = node.outputs[0].type, self._flat_shape(states[0], width)
        if output.empty is not None:
            flat = self._without_empty_rows(flat, output, node)
        if rank(flat) == 3 and _same_tokens(output.reshape.outputs[0], flat):
            replace(output.reshape.outputs[0], flat)
        else:  # to [batch * sequence, heads * head_size], or of windows, or of [batch, sequence, heads, head_size]
            output.reshape.replace_input_with(0, flat)
        return True

    def flat_states(self, value: ir.Value | None) -> ir.Value:
        """Return transposed states as [batch, sequence, heads * head_size]."""
        assert value is not None
        heads, width = size(value, 1), size(value, 3)
        assert heads is not None and width is not None
        rotated = producer(value, "RotaryEmbedding")
        if rotated is not None:
            inputs = [self.flat_states(rotated.inputs[0]), *rotated.inputs[1:]]
            node = add_node(rotated, "RotaryEmbedding", inputs, {**rotated.attributes, "num_heads": heads})
        else:
            split, before = self._split(value)
            reshape = producer(split, "Reshape")
            source = reshape.inputs[0] if reshape is not None else None
            if source is not None and size(source, 2) == heads * width and _same_tokens(source, split):
                return source
            node = add_node(before, "Reshape", [split, self._constant("merged_heads", 0, 0, heads * width)])
        flat = node.outputs[0]
        flat.type, flat.shape = value.type, self._flat_shape(value, heads * width)
        return flat

    def _split(self, value: ir.Value) -> tuple[ir.Value, ir.Node]:
        """Return transposed states as [batch, sequence, heads, head_size], and a node after which they are computed."""
        norm, rotated = producer(value, "RMSNormalization"), producer(value, "RotaryEmbedding")
        if rotated is not None:
            shape = self._constant("heads", 0, 0, size(value, 1) or 0, size(value, 3) or 0)
            split, before = add_node(rotated, "Reshape", [self.flat_states(value), shape]).outputs[0], rotated
        elif norm is not None:
            assert norm.inputs[0] is not None
            inputs = [self._split(norm.inputs[0])[0], norm.inputs[1]]
            split, before = add_node(norm, "RMSNormalization", inputs, norm.attributes).outputs[0], norm
        else:
            transpose = producer(value, "Transpose")
            assert transpose is not None and transpose.inputs[0] is not None, "it is transposed"
            return transpose.inputs[0], transpose
        split.type = value.type
        return split, before

    def _flat_shape(self, states: ir.Value | None, width: int) -> ir.Shape | None:
        """Return the shape of states [batch, heads, sequence, head_size] without heads."""
        return ir.Shape([states.shape[0], states.shape[2], width]) if states is not None and states.shape else None

    def _without_empty_rows(self, flat: ir.Value, output: _Output, node: ir.Node) -> ir.Value:
        """Return an output with zeros where no key is attended to; with four axes, if that differs between heads."""
        empty, heads, width = output.empty, size(node.outputs[0], 1), size(node.outputs[0], 3)
        assert empty is not None and heads is not None and width is not None
        if empty not in self._exchanged:
            attributes = {"perm": _EXCHANGE}
            exchanged = add_node(node, "Transpose", [empty], attributes).outputs[0]
            if size(empty, 1) == 1:
                exchanged = add_node(node, "Squeeze", [exchanged, self._constant("axis_of_heads", 2)]).outputs[0]
            self._exchanged[empty] = exchanged
        if size(empty, 1) != 1:
            flat = add_node(output.reshape, "Reshape", [flat, self._constant("heads", 0, 0, heads, width)]).outputs[0]
        result = add_node(output.reshape, "Where", [self._exchanged[empty], output.zero, flat]).outputs[0]
        result.type, result.shape = flat.type, flat.shape
        return result

    def _constant(self, name: str, *elements: int) -> ir.Value:
        return add_constant(self._graph, "_".join([name, *map(str, elements)]), int64(elements))


def _same_tokens(flat: ir.Value, states: ir.Value) -> bool:
    """Return whether the first two axes of states are those of a value with three axes: attention may be in windows."""
    return rank(flat) == 3 and rank(states) in (3, 4) and all(same_axis(flat, states, axis) for axis in (0, 1))


def is_transposed(value: ir.Value | None) -> bool:
    """Return whether states are transposed, and then normalized or rotated."""
    node = producer(value, "RotaryEmbedding") or producer(value, "RMSNormalization")
    if node is not None:
        return rank(node.inputs[0]) == 4 and is_transposed(node.inputs[0])
    transpose = producer(value, "Transpose")
    return transpose is not None and permutation(transpose) == _EXCHANGE and rank(transpose.inputs[0]) == 4


def output_of(node: ir.Node) -> _Output | None:
    """Match `Where(empty, 0, y) ─ Reshape ─ Transpose ─ Reshape`, of which the first two are optional."""
    value = node.outputs[0]
    heads, width, user = size(value, 1), size(value, 3), sole_user(value)
    empty = zero = None
    if user is not None and user.op_type == "Where" and user.inputs[2] is value:
        empty, zero = user.inputs[:2]
        if rank(empty) != 4 or size(empty, 1) not in (1, heads) or size(empty, 3) != 1 or scalar(zero) is None:
            return None
        value, user = user.outputs[0], sole_user(user.outputs[0])
    if user is not None and user.op_type == "Reshape" and same_shape(user.outputs[0], value):
        value, user = user.outputs[0], sole_user(user.outputs[0])
    if user is None or user.op_type != "Transpose" or permutation(user) != _EXCHANGE:
        return None
    reshape = sole_user(user.outputs[0])
    if reshape is None or reshape.op_type != "Reshape" or heads is None or width is None:
        return None
    merged = reshape.outputs[0]
    return _Output(reshape, empty, zero) if rank(merged) in (2, 3) and size(merged, -1) == heads * width else None
