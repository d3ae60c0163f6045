"""Longformer: its description, and attention in a form that a graph can hold.

The model gathers the tokens with global attention by their positions, so that shapes depend on values, and pads every
text to a multiple of its window. While it is traced, the same attention is computed densely: a query sees the keys
within its window and those with global attention; a query with global attention sees all keys, through projections
of its own. Memory grows with the square of the length instead of linearly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from onnxport.architectures.text_encoders import Axes, TextOnnxConfig
from onnxport.configs import PatchingSpec
from onnxport.configs._patching import resolve


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
            PatchingSpec(modeling.LongformerSelfAttention, "forward", custom_op=_attend),
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


def _attend(
    self: Any,
    hidden_states: Any,
    attention_mask: Any = None,
    is_index_masked: Any = None,
    is_index_global_attn: Any = None,
    is_global_attn: Any = None,
    output_attentions: bool = False,
) -> tuple[Any]:
    """Attend as `LongformerSelfAttention.forward` does, densely.

    Args:
        self: the attention module.
        hidden_states: [batch, sequence, hidden].
        attention_mask: not used: the two masks say the same.
        is_index_masked: [batch, sequence], true for padding.
        is_index_global_attn: [batch, sequence], true for tokens with global attention.
        is_global_attn: not used.
        output_attentions: not used: graphs don't return attentions.
    """
    import torch

    batch, length, hidden = hidden_states.shape

    def heads(projection: Any) -> Any:
        return projection(hidden_states).view(batch, length, self.num_heads, self.head_dim).transpose(1, 2)

    def attend(query: Any, key: Any, value: Any, seen: Any) -> Any:
        scores = query @ key.transpose(-1, -2) / math.sqrt(self.head_dim)
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        return torch.softmax(scores, dim=-1, dtype=torch.float32).type_as(scores) @ value

    positions = torch.arange(length, device=hidden_states.device)
    near = (positions[:, None] - positions[None, :]).abs() <= self.one_sided_attn_window_size
    unmasked = ~is_index_masked[:, None, None, :]
    seen = (near[None, None] & unmasked) | is_index_global_attn[:, None, None, :]
    local = attend(heads(self.query), heads(self.key), heads(self.value), seen)
    local = local.masked_fill(is_index_masked[:, None, :, None], 0.0)
    everywhere = attend(heads(self.query_global), heads(self.key_global), heads(self.value_global), unmasked)
    mixed = torch.where(is_index_global_attn[:, None, :, None], everywhere, local)
    return (mixed.transpose(1, 2).reshape(batch, length, hidden),)
