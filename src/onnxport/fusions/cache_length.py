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
        sized = _mask_and_tokens(model)
        lengths, others = _cache_uses(model)
        if not lengths or not _are_grouped(others) or not sized:
            return ir.passes.PassResult(model, modified=False)
        for node in lengths:
            total, new = (add_node(node, "Shape", [value], {"start": 1, "end": 2}) for value in sized)
            past = add_node(node, "Sub", [total.outputs[0], new.outputs[0]]).outputs[0]
            past.type, past.shape = node.outputs[0].type, node.outputs[0].shape
            ir.convenience.replace_all_uses_with(node.outputs[0], past)
        return ir.passes.PassResult(model, modified=True)


def cache_readers(model: ir.Model) -> list[ir.Node]:
    """Return the nodes that read the caches; none if the length of the past can't be read from the mask."""
    return list(dict.fromkeys(_cache_uses(model)[1])) if _mask_and_tokens(model) else []


def _mask_and_tokens(model: ir.Model) -> tuple[ir.Value, ...]:
    """Return the mask, which covers the past, too, and the tokens of a decoder; nothing for another graph."""
    inputs = {str(value.name): value for value in model.graph.inputs}
    tokens = next((inputs[name] for name in _TOKENS if name in inputs), None)
    return () if tokens is None or rank(inputs.get(_MASK)) != 2 else (inputs[_MASK], tokens)


def shares_cache(model: ir.Model) -> bool:
    """Return whether past and present of a graph's cache may be one buffer that is longer than the cache."""
    lengths, others = _cache_uses(model)
    return not lengths and _are_grouped(others)


def _cache_uses(model: ir.Model) -> tuple[list[ir.Node], list[ir.Node]]:
    """Return the nodes that read the length of a cache, and the others that read a cache."""
    caches = [value for value in model.graph.inputs if str(value.name).startswith("past_")]
    uses = [use.node for cache in caches for use in cache.uses()]
    lengths = [node for node in uses if node.op_type == "Shape" and _is_length(node)]
    return lengths, [node for node in uses if node not in lengths]


def _are_grouped(nodes: list[ir.Node]) -> bool:
    return bool(nodes) and all((node.op_type, node.domain) == GROUPED for node in nodes)


GROUPED = ("GroupQueryAttention", MICROSOFT)


def _is_length(node: ir.Node) -> bool:
    return (node.attributes.get_int("start", 0), node.attributes.get_int("end", 0)) == (2, 3)
