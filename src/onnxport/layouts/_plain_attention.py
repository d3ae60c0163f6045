"""Replace `GroupQueryAttention`, whose input `query_seqlens` ONNX Runtime has since 1.32, with ONNX's `Attention`.

    GroupQueryAttention(q, k, v, past_key, past_value, …, bias, …, query_seqlens)
        → Attention(q, k, v, bias, past_key, past_value)

Both compute the same. transformers.js has an older ONNX Runtime, and doesn't share the memory of past and present, for
which `--optimize cpu` chooses the former.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.bundles.manifest import ComponentDescription
from onnxport.layouts._graph_files import replace_graph
from onnxport.options import FUSED_OPSET

if TYPE_CHECKING:
    import onnx_ir as ir

_GROUPED = ("GroupQueryAttention", "com.microsoft")
_BIAS, _SINK, _QUERY_LENGTHS = 10, 11, 16
"""Indices of inputs of `GroupQueryAttention`."""
_ATTRIBUTES = {"num_heads": "q_num_heads", "kv_num_heads": "kv_num_heads", "scale": "scale", "softcap": "softcap"}
"""Attributes of `GroupQueryAttention` to those of `Attention`."""


def with_plain_attention(component: ComponentDescription, file: Path) -> ComponentDescription:
    """Replace the operators of a graph, and return its description.

    Args:
        component: its description; its opset has ONNX's `Attention` with `--optimize cpu` alone.
        file: its file, which is replaced.
    """
    if component.opset < FUSED_OPSET:
        return component
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    model = ir.load(file)
    nodes = [node for node in model.graph if (node.op_type, node.domain) == _GROUPED and _is_replaceable(node)]
    if not nodes:
        return component
    for node in nodes:
        _replace(model.graph, node)
    RemoveUnusedNodesPass()(model)
    replace_graph(file, model)
    fused = Counter(component.fused) + Counter(Attention=len(nodes)) - Counter(GroupQueryAttention=len(nodes))
    return replace(component, fused=dict(sorted(fused.items())), shares_cache=False)


def _is_replaceable(node: ir.Node) -> bool:
    has_sink = len(node.inputs) > _SINK and node.inputs[_SINK] is not None
    return len(node.inputs) > _QUERY_LENGTHS and not has_sink


def _replace(graph: ir.Graph, node: ir.Node) -> None:
    import onnx_ir as ir

    query, key, value, past_key, past_value = node.inputs[:5]
    names = {old: new for old, new in _ATTRIBUTES.items() if old in node.attributes}
    attributes = [ir.Attr(new, node.attributes[old].type, node.attributes[old].value) for old, new in names.items()]
    inputs = [query, key, value, node.inputs[_BIAS], past_key, past_value]
    outputs = list(node.outputs)
    plain = ir.Node("", "Attention", inputs, attributes, num_outputs=len(outputs), name=node.name)
    graph.insert_before(node, plain)
    for old, new in zip(outputs, plain.outputs, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
