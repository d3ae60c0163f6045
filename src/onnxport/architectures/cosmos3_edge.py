"""Cosmos3 Edge: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("cosmos3_edge_text",),
        tiny=Tiny(
            fields={
                "head_dim": 8,
                "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", "mrope_section": [1, 1, 2]},
            }
        ),
    ),
)
