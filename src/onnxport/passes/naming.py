"""Name nodes and values after the module that computes them.

    linear_3 (MatMul)   →   node /model/layers.0/self_attn/o_proj/MatMul, value …/MatMul_output_0

Names identify the module of a node and don't depend on the number of layers. The engine's metadata, which is larger
than the graph, is removed.
"""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from onnxport.passes.scopes import scopes_of


class NameByModulePass(ir.passes.InPlacePass):
    """Rename nodes, and all values except inputs, outputs and parameters."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename in place."""
        counts: Counter[str] = Counter()
        for node in model.graph:
            base = f"{_path(scopes_of(node))}/{node.op_type}"
            node.name = f"{base}_{counts[base]}" if counts[base] else base
            counts[base] += 1
            for index, value in enumerate(node.outputs):
                if not value.is_graph_output():
                    value.name = f"{node.name}_output_{index}"
        common_passes.ClearMetadataAndDocStringPass()(model)
        return ir.passes.PassResult(model, modified=True)


def _path(scopes: list[str]) -> str:
    """Return nested modules as a path: `model`, `model.layers.0`, `model.layers.0.mlp` → `/model/layers.0/mlp`."""
    path, before = "", ""
    for scope in scopes:
        name = scope.removeprefix(f"{before}.") if scope.startswith(f"{before}.") else scope
        path, before = f"{path}/{name}", scope
    return path
