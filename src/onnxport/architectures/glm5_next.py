"""GLM-5 Next: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("glm5_next_text",), tiny=Tiny(fields={"index_topk": 64})),)
