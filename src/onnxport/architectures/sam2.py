"""Sam2: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("sam2_hiera_det_model",), tiny=Tiny(fields={"hidden_size": 8, "window_size_per_stage": [8, 4, 6, 3]})
    ),
    Architecture(("sam2_vision_model",), tiny=Tiny(fields={"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]})),
)
