"""X-Codec 2: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("xcodec2",), tiny=Tiny(fields={"quantization_dim": 64})),)
