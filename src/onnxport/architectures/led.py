"""LED: dense computation of the encoder's windowed attention; see `_windowed_attention.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._windowed_attention import attend_local_and_global
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.led.modeling_led import LEDEncoder

_MODULE = "transformers.models.led.modeling_led"
_UNTIL = "Transformers has a dense attention implementation for exports"


def _skip_padding(
    self: LEDEncoder,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor,
    inputs_embeds: torch.Tensor | None,
    pad_token_id: int,
) -> tuple[int, torch.Tensor | None, torch.Tensor, torch.Tensor | None]:
    """Don't pad: dense attention supports any sequence length."""
    return 0, input_ids, attention_mask, inputs_embeds


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("led",),
        patches=(
            Patch(
                f"{_MODULE}:LEDEncoderSelfAttention.forward",
                lambda _: attend_local_and_global,
                "tokens with global attention are gathered by position, which makes shapes data-dependent",
                EAGER,
                _UNTIL,
            ),
            Patch(
                f"{_MODULE}:LEDEncoder._pad_to_window_size",
                lambda _: _skip_padding,
                "the padding to a multiple of the window size is specialized to the example's length",
                EAGER,
                _UNTIL,
            ),
        ),
    ),
)
