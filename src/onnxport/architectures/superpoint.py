"""SuperPoint: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("superpoint",), tiny=Tiny(fields={"keypoint_decoder_dim": 65})),)
