"""Replace ONNX's `Attention` with ONNX Runtime's operators.

    Attention(q, k, v, mask, past_key, past_value)   →   GroupQueryAttention, if the mask is causal
    the others                                       →   MultiHeadAttention, for GPUs

Both add the mask as a bias, so that any padding is right: for `GroupQueryAttention`, padding counts as tokens. It takes
several tokens after a past in a batch with its input `query_seqlens`, which the providers of the CPU and CUDA have;
without it, only with a batch of 1. Otherwise, grouped keys and values are repeated for `MultiHeadAttention`, as they
were traced.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnxport.fusions._matching import (
    MICROSOFT,
    Attributes,
    add_constant,
    add_node,
    int64,
    rank,
    replace,
    size,
)
from onnxport.fusions.cache_length import GROUPED, cache_readers

HEAD_SIZES = 8
"""`GroupQueryAttention` takes heads whose size is a multiple of this."""


class ContribAttentionPass(ir.passes.InPlacePass):
    """Replace `Attention` with `GroupQueryAttention` or `MultiHeadAttention`.

    Args:
        query_lengths: whether the execution provider has the input `query_seqlens`.
    """

    def __init__(self, *, query_lengths: bool) -> None:
        super().__init__()
        self._query_lengths = query_lengths

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace the nodes in place."""
        nodes = [node for node in model.graph if node.op_type == "Attention" and node.domain == ""]
        lengths = Lengths(model.graph)
        for node in nodes:
            if _fits_group_query(node) and (self._query_lengths or size(node.inputs[0], 0) == 1):
                _to_group_query(node, lengths)
            else:
                _MultiHead(model.graph, node).replace()
        return ir.passes.PassResult(model, modified=bool(nodes))


class SharedCachePass(ir.passes.InPlacePass):
    """Replace `Attention` with `GroupQueryAttention` if past and present of the whole cache can then be one buffer."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace the nodes in place."""
        readers = cache_readers(model)
        fits = bool(readers) and all(
            node.op_type == "Attention" and node.domain == "" and _fits_group_query(node) for node in readers
        )
        lengths = Lengths(model.graph)
        for node in readers if fits else ():
            _to_group_query(node, lengths)
        if fits:
            model.opset_imports[MICROSOFT] = 1
        return ir.passes.PassResult(model, modified=fits)


def _heads(node: ir.Node) -> tuple[int, int]:
    """Return the numbers of query heads, and of key and value heads."""
    q, k = (
        node.attributes.get_int(name, 0) or size(states, 1) for name, states in zip(_HEADS, node.inputs, strict=False)
    )
    assert q is not None and k is not None, "attention is fused with known heads"
    return q, k


_HEADS = ("q_num_heads", "kv_num_heads")


def _fits_group_query(node: ir.Node) -> bool:
    if len(node.inputs) != 6 or rank(node.inputs[0]) != 3:
        return False
    (q_heads, kv_heads), (q, k, v, mask) = _heads(node), node.inputs[:4]
    widths = [size(states, 2) for states in (q, k, v)]
    if None in widths or mask is None:
        return False
    sizes = {width // heads for width, heads in zip(widths, (q_heads, kv_heads, kv_heads), strict=True)}  # type: ignore[operator]
    return len(sizes) == 1 and sizes.pop() % HEAD_SIZES == 0 and is_causal(mask)


def is_causal(mask: ir.Value | None) -> bool:
    """Return whether a mask excludes all tokens after the query: `key <= query` is one of its conditions."""
    node = mask.producer() if mask is not None else None
    while node is not None and node.op_type in ("Mul", "Cast", "Not", "Where", "Expand"):
        source = node.inputs[0]
        node = source.producer() if source is not None else None
    if node is None:
        return False
    if node.op_type == "And":
        return any(is_causal(source) for source in node.inputs)
    if node.op_type != "LessOrEqual":
        return False
    key, query = node.inputs
    return size(key, -2) == 1 and size(query, -1) == 1 and rank(key) == rank(query) == 4


class Lengths:
    """Compute the lengths that `GroupQueryAttention` takes, once for each mask."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._known: dict[ir.Value, tuple[ir.Value, ir.Value, ir.Value]] = {}

    def of(self, query: ir.Value, mask: ir.Value, node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Return `seqlens_k` [batch], `total_sequence_length` [1] and `query_seqlens` [batch] for a node.

        Args:
            query: the queries [batch, sequence, heads * head_size].
            mask: the mask, whose last axis has the length of the cache afterwards.
            node: the node before which they are computed.
        """
        if mask not in self._known:
            batch = add_node(node, "Shape", [query], {"start": 0, "end": 1}).outputs[0]
            total = self._length(mask, (rank(mask) or 0) - 1, node)
            one = add_constant(self._graph, "one_int32", np.array([1], np.int32))
            last = add_node(node, "Sub", [total, one]).outputs[0]
            lengths = (last, self._length(query, 1, node))
            of_batch = [add_node(node, "Expand", [length, batch]).outputs[0] for length in lengths]
            self._known[mask] = (of_batch[0], total, of_batch[1])
        return self._known[mask]

    def _length(self, value: ir.Value, axis: int, before: ir.Node) -> ir.Value:
        length = add_node(before, "Shape", [value], {"start": axis, "end": axis + 1}).outputs[0]
        return add_node(before, "Cast", [length], {"to": int(ir.DataType.INT32)}).outputs[0]


def _to_group_query(node: ir.Node, lengths: Lengths) -> None:
    query, key, value, mask, past_key, past_value = node.inputs
    assert query is not None and mask is not None, "it fits"
    seqlens, total, query_seqlens = lengths.of(query, mask, node)
    inputs = [query, key, value, past_key, past_value, seqlens, total, None, None, None, mask]
    if size(query, 0) != 1:
        inputs += [None] * 5 + [query_seqlens]
    attributes = {**dict(zip((_Q_HEADS, _KV_HEADS), _heads(node), strict=True)), **_kept(node)}
    fused = add_node(node, "GroupQueryAttention", inputs, attributes, domain=MICROSOFT, outputs=3)
    for old, new in zip(node.outputs, fused.outputs, strict=True):
        replace(old, new)


def to_plain_attention(model: ir.Model) -> int:
    """Replace `GroupQueryAttention` that has `query_seqlens` and no sinks with `Attention`, in place.

    Returns:
        The number of nodes.
    """
    nodes = [node for node in model.graph if (node.op_type, node.domain) == GROUPED and _has_query_lengths(node)]
    for node in nodes:
        query, key, value, past_key, past_value = node.inputs[:_PAST_END]
        heads = {
            f"{name}_num_heads": node.attributes.get_int(old, 0) for name, old in (("q", _Q_HEADS), ("kv", _KV_HEADS))
        }
        inputs = [query, key, value, node.inputs[_BIAS], past_key, past_value]
        plain = add_node(node, "Attention", inputs, {**heads, **_kept(node)}, outputs=3)
        for old, new in zip(node.outputs, plain.outputs, strict=True):
            replace(old, new)
    RemoveUnusedNodesPass()(model)
    return len(nodes)


def _has_query_lengths(node: ir.Node) -> bool:
    return len(node.inputs) > _QUERY_LENGTHS and node.inputs[_SINK] is None


def _kept(node: ir.Node) -> Attributes:
    """Return the attributes that both operators have."""
    return {name: node.attributes[name] for name in ("scale", "softcap") if name in node.attributes}


_PAST_END, _BIAS, _SINK, _QUERY_LENGTHS = 5, 10, 11, 16
"""Indices of inputs of `GroupQueryAttention`; the first follows those of the cache."""
_Q_HEADS, _KV_HEADS = "num_heads", "kv_num_heads"


class _MultiHead:
    """Replace an attention with `MultiHeadAttention`."""

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self._graph, self._node = graph, node
        self._q_heads, self._kv_heads = _heads(node)
        self._is_flat = rank(node.inputs[0]) == 3

    def replace(self) -> None:
        """Replace it."""
        node = self._node
        query, key, value = node.inputs[:3]
        mask, past = (node.inputs[3] if len(node.inputs) > 3 else None), node.inputs[4:6]
        outputs = 1
        if self._is_flat and self._q_heads == self._kv_heads:
            outputs = len(node.outputs)
        else:
            key, value = (self._with_heads(states) for states in (key, value))
            if past:
                key, value = (
                    self._append(*states) for states in zip(past, (key, value), node.outputs[1:], strict=True)
                )
                past = ()
            if self._q_heads != self._kv_heads:
                key, value = (self._repeat(*states) for states in zip((key, value), node.inputs[1:3], strict=True))
        if not self._is_flat:
            query = self._merge(query)
        inputs = [query, key, value, None, None, mask, *past]
        attributes: Attributes = {"num_heads": self._q_heads, "scale": node.attributes["scale"]}
        fused = add_node(node, "MultiHeadAttention", inputs, attributes, domain=MICROSOFT, outputs=outputs)
        result = fused.outputs[0] if self._is_flat else self._split(fused.outputs[0], self._q_heads)
        for old, new in zip(node.outputs, [result, *fused.outputs[1:]], strict=False):
            replace(old, new)

    def _with_heads(self, states: ir.Value | None) -> ir.Value:
        """Return keys or values as [batch, heads, sequence, head_size]."""
        assert states is not None
        return self._split(states, self._kv_heads) if self._is_flat else states

    def _split(self, states: ir.Value, heads: int) -> ir.Value:
        shape = self._constant("split_heads", 0, 0, heads, -1)
        split = add_node(self._node, "Reshape", [states, shape]).outputs[0]
        return add_node(self._node, "Transpose", [split], {"perm": [0, 2, 1, 3]}).outputs[0]

    def _merge(self, states: ir.Value | None) -> ir.Value:
        split = add_node(self._node, "Transpose", [states], {"perm": [0, 2, 1, 3]}).outputs[0]
        return add_node(self._node, "Reshape", [split, self._constant("merge_heads", 0, 0, -1)]).outputs[0]

    def _append(self, past: ir.Value | None, states: ir.Value, present: ir.Value) -> ir.Value:
        appended = add_node(self._node, "Concat", [past, states], {"axis": 2}).outputs[0]
        replace(present, appended)
        return appended

    def _repeat(self, states: ir.Value, source: ir.Value | None) -> ir.Value:
        """Repeat keys or values for the query heads; `source` is what the attention was computed of."""
        times = self._q_heads // self._kv_heads
        column = add_node(self._node, "Unsqueeze", [states, self._constant("axis", 2)]).outputs[0]
        repeated = add_node(self._node, "Expand", [column, self._constant("times", 1, 1, times, 1, 1)]).outputs[0]
        width = size(source, 3) or (size(source, 2) or 0) // self._kv_heads
        shape = self._constant("repeated_heads", 0, self._q_heads, -1, width)
        return add_node(self._node, "Reshape", [repeated, shape]).outputs[0]

    def _constant(self, name: str, *elements: int) -> ir.Value:
        return add_constant(self._graph, "_".join([name, *map(str, elements)]), int64(elements))
