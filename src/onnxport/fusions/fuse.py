"""Fuse the operators of a graph for an execution provider of ONNX Runtime.

For the CPU, these are operators of ONNX 23, which ONNX Runtime 1.32 runs faster than its own, apart from the attention
of decoders, whose own operator needn't copy the cache. For GPUs, they are ONNX Runtime's own, of the domain
com.microsoft, for which there are more kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxport.options import FUSED_OPSET, Optimize

if TYPE_CHECKING:
    import onnx_ir as ir

FUSED = (
    "Attention",
    "FastGelu",
    "Gelu",
    "GroupQueryAttention",
    "MultiHeadAttention",
    "RMSNormalization",
    "RotaryEmbedding",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
)
"""Operators that replace others."""


def fuse(model: ir.Model, target: Optimize, *, packs_weights: bool = True) -> None:
    """Fuse the operators of a graph in place.

    Args:
        model: a graph at full depth, whose parameters have no data.
        target: the execution provider; `none` to leave the graph as it is.
        packs_weights: whether matrices may be concatenated: not if they are linked, or changed by an adapter.
    """
    if target == "none":
        return
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    from onnxport.fusions.packed_linear import WIDEST, PackedLinearPass

    for step in (*_steps(target), *(_cpu_steps() if target == "cpu" else _contrib_steps(target)), *_last_steps()):
        step(model)
    if packs_weights and any(str(value.name).startswith("past_") for value in model.graph.inputs):
        widest = WIDEST if target == "cpu" else None
        PackedLinearPass(widest)(model)  # for one token; of many, the copies of Split cost more
        RemoveUnusedNodesPass()(model)
    if target == "cpu":
        model.opset_imports[""] = max(FUSED_OPSET, model.opset_imports[""])
    else:
        model.opset_imports["com.microsoft"] = 1


def _steps(target: Optimize) -> Iterator[ir.passes.InPlacePass]:
    """Yield the passes to operators of ONNX 23."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    from onnxport.fusions.attention import AttentionPass
    from onnxport.fusions.attention_cache import AttentionCachePass
    from onnxport.fusions.attention_layout import AttentionLayoutPass
    from onnxport.fusions.attention_sinks import AttentionSinksPass
    from onnxport.fusions.gelu import GeluPass
    from onnxport.fusions.rms_norm import RmsNormPass
    from onnxport.fusions.rotary_embedding import RotaryEmbeddingPass

    yield GeluPass(contrib=target != "cpu")
    yield RmsNormPass()
    yield RotaryEmbeddingPass()  # before attention, which takes rotated states as they are
    yield AttentionSinksPass(query_lengths=target in ("cpu", "cuda"))
    yield AttentionPass(plain=target != "cpu")
    yield RemoveUnusedNodesPass()  # of the uses of keys that attention no longer has, such as their shape
    yield AttentionCachePass()
    yield AttentionLayoutPass()
    yield RemoveUnusedNodesPass()


def _cpu_steps() -> Iterator[ir.passes.InPlacePass]:
    from onnxport.fusions.contrib_attention import SharedCachePass
    from onnxport.fusions.residual import ResidualPass

    yield SharedCachePass()
    yield ResidualPass()


def _contrib_steps(target: Optimize) -> Iterator[ir.passes.InPlacePass]:
    """Yield the passes from operators of ONNX 23 to ONNX Runtime's own."""
    from onnxport.fusions.contrib_attention import ContribAttentionPass
    from onnxport.fusions.contrib_norm import ContribNormPass
    from onnxport.fusions.contrib_rotary import ContribRotaryPass

    yield ContribAttentionPass(query_lengths=target == "cuda")
    yield ContribRotaryPass()
    yield ContribNormPass()


def _last_steps() -> Iterator[ir.passes.InPlacePass]:
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    from onnxport.fusions.cache_length import CacheLengthPass

    yield RemoveUnusedNodesPass()
    yield CacheLengthPass()
    yield RemoveUnusedNodesPass()


def fused_operators(model: ir.Model) -> dict[str, int]:
    """Count the fused operators of a graph, by name."""
    counts = Counter(node.op_type for node in model.graph if node.op_type in FUSED)
    return dict(sorted(counts.items()))
