"""LED: the encoder's windowed attention, dense; see `_windowed_attention.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._windowed_attention import attend_near_and_global
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.led.modeling_led import LEDEncoder

_MODULE = "transformers.models.led.modeling_led"
_UNTIL = "Transformers has a dense attention for exports"


def _leave_length(
    self: LEDEncoder,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor,
    inputs_embeds: torch.Tensor | None,
    pad_token_id: int,
) -> tuple[int, torch.Tensor | None, torch.Tensor, torch.Tensor | None]:
    """Don't pad: dense attention takes any length."""
    return 0, input_ids, attention_mask, inputs_embeds


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("led",),
        patches=(
            Patch(
                f"{_MODULE}:LEDEncoderSelfAttention.forward",
                lambda _: attend_near_and_global,
                "tokens with global attention are gathered by their positions, so that shapes depend on values",
                EAGER,
                _UNTIL,
            ),
            Patch(
                f"{_MODULE}:LEDEncoder._pad_to_window_size",
                lambda _: _leave_length,
                "the padding to whole windows is that of the example's length",
                EAGER,
                _UNTIL,
            ),
        ),
    ),
)
