"""Describe models whose mask the graph doesn't take."""

from __future__ import annotations

from typing import Any

from onnxport.description.derived import DerivedOnnxConfig


class UnmaskedOnnxConfig(DerivedOnnxConfig):
    """Describe a model without its attention mask; the record of its type says why under `left_out`."""

    def fit_inputs(self, inputs: dict[str, Any]) -> None:
        """Remove the mask."""
        inputs.pop("attention_mask", None)
