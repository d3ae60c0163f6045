"""CLIPSeg: layers of its tiny configuration that the decoder reads."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("clipseg",), tiny=Tiny(fields={"extract_layers": [0, 1, 2]})),)
