"""ESM: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("esm",), tiny=Tiny(fields={"vocab_size": 33, "mask_token_id": 32, "pad_token_id": 1})),)
