"""Decision Transformer: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("decision_transformer",), tiny=Tiny(fields={"hidden_size": 32, "n_head": 4})),)
