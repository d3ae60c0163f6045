"""SegGPT: image size of its tiny model."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("seggpt",), tiny=Tiny(image_size=(32, 32))),)
