"""Depth Anything: depth maps of any size."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._feature_fusion import fusion_patch
from onnxport.architectures._symbolic import symbolic_int
from onnxport.patching.patch import EAGER, Patch

_MODULE = "transformers.models.depth_anything.modeling_depth_anything"

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("depth_anything",),
        patches=(
            fusion_patch(_MODULE, "DepthAnything"),
            Patch(
                f"{_MODULE}:int",
                symbolic_int,
                "int() of a size specializes the depth map to the example's size",
                EAGER,
                "Transformers doesn't call int() on sizes there",
            ),
        ),
    ),
)
