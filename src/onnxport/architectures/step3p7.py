"""Step3p7: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("step3p5",), tiny=Tiny(fields={"sliding_window": 64})),)
