"""Points, boxes and masks as inputs of SAM's graphs, each of which may be left out.

An input that is left out has an axis of size 0: no points, no coordinates of boxes, no mask. PyTorch's code branches on
`None` instead; the patched prompt encoder computes the same tokens without a branch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dummy_inputs import DummyInput, InputContext
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch

    Embeddings = tuple[torch.Tensor | None, torch.Tensor]

_MASK_SCALE = 4
"""Rows and columns of an input mask for each patch of the image; see `SamMaskEmbedding`."""


def _boxes(context: InputContext) -> torch.Tensor:
    import torch

    return torch.tensor([1.0, 2.0, 20.0, 30.0]).repeat(context.batch, 2, 1)


def _masks(context: InputContext) -> torch.Tensor:
    import torch

    prompts = context.config.prompt_encoder_config
    side = _MASK_SCALE * prompts.image_size // prompts.patch_size
    return torch.zeros(context.batch, 1, side, side)


class SamOnnxConfig(DerivedOnnxConfig):
    """Describe a model that segments what points, boxes and masks point at."""

    dummy_inputs: ClassVar[Mapping[str, DummyInput]] = {
        "input_boxes": DummyInput({0: "batch", 1: "prompts", 2: "box_coordinates"}, _boxes),
        "input_masks": DummyInput({0: "num_masks"}, _masks),
    }


def optional_prompts(module: str, encoder: str) -> Patch:
    """Return the patch of a prompt encoder.

    Args:
        module: its module.
        encoder: its class.
    """
    return Patch(
        f"{module}:{encoder}.forward",
        _embed_prompts,
        "it branches on which prompts there are",
        EAGER,
        "Transformers computes the tokens without a branch",
    )


def _embed_prompts(original: Callable[..., Embeddings]) -> Callable[..., Embeddings]:
    def forward(
        self: Any,
        input_points: torch.Tensor | None,
        input_labels: torch.Tensor | None,
        input_boxes: torch.Tensor | None,
        input_masks: torch.Tensor | None,
    ) -> Embeddings:
        import torch

        if input_points is None or input_boxes is None or input_masks is None:
            return original(self, input_points, input_labels, input_boxes, input_masks)
        points = _points(self, input_points, input_labels)
        corners = _corners(self, input_boxes)
        padding = _tokens(points, 0, 1) * 0 + self.not_a_point_embed.weight  # none if there are no points
        after_points = _tokens(torch.cat([corners, padding], dim=2), 0, 3 if _is_sam2(self) else 2)
        prompts = torch.cat([points, after_points], dim=2)
        if _is_sam2(self):  # without any prompt, it takes two padding points
            count = torch.ones_like(prompts[0, 0, :, 0]).sum().clamp(min=2)
            padding = self.not_a_point_embed.weight.expand(*points.shape[:2], 2, -1)
            prompts = _tokens(torch.cat([prompts, padding], dim=2), 0, count)
        masked = self.mask_embed(input_masks)
        unmasked = self.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(points.shape[0], -1, *masked.shape[2:])
        dense = torch.cat([masked, unmasked]).index_select(0, torch.arange(points.shape[0], device=points.device))
        return prompts, dense

    return forward


def _tokens(tokens: torch.Tensor, start: int, stop: int | torch.Tensor) -> torch.Tensor:
    """Return the tokens from `start` to `stop`, as far as there are any; a slice would have a fixed size."""
    import torch

    indices = torch.ones_like(tokens[0, 0, :, 0]).cumsum(0) - 1
    return tokens.index_select(2, ((indices >= start) & (indices < stop)).nonzero()[:, 0])


def _points(encoder: Any, points: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """Return the tokens of points, [batch, prompts, points, hidden_size]; see `SamPromptEncoder._embed_points`."""
    import torch

    assert labels is not None, "the model's forward makes labels of points"
    labels = labels[..., None]
    tokens = torch.where(labels == _NO_POINT, encoder.not_a_point_embed.weight, _positions(encoder, points))
    tokens = torch.where(labels == _IGNORED_POINT, 0.0, tokens)
    kinds = _kinds_of_points(encoder)
    for label, weight in enumerate(kinds if _is_sam2(encoder) else kinds[:2]):
        tokens = torch.where(labels == label, tokens + weight, tokens)
    return tokens


def _corners(encoder: Any, boxes: torch.Tensor) -> torch.Tensor:
    """Return the tokens of boxes, [batch, boxes, tokens of each, hidden_size]; none if boxes have no coordinates."""
    import torch

    corners = _positions(encoder, torch.stack([boxes[..., 0::2], boxes[..., 1::2]], dim=-1))
    kinds = _kinds_of_points(encoder)
    parts = [_tokens(corners, 0, 1) + kinds[2], _tokens(corners, 1, 2) + kinds[3]]
    if _is_sam2(encoder):  # a padding point follows each box
        parts.append(_tokens(corners, 0, 1) * 0 + encoder.not_a_point_embed.weight)
    return torch.cat(parts, dim=2)


def _positions(encoder: Any, points: torch.Tensor) -> torch.Tensor:
    """Return the position embeddings of points, (x, y) in pixels; see `SamPositionalEmbedding`."""
    import torch

    weights = encoder.shared_embedding.positional_embedding
    relative = (points + 0.5) / encoder.input_image_size  # shifted to the pixel's center
    angles = 2 * math.pi * ((2 * relative - 1).to(weights.dtype) @ weights)
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)


def _is_sam2(encoder: Any) -> bool:
    return hasattr(encoder.point_embed, "weight")  # SAM has a list of embeddings


def _kinds_of_points(encoder: Any) -> list[torch.Tensor]:
    """Return the embeddings of background, foreground, and the two corners of a box."""
    embeddings = encoder.point_embed
    return list(embeddings.weight) if _is_sam2(encoder) else [embedding.weight[0] for embedding in embeddings]


_NO_POINT, _IGNORED_POINT = -1, -10
"""Labels of points that aren't background or foreground."""
