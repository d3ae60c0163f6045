"""Kosmos2: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("kosmos-2",), tiny=Tiny(fields={"latent_query_num": 4})),)
