"""Depth Anything: depth maps of any size."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._symbolic_int import symbolic_int
from onnxport.patching.patch import EAGER, Patch

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("depth_anything",),
        patches=(
            Patch(
                "transformers.models.depth_anything.modeling_depth_anything:int",
                symbolic_int,
                "int() of a size specializes the depth map to the example's size",
                EAGER,
                "Transformers doesn't call int() on sizes there",
            ),
        ),
    ),
)
