"""Glm5 next: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("glm5_next_text",), tiny=Tiny(fields={"index_topk": 64})),)
