"""Longformer: its description, and attention in a form that a graph can hold.

While it is traced, the attention is computed densely; see `configs.windows`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxport.architectures._architecture import Architecture
from onnxport.configs import PatchingSpec
from onnxport.configs._patching import resolve
from onnxport.configs.text_encoders import Axes, TextOnnxConfig
from onnxport.description import _windowed_attention as windows


class LongformerOnnxConfig(TextOnnxConfig):
    """Describe Longformer, whose every second token attends to all others in the example."""

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
        """Make texts and a mask of the tokens with global attention."""
        import torch

        inputs = dict(super().generate_dummy_inputs(preprocessor, *args, **kwargs))
        mask = torch.zeros_like(torch.as_tensor(inputs["input_ids"]))
        mask[..., ::2] = 1
        inputs["global_attention_mask"] = mask
        return inputs

    def patch_ops(self) -> None:
        """Put the dense attention in place, and leave texts as long as they are."""
        from transformers.models.longformer import modeling_longformer as modeling

        own = [
            PatchingSpec(modeling.LongformerSelfAttention, "forward", custom_op=windows.attend_near_and_global),
            PatchingSpec(modeling.LongformerModel, "_pad_to_window_size", custom_op=_leave_length),
        ]
        self._patching_specs = [*self._patching_specs, *resolve(own)]
        super().patch_ops()

    def restore_ops(self) -> None:
        """Put the model's own attention back."""
        super().restore_ops()
        self._patching_specs = self._patching_specs[:-2]


def _leave_length(
    self: Any,
    input_ids: Any,
    attention_mask: Any,
    token_type_ids: Any,
    position_ids: Any,
    inputs_embeds: Any,
    pad_token_id: int,
) -> tuple[Any, ...]:
    """Pad by nothing: dense attention takes any length."""
    return 0, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds


ARCHITECTURES = (Architecture(("longformer",)),)
"""Its description is one of 4.37.2's: `configs.model_types` names it."""
