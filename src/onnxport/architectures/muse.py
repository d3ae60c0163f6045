"""Muse: fields of their tiny configurations."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("muse_glimmer", "muse_spark"), tiny=Tiny(fields={"out_hidden_size": 128})),)
