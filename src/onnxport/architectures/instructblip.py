"""InstructBLIP: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("instructblip",), tiny=Tiny(fields={"image_token_index": 120})),)
