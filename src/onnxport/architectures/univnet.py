"""UnivNet: fields of its tiny configuration, and scales of the kernels that it predicts, which are as large as mels."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

_BLOCKS = 3
ARCHITECTURES = (
    Architecture(
        ("univnet",),
        tiny=Tiny(
            fields={"model_in_channels": 64, "model_hidden_channels": 8},
            scales={f"resblocks.{block}.kernel_predictor.kernel_conv.weight": 0.01 for block in range(_BLOCKS)},
        ),
    ),
)
