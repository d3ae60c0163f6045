"""MobileViT: feature maps of any size are cut into patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.mobilevit.modeling_mobilevit import MobileViTLayer


def _unfold_any_size(_: object) -> Callable[..., tuple[torch.Tensor, dict[str, Any]]]:
    """Cut a feature map into patches, resized to whole patches; resizing to its own size changes nothing."""

    def unfolding(self: MobileViTLayer, features: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        from torch.nn import functional

        batch, channels, height, width = features.shape
        patch_height, patch_width = self.patch_height, self.patch_width
        rows, columns = (height + patch_height - 1) // patch_height, (width + patch_width - 1) // patch_width
        whole = functional.interpolate(features, size=(rows * patch_height, columns * patch_width), mode="bilinear")
        patches = whole.reshape(batch, channels, rows, patch_height, columns, patch_width).permute(0, 3, 5, 2, 4, 1)
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
                _unfold_any_size,
                "int() of a size specializes the image size, and whether a map is resized is decided by the example's",
                EAGER,
                "Transformers counts patches in integers and always resizes",
            ),
        ),
    ),
)
