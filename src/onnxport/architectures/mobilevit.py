"""MobileViT: feature maps of any size are split into patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.mobilevit.modeling_mobilevit import MobileViTLayer


def _unfold_symbolic(_: object) -> Callable[..., tuple[torch.Tensor, dict[str, Any]]]:
    """Resize a feature map to a multiple of the patch size, a no-op if it is one, and split it into patches."""

    def unfolding(self: MobileViTLayer, features: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        from torch.nn import functional

        batch, channels, height, width = features.shape
        patch_height, patch_width = self.patch_height, self.patch_width
        rows, columns = (height + patch_height - 1) // patch_height, (width + patch_width - 1) // patch_width
        resized = functional.interpolate(features, size=(rows * patch_height, columns * patch_width), mode="bilinear")
        patches = resized.reshape(batch, channels, rows, patch_height, columns, patch_width).permute(0, 3, 5, 2, 4, 1)
        info = {
            **{"orig_size": (height, width), "batch_size": batch, "channels": channels, "interpolate": True},
            **{"num_patches": rows * columns, "num_patches_width": columns, "num_patches_height": rows},
        }
        return patches.reshape(batch * patch_height * patch_width, rows * columns, channels), info

    return unfolding


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("mobilevit",),
        patches=(
            Patch(
                "transformers.models.mobilevit.modeling_mobilevit:MobileViTLayer.unfolding",
                _unfold_symbolic,
                "int() of a size specializes the image size, as does the condition on which a feature map is resized",
                EAGER,
                "Transformers counts patches with integer arithmetic and always resizes",
            ),
        ),
    ),
)
