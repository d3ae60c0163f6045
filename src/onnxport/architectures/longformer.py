"""Describe Longformer, and trace its attention for sequences of any length.

Traces compute the windowed attention densely; see `_windowed_attention.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._windowed_attention import attend_local_and_global
from onnxport.configs.text_encoders import Axes, TextOnnxConfig
from onnxport.patching.patch import EAGER, Patch


class LongformerOnnxConfig(TextOnnxConfig):
    """Describe Longformer; every second token of its dummy inputs has global attention."""

    input_names = ("input_ids", "attention_mask", "global_attention_mask")
    atol = 1e-4
    opset = 14

    @property
    def outputs(self) -> Axes:
        """Outputs of the graph; the base model also returns `pooler_output`."""
        outputs = dict(super().outputs)
        if self.task == "default":
            outputs["pooler_output"] = {0: "batch"}
        return outputs

    def generate_dummy_inputs(self, preprocessor: Any, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """Create dummy sequences and a global attention mask."""
        import torch

        inputs = dict(super().generate_dummy_inputs(preprocessor, *args, **kwargs))
        mask = torch.zeros_like(torch.as_tensor(inputs["input_ids"]))
        mask[..., ::2] = 1
        inputs[_GLOBAL_MASK] = mask
        return inputs


def _skip_padding(
    self: Any,
    input_ids: Any,
    attention_mask: Any,
    token_type_ids: Any,
    position_ids: Any,
    inputs_embeds: Any,
    pad_token_id: int,
) -> tuple[Any, ...]:
    """Don't pad: dense attention supports any sequence length."""
    return 0, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds


def _defaults(class_name: str) -> dict[str, str]:
    """Return the default of the global attention mask: that of question answering depends on the separators."""
    if class_name == "LongformerForSequenceClassification":
        return {_GLOBAL_MASK: "first"}
    heads = ("LongformerForQuestionAnswering", "LongformerForMultipleChoice")
    return {_GLOBAL_MASK: "required"} if class_name in heads else {}


_GLOBAL_MASK = "global_attention_mask"
_MODULE = "transformers.models.longformer.modeling_longformer"

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("longformer",),
        defaults=_defaults,
        patches=(
            Patch(
                f"{_MODULE}:LongformerSelfAttention.forward",
                lambda _: attend_local_and_global,
                "tokens with global attention are gathered by position, which makes shapes data-dependent",
                EAGER,
                "Transformers has a dense attention implementation for exports",
            ),
            Patch(
                f"{_MODULE}:LongformerModel._pad_to_window_size",
                lambda _: _skip_padding,
                "the padding to a multiple of the window size is specialized to the example's length",
                EAGER,
                "Transformers has a dense attention implementation for exports",
            ),
        ),
    ),
)
