"""Let self-attention append to its cache.

    past_key ─ Concat ─┬─ present.key     past_key, past_value ─┐
    k ─────────┘       Attention      →   k, v ──────────────── Attention ─ present.key, present.value

Values likewise. Each step appends as many keys as it has queries, unlike in cross-attention.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxport.fusions._matching import add_node, producer, rank, replace, same_axis, size


class AttentionCachePass(ir.passes.InPlacePass):
    """Replace the concatenation of past and new keys and values with inputs and outputs of `Attention`."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse in place."""
        modified = False
        for node in [node for node in model.graph if node.op_type == "Attention" and node.domain == ""]:
            modified = _fuse(node) or modified
        return ir.passes.PassResult(model, modified=modified)


def _fuse(node: ir.Node) -> bool:
    query = node.inputs[0]
    key, value = (concatenated(states) for states in node.inputs[1:3])
    if len(node.inputs) > 4 or query is None or key is None or value is None:
        return False
    if key.inputs[1] is None or not same_axis(key.inputs[1], query, 2):
        return False  # cross-attention
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    inputs = [query, key.inputs[1], value.inputs[1], mask, key.inputs[0], value.inputs[0]]
    fused = add_node(node, "Attention", inputs, node.attributes, outputs=3)
    for old, new in zip((node, key, value), fused.outputs, strict=True):
        replace(old.outputs[0], new)
    return True


def concatenated(states: ir.Value | None) -> ir.Node | None:
    """Return the node that concatenates past and new keys or values, if nothing else reads them."""
    node = producer(states, "Concat")
    if states is None or node is None or len(node.inputs) != 2 or len(states.uses()) != 1:
        return None
    past = node.inputs[0]
    has_heads = rank(past) == 4 and size(past, 1) == size(states, 1) is not None
    return node if node.attributes.get_int("axis") in (-2, 2) and has_heads and past.is_graph_input() else None  # type: ignore[union-attr]
