"""X-MOD: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("xmod",), tiny=Tiny(fields={"languages": ["en_XX"], "default_language": "en_XX"})),)
