"""Moonshine: audio of any length."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.moonshine.modeling_moonshine import MoonshinePreTrainedModel

    Length = TypeVar("Length", int, torch.SymInt, torch.Tensor)


def _integer_lengths(_: object) -> Callable[[MoonshinePreTrainedModel, Length], Length]:
    """Compute the number of frames after the model's three convolutions with integer divisions."""

    def lengths(self: MoonshinePreTrainedModel, samples: Length) -> Length:
        first = (samples - 127) // 64 + 1
        second = (first - 7) // 3 + 1
        return (second - 3) // 2 + 1

    return lengths


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("moonshine",),
        patches=(
            Patch(
                "transformers.models.moonshine.modeling_moonshine:"
                "MoonshinePreTrainedModel._get_feat_extract_output_lengths",
                _integer_lengths,
                "int() of a quotient specializes the length of the audio to the example's",
                EAGER,
                "Transformers uses integer division there",
            ),
        ),
    ),
    Architecture(
        ("moonshine_streaming",),
        left_out={"attention_mask": "the captured graph masks other frames than the model"},
        tiny=Tiny(fields={"num_key_value_heads": 4}),
    ),
)
