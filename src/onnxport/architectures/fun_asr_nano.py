"""Fun-ASR-Nano: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(("fun_asr_nano",), tiny=Tiny(fields={"adaptor_config": {"...": 0, "intermediate_size": 8}})),
)
