"""GPT Neo: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("gpt_neo",), tiny=Tiny(fields={"attention_types": [[["global", "local"], 2]]})),)
