"""Superpoint: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("superpoint",), tiny=Tiny(fields={"keypoint_decoder_dim": 65})),)
