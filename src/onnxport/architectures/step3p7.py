"""Step 3.7: images with crops; experts without the loop over those that were hit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures._experts import by_expert, experts_patch, product
from onnxport.architectures._image_crops import ImageCropsEncoderOnnxConfig

if TYPE_CHECKING:
    import torch
    from transformers.models.step3p7.modeling_step3p7 import Step3p7Experts


def _experts(_: object) -> Callable[..., torch.Tensor]:
    def forward(
        self: Step3p7Experts, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        def compute(rows: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
            inner = self._apply_gate(product(rows, self.gate_up_proj.transpose(1, 2), ends))
            return product(inner, self.down_proj.transpose(1, 2), ends)

        return by_expert(hidden_states, top_k_index, top_k_weights, self.num_experts, compute)

    return forward


class Step3p7EncoderOnnxConfig(ImageCropsEncoderOnnxConfig):
    """Describe the vision encoder."""

    crop_field: ClassVar[str] = "patch_size"
    crop_ratio: ClassVar[float] = 504 / 728


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("step3p7",),
        encoders={"vision_encoder": Step3p7EncoderOnnxConfig},
        patches=(experts_patch("transformers.models.step3p7.modeling_step3p7:Step3p7Experts", _experts),),
    ),
    Architecture(("step3p5",), tiny=Tiny(fields={"sliding_window": 64})),
)
