"""SigLIP 2: resize the position embeddings of all images with one matrix multiplication."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch


def _resize_batched(_: object) -> staticmethod[..., torch.Tensor]:
    """Resize the position embeddings to the sizes of all images with one matrix multiplication."""

    def resize_positional_embeddings(
        positional_embeddings: torch.Tensor, spatial_shapes: torch.Tensor, max_length: int
    ) -> torch.Tensor:
        import torch

        rows, columns, size = positional_embeddings.shape
        heights, widths = spatial_shapes[:, :1], spatial_shapes[:, 1:]
        patch = torch.arange(max_length, device=spatial_shapes.device)[None]
        patch = torch.where(patch < heights * widths, patch, 0)  # padding has the embedding of the first patch
        vertical = _interpolation_weights(patch // widths, heights, rows)
        horizontal = _interpolation_weights(patch % widths, widths, columns)
        weights = (vertical[..., :, None] * horizontal[..., None, :]).flatten(-2)
        table = positional_embeddings.reshape(rows * columns, size)
        return (weights @ table.to(weights.dtype)).to(table.dtype)

    return staticmethod(resize_positional_embeddings)


def _interpolation_weights(position: torch.Tensor, out: torch.Tensor, size: int) -> torch.Tensor:
    """Return the weights of input points in antialiased linear interpolation.

    Args:
        position: index of each output point, [batch, patches].
        out: number of output points, [batch, 1].
        size: number of input points.

    Returns:
        Weights, [batch, patches, size].
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
                "a loop over images, whose sizes are data-dependent, specializes the batch size",
                EAGER,
                "Transformers resizes the position embeddings of all images at once",
            ),
        ),
    ),
)
