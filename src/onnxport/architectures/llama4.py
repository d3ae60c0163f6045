"""Llama 4: rotary embeddings without complex numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch


def _apply_real_rotary(_: object) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Apply rotary embeddings to pairs of real numbers instead of multiplying complex numbers."""

    def apply_rotary_emb(
        xq: torch.Tensor, xk: torch.Tensor, freqs_cis: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        cosine, sine = torch.view_as_real(freqs_cis).unbind(-1)
        cosine, sine = cosine[:, :, None], sine[:, :, None]

        def rotate(x: torch.Tensor) -> torch.Tensor:
            real, imaginary = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
            pairs = torch.stack([real * cosine - imaginary * sine, real * sine + imaginary * cosine], dim=-1)
            return pairs.flatten(3).type_as(x)

        return rotate(xq), rotate(xk)

    return apply_rotary_emb


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("llama4",),
        tiny=Tiny(separate_tasks=("text-encoding",)),
        patches=(
            Patch(
                "transformers.models.llama4.modeling_llama4:apply_rotary_emb",
                _apply_real_rotary,
                "torch.onnx has no translation of unsqueeze for complex tensors",
                EAGER,
                "torch.onnx translates it",
            ),
        ),
    ),
    Architecture(("llama4_vision_model",), tiny=Tiny(fields={"intermediate_size": 128})),
)
