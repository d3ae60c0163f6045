"""Fuse feature maps of any size, for the patches of DPT and the depth estimators that have its neck."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch


def fusion_patch(module: str, prefix: str) -> Patch:
    """Return the patch of a model's fusion layers.

    Args:
        module: name of its modeling module.
        prefix: prefix of its class names.
    """
    return Patch(
        f"{module}:{prefix}FeatureFusionLayer.forward",
        _resize_always,
        "whether a residual is resized is specialized to the example's size: maps with an odd number of rows need it",
        EAGER,
        "Transformers always resizes the residual",
    )


def _resize_always(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Resize the residual to the size of the hidden states, a no-op if it has that size."""

    def forward(
        self: object, hidden_state: torch.Tensor, residual: torch.Tensor | None = None, *args: Any, **named: Any
    ) -> torch.Tensor:
        from torch.nn import functional

        if residual is not None:
            residual = functional.interpolate(residual, size=hidden_state.shape[2:], mode="bilinear")
        return original(self, hidden_state, residual, *args, **named)

    return forward
