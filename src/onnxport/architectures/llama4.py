"""Llama4: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(("llama4",), tiny=Tiny(separate_tasks=("text-encoding",))),
    Architecture(("llama4_vision_model",), tiny=Tiny(fields={"intermediate_size": 128})),
)
