"""Replace ONNX's `RotaryEmbedding` with the older operator of ONNX Runtime.

    RotaryEmbedding(x, cos, sin)   →   RotaryEmbedding(x, 0 1 2 …, cos, sin), of the domain com.microsoft

Its `cos` and `sin` [positions, size] are tables: their rows are those of the batch's tokens, in order.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxport.fusions._matching import MICROSOFT, add_constant, add_node, int64, rank, replace, size


class ContribRotaryPass(ir.passes.InPlacePass):
    """Replace `RotaryEmbedding` of ONNX with that of ONNX Runtime."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace the nodes in place."""
        nodes = [node for node in model.graph if node.op_type == "RotaryEmbedding" and node.domain == ""]
        tables = _Tables(model.graph)
        for node in nodes:
            x, *caches = node.inputs
            inputs = [x, tables.positions(caches[0], node), *(tables.table(cache, node) for cache in caches)]
            heads = node.attributes.get_int("num_heads", 0) or size(x, 1) or 0
            width = node.attributes.get_int("rotary_embedding_dim", 0)
            attributes = {"num_heads": heads, "interleaved": node.attributes.get_int("interleaved", 0)}
            attributes |= {"rotary_embedding_dim": width} if width else {}
            fused = add_node(node, "RotaryEmbedding", inputs, attributes, domain=MICROSOFT)
            replace(node.outputs[0], fused.outputs[0])
        return ir.passes.PassResult(model, modified=bool(nodes))


class _Tables:
    """Make tables and the positions of their rows, each once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._tables: dict[ir.Value, ir.Value] = {}
        self._positions: dict[ir.Value, ir.Value] = {}

    def table(self, cache: ir.Value | None, before: ir.Node) -> ir.Value:
        """Return cos or sin [batch, sequence, size] as [batch * sequence, size]."""
        assert cache is not None and rank(cache) == 3
        if cache not in self._tables:
            width = size(cache, 2) or 0
            shape = add_constant(self._graph, f"rows_of_{width}", int64([-1, width]))
            table = add_node(before, "Reshape", [cache, shape]).outputs[0]
            table.type = cache.type
            self._tables[cache] = table
        return self._tables[cache]

    def positions(self, cache: ir.Value | None, before: ir.Node) -> ir.Value:
        """Return the indices [batch, sequence] of the rows."""
        assert cache is not None
        if cache not in self._positions:
            sizes = add_node(before, "Shape", [cache], {"start": 0, "end": 2}).outputs[0]
            count = add_node(before, "ReduceProd", [sizes], {"keepdims": 0}).outputs[0]
            zero = add_constant(self._graph, "first_row", int64(0))
            one = add_constant(self._graph, "next_row", int64(1))
            rows = add_node(before, "Range", [zero, count, one]).outputs[0]
            self._positions[cache] = add_node(before, "Reshape", [rows, sizes]).outputs[0]
        return self._positions[cache]
