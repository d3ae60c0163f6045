"""Fuse the operators of a graph for an execution provider of ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from onnxport.options import FUSED_OPSET, Optimize

if TYPE_CHECKING:
    import onnx_ir as ir

FUSED = ("Attention", "Gelu", "RMSNormalization", "RotaryEmbedding")
"""Operators that replace others."""


def fuse(model: ir.Model, target: Optimize) -> None:
    """Fuse the operators of a graph in place.

    Args:
        model: a graph at full depth, whose parameters have no data.
        target: the execution provider; `none` to leave the graph as it is.
    """
    if target == "none":
        return
    import onnx_ir.passes.common as common_passes

    from onnxport.fusions.attention import AttentionPass
    from onnxport.fusions.attention_cache import AttentionCachePass
    from onnxport.fusions.attention_layout import AttentionLayoutPass
    from onnxport.fusions.gelu import GeluPass
    from onnxport.fusions.residual import ResidualPass
    from onnxport.fusions.rms_norm import RmsNormPass
    from onnxport.fusions.rotary_embedding import RotaryEmbeddingPass

    remove_unused = common_passes.RemoveUnusedNodesPass()
    model.opset_imports[""] = max(FUSED_OPSET, model.opset_imports[""])
    GeluPass()(model)
    RmsNormPass()(model)
    RotaryEmbeddingPass()(model)  # before attention, which takes rotated states as they are
    AttentionPass()(model)
    remove_unused(model)  # of the uses of keys that attention no longer has, such as their shape
    AttentionCachePass()(model)
    AttentionLayoutPass()(model)
    ResidualPass()(model)
    remove_unused(model)


def fused_operators(model: ir.Model) -> dict[str, int]:
    """Count the fused operators of a graph, by name."""
    counts = Counter(node.op_type for node in model.graph if node.op_type in FUSED)
    return dict(sorted(counts.items()))
