"""Dory (Transformers 5.24): fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("dory",),
        # Parameters are multiplied by the inverse of the standard deviation that they are initialized with.
        tiny=Tiny(fields={"n_input_layers": 1, "n_output_layers": 1, "initializer_range": 1.0}),
    ),
)
