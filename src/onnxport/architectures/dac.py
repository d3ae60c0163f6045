"""DAC: scale of a weight of its tiny model."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("dac",), tiny=Tiny(scales={"decoder.conv2.weight": 0.01})),)
