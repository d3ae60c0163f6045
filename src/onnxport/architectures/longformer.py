"""Longformer: its description, and its attention for sequences of any length.

While it is traced, the attention is computed densely; see `_windowed_attention.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._windowed_attention import attend_near_and_global
from onnxport.configs.text_encoders import Axes, TextOnnxConfig
from onnxport.patching.patch import EAGER, Patch


class LongformerOnnxConfig(TextOnnxConfig):
    """Describe Longformer; in dummy inputs, every second token has global attention."""

    input_names = ("input_ids", "attention_mask", "global_attention_mask")
    atol = 1e-4
    opset = 14

    @property
    def outputs(self) -> Axes:
        """Outputs of the graph; the bare model also pools."""
        outputs = dict(super().outputs)
        if self.task == "default":
            outputs["pooler_output"] = {0: "batch"}
        return outputs

    def generate_dummy_inputs(self, preprocessor: Any, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """Make sequences and a mask of the tokens with global attention."""
        import torch

        inputs = dict(super().generate_dummy_inputs(preprocessor, *args, **kwargs))
        mask = torch.zeros_like(torch.as_tensor(inputs["input_ids"]))
        mask[..., ::2] = 1
        inputs["global_attention_mask"] = mask
        return inputs


def _leave_length(
    self: Any,
    input_ids: Any,
    attention_mask: Any,
    token_type_ids: Any,
    position_ids: Any,
    inputs_embeds: Any,
    pad_token_id: int,
) -> tuple[Any, ...]:
    """Don't pad: dense attention takes any length."""
    return 0, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds


_MODULE = "transformers.models.longformer.modeling_longformer"

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("longformer",),
        patches=(
            Patch(
                f"{_MODULE}:LongformerSelfAttention.forward",
                lambda _: attend_near_and_global,
                "tokens with global attention are gathered by their positions, so that shapes depend on values",
                EAGER,
                "Transformers has a dense attention for exports",
            ),
            Patch(
                f"{_MODULE}:LongformerModel._pad_to_window_size",
                lambda _: _leave_length,
                "the padding to whole windows is that of the example's length",
                EAGER,
                "Transformers has a dense attention for exports",
            ),
        ),
    ),
)
