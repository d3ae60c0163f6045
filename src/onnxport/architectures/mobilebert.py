"""MobileBERT: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("mobilebert",), tiny=Tiny(fields={"embedding_size": 16})),)
