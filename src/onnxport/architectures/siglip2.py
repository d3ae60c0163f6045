"""SigLIP 2: position embeddings of all images are resized with one matrix product."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch


def _resize_batched(_: object) -> staticmethod[..., torch.Tensor]:
    """Resize the table of position embeddings to the sizes of all images with one product."""

    def resize_positional_embeddings(
        positional_embeddings: torch.Tensor, spatial_shapes: torch.Tensor, max_length: int
    ) -> torch.Tensor:
        import torch

        rows, columns, size = positional_embeddings.shape
        heights, widths = spatial_shapes[:, :1], spatial_shapes[:, 1:]
        patch = torch.arange(max_length, device=spatial_shapes.device)[None]
        patch = torch.where(patch < heights * widths, patch, 0)  # padding has the embedding of the first patch
        vertical = _weights(patch // widths, heights, rows)
        horizontal = _weights(patch % widths, widths, columns)
        weights = (vertical[..., :, None] * horizontal[..., None, :]).flatten(-2)
        table = positional_embeddings.reshape(rows * columns, size)
        return (weights @ table.to(weights.dtype)).to(table.dtype)

    return staticmethod(resize_positional_embeddings)


def _weights(position: torch.Tensor, out: torch.Tensor, size: int) -> torch.Tensor:
    """Return the weights of `size` points at positions among `out` points, in linear interpolation with antialias.

    Args:
        position: [batch, patches].
        out: [batch, 1].
        size: number of points that are interpolated.

    Returns:
        [batch, patches, size].
    """
    import torch

    scale = size / out.to(torch.float32)
    centre = scale * (position + 0.5)
    points = torch.arange(size, device=position.device) + 0.5
    distance = (points - centre[..., None]).abs() / scale.clamp(min=1.0)[..., None]
    weights = (1 - distance).clamp(min=0.0)
    return weights / weights.sum(-1, keepdim=True)


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("siglip2", "siglip2_vision_model"),
        patches=(
            Patch(
                "transformers.models.siglip2.modeling_siglip2:Siglip2VisionEmbeddings.resize_positional_embeddings",
                _resize_batched,
                "a loop over images, of sizes that depend on values, specializes the batch size",
                EAGER,
                "Transformers resizes the table for all images at once",
            ),
        ),
    ),
)
