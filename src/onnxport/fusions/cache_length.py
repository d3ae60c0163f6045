"""Read the number of cached tokens from the mask, so that a cache may be a buffer with room for later ones.

    Shape(past_key_values.0.key)[2:3]   →   Shape(attention_mask)[1:2] - Shape(input_ids)[1:2]

`GroupQueryAttention` writes into such a buffer if its past and present are the same memory, instead of copying the
cache in each step; the axis of the cache is then longer than what is in it.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxport.fusions._matching import MICROSOFT, add_node, rank

_MASK, _TOKENS = "attention_mask", ("input_ids", "inputs_embeds")


class CacheLengthPass(ir.passes.InPlacePass):
    """Change where graphs read the length of the past, if only `GroupQueryAttention` reads the cache itself."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change the nodes in place."""
        inputs = {str(value.name): value for value in model.graph.inputs}
        tokens = next((inputs[name] for name in _TOKENS if name in inputs), None)
        caches = [value for name, value in inputs.items() if name.startswith("past_")]
        uses = [use.node for cache in caches for use in cache.uses()]
        lengths = [node for node in uses if node.op_type == "Shape" and _is_length(node)]
        others = [node for node in uses if node not in lengths]
        is_shared = bool(others) and all((node.op_type, node.domain) == _GROUPED for node in others)
        if not lengths or not is_shared or tokens is None or rank(inputs.get(_MASK)) != 2:
            return ir.passes.PassResult(model, modified=False)
        for node in lengths:
            total, new = (add_node(node, "Shape", [value], {"start": 1, "end": 2}) for value in (inputs[_MASK], tokens))
            past = add_node(node, "Sub", [total.outputs[0], new.outputs[0]]).outputs[0]
            past.type, past.shape = node.outputs[0].type, node.outputs[0].shape
            ir.convenience.replace_all_uses_with(node.outputs[0], past)
        return ir.passes.PassResult(model, modified=True)


_GROUPED = ("GroupQueryAttention", MICROSOFT)


def _is_length(node: ir.Node) -> bool:
    return (node.attributes.get_int("start", 0), node.attributes.get_int("end", 0)) == (2, 3)
