"""UnivNet: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("univnet",), tiny=Tiny(fields={"model_in_channels": 64, "model_hidden_channels": 8})),)
