"""UPerNet: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures._tiny import BACKBONE

ARCHITECTURES = (Architecture(("upernet",), tiny=Tiny(base={"backbone_config": BACKBONE})),)
