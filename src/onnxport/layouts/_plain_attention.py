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

from onnxport.bundles.manifest import ComponentDescription
from onnxport.layouts._graph_files import replace_graph
from onnxport.options import FUSED_OPSET


def with_plain_attention(component: ComponentDescription, file: Path) -> ComponentDescription:
    """Replace the operators of a graph, and return its description.

    Args:
        component: its description; its opset has ONNX's `Attention` with `--optimize cpu` alone.
        file: its file, which is replaced.
    """
    if component.opset < FUSED_OPSET:
        return component
    import onnx_ir as ir

    from onnxport.fusions.contrib_attention import to_plain_attention

    model = ir.load(file)
    count = to_plain_attention(model)
    if not count:
        return component
    replace_graph(file, model)
    fused = Counter(component.fused) + Counter(Attention=count) - Counter(GroupQueryAttention=count)
    return replace(component, fused=dict(sorted(fused.items())), shares_cache=False)
