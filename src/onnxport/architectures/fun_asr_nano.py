"""Fun asr nano: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(("fun_asr_nano",), tiny=Tiny(fields={"adaptor_config": {"...": 0, "intermediate_size": 8}})),
)
