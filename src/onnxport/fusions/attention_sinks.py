"""Fuse attention with sinks, which take a part of each row's probabilities (gpt-oss).

    scores ─ Concat(sinks) ─ Sub(maximum) ─ Softmax ─ Slice(…, :-1) ─ MatMul(v)   →   GroupQueryAttention(…, head_sink)

ONNX's `Attention` has no sinks, so that this is ONNX Runtime's operator on every execution provider.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxport.fusions._matching import (
    MICROSOFT,
    add_node,
    integers,
    is_cast_to_float,
    producer,
    rank,
    replace,
    size,
    sole_user,
    without_cast,
)
from onnxport.fusions.attention import masked_scores, unrepeated, untransposed
from onnxport.fusions.attention_cache import concatenated
from onnxport.fusions.attention_layout import Layout, is_transposed, output_of
from onnxport.fusions.contrib_attention import HEAD_SIZES, Lengths, is_causal


class AttentionSinksPass(ir.passes.InPlacePass):
    """Replace self-attention with a cache, a causal mask and sinks with `GroupQueryAttention`.

    Args:
        query_lengths: whether the execution provider has the input `query_seqlens`, without which the batch must be 1.
    """

    def __init__(self, *, query_lengths: bool) -> None:
        super().__init__()
        self._query_lengths = query_lengths

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse in place."""
        layout, lengths = Layout(model.graph), Lengths(model.graph)
        modified = False
        for node in [node for node in model.graph if node.op_type == "Softmax" and node.domain == ""]:
            found = _match(node)
            if found is not None and (self._query_lengths or size(found.query, 0) == 1):
                _fuse(found, layout, lengths)
                modified = True
        if modified:
            model.opset_imports[MICROSOFT] = 1
        return ir.passes.PassResult(model, modified=modified)


@dataclass(frozen=True)
class _Match:
    """An attention with sinks.

    Attributes:
        query: the queries [batch, heads, sequence, head_size].
        key: the node that appends the new keys to the cache.
        value: likewise.
        mask: what is added to the scores.
        sinks: the scores [heads] of the sinks.
        scale: factor of the scores.
        reshape: the node that merges the heads of the output.
    """

    query: ir.Value
    key: ir.Node
    value: ir.Node
    mask: ir.Value
    sinks: ir.Value
    scale: float
    reshape: ir.Node


def _match(softmax: ir.Node) -> _Match | None:
    parts = _with_sinks(without_cast(softmax.inputs[0]))
    product = _product(softmax)
    scores = masked_scores(parts[0]) if parts is not None else None
    output = output_of(product) if product is not None else None
    if parts is None or scores is None or output is None or product is None or output.empty is not None:
        return None
    keys, factor = untransposed(scores.key)
    if keys is None or product.inputs[1] is None or scores.softcap or len(scores.masks) != 1:
        return None
    key, value = concatenated(unrepeated(keys)), concatenated(unrepeated(product.inputs[1]))
    if key is None or value is None or not is_causal(scores.masks[0]):
        return None
    states = (scores.query, key.inputs[1], value.inputs[1])
    widths = {size(state, 3) for state in states}
    if not all(map(is_transposed, states)) or len(widths) != 1 or (widths.pop() or 1) % HEAD_SIZES:
        return None
    if size(parts[1], 0) != size(scores.query, 1) or rank(output.reshape.outputs[0]) != 3:
        return None
    scale = scores.scale * factor
    return _Match(scores.query, key, value, scores.masks[0], parts[1], scale, output.reshape)


def _with_sinks(value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """Return the scores and the sinks of `Concat(scores, sinks)`, from which its maximum may be subtracted."""
    shifted = producer(value, "Sub")
    if shifted is not None:
        maximum = producer(shifted.inputs[1], "ReduceMax")
        if maximum is None or maximum.inputs[0] is not shifted.inputs[0]:
            return None
        value = shifted.inputs[0]
    concat = producer(value, "Concat")
    if concat is None or len(concat.inputs) != 2 or concat.attributes.get_int("axis", 0) not in (-1, 3):
        return None
    expand = producer(concat.inputs[1], "Expand")
    reshape = producer(expand.inputs[0], "Reshape") if expand is not None else None
    sinks = reshape.inputs[0] if reshape is not None and integers(reshape.inputs[1]) == [1, -1, 1, 1] else None
    if sinks is None or rank(sinks) != 1 or concat.inputs[0] is None:
        return None
    return concat.inputs[0], sinks


def _product(softmax: ir.Node) -> ir.Node | None:
    """Return the product of probabilities without those of the sinks."""
    user = sole_user(softmax.outputs[0])
    if user is not None and is_cast_to_float(user):
        user = sole_user(user.outputs[0])
    if user is None or user.op_type != "Slice" or integers(user.inputs[2]) != [-1]:
        return None
    if integers(user.inputs[1]) != [0] or integers(user.inputs[3]) not in ([-1], [3]):
        return None
    product = sole_user(user.outputs[0])
    return product if product is not None and product.op_type == "MatMul" else None


def _fuse(found: _Match, layout: Layout, lengths: Lengths) -> None:
    heads = {"num_heads": size(found.query, 1) or 0, "kv_num_heads": size(found.key.inputs[1], 1) or 0}
    query, key, value = (
        layout.flat_states(states) for states in (found.query, found.key.inputs[1], found.value.inputs[1])
    )
    seqlens, total, query_seqlens = lengths.of(query, found.mask, found.reshape)
    inputs = [query, key, value, found.key.inputs[0], found.value.inputs[0], seqlens, total]
    inputs += [None, None, None, found.mask, found.sinks]
    if size(query, 0) != 1:
        inputs += [None] * 4 + [query_seqlens]
    attributes = {**heads, "scale": found.scale}
    fused = add_node(found.reshape, "GroupQueryAttention", inputs, attributes, domain=MICROSOFT, outputs=3)
    for old, new in zip((found.reshape, found.key, found.value), fused.outputs, strict=True):
        replace(old.outputs[0], new)
