"""Cohere Compass: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("cohere_compass_text",),
        tiny=Tiny(fields={"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}}),
    ),
)
