"""Upernet: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures._tiny import BACKBONE

ARCHITECTURES = (Architecture(("upernet",), tiny=Tiny(base={"backbone_config": BACKBONE})),)
