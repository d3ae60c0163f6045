"""Kosmos-2: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("kosmos-2",), tiny=Tiny(fields={"latent_query_num": 4})),)
