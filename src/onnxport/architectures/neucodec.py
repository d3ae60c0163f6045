"""NeuCodec: audio codes of any length."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures._symbolic_int import symbolic_int
from onnxport.patching.patch import EAGER, Patch

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("neucodec",),
        left_out={"padding_mask": "the decoder's mask can't be captured: clips of a batch have one length"},
        tiny=Tiny(fields={"quantization_dim": 64}),
        patches=(
            Patch(
                "transformers.models.neucodec.modeling_neucodec:int",
                symbolic_int,
                "int() of the number of samples specializes the number of codes",
                EAGER,
                "Transformers counts samples with torch_int",
            ),
        ),
    ),
)
