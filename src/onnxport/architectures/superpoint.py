"""SuperPoint, and SuperGlue, which matches its keypoints: those of all images at once, and their tiny checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.superpoint.modeling_superpoint import (
        SuperPointForKeypointDetection,
        SuperPointInterestPointDecoder,
        SuperPointKeypointDescriptionOutput,
    )

_MODULE = "transformers.models.superpoint.modeling_superpoint"
_CELL = 8
"""Pixels along each side of the square that a position of the encoder's output stands for."""


def _detect_all_at_once(_: object) -> Callable[..., Any]:
    """Find and describe the keypoints of all images with tensors only, padded to those of the image with the most."""

    def forward(
        self: SuperPointForKeypointDetection,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SuperPointKeypointDescriptionOutput:
        import torch
        from torch.nn import functional
        from transformers.models.superpoint.modeling_superpoint import SuperPointKeypointDescriptionOutput

        height, width = pixel_values.shape[-2:]
        with_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        pixels = self.extract_one_channel_pixel_values(pixel_values)
        encoded = self.encoder(pixels, output_hidden_states=with_states, return_dict=True)
        features = encoded.last_hidden_state
        points, scores, mask = _keypoints(self.keypoint_decoder, features)
        decoder = self.descriptor_decoder
        described = decoder.conv_descriptor_b(decoder.relu(decoder.conv_descriptor_a(features)))
        sampled = decoder._sample_descriptors(points, functional.normalize(described, p=2, dim=1), _CELL)
        size = torch.stack([torch.scalar_tensor(extent, device=points.device) for extent in (width, height)])
        return SuperPointKeypointDescriptionOutput(
            keypoints=points.float() / size,
            scores=scores,
            descriptors=torch.where(mask[..., None], sampled.transpose(1, 2), 0),
            mask=mask.int(),
            hidden_states=encoded.hidden_states,
        )

    return forward


def _keypoints(
    decoder: SuperPointInterestPointDecoder, features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return positions [batch, keypoints, (x, y)] in pixels, scores and mask [batch, keypoints].

    As in Transformers, keypoints are in the order of their pixels, those of an image with more than `max_keypoints` in
    the order of their scores, and the border at the right and at the bottom is never reached: its position is
    computed from eight times the size.
    """
    import torch

    scores = decoder._get_pixel_scores(features)
    height, width = scores.shape[-2:]
    border = decoder.border_removal_distance
    rows, columns = torch.arange(height, device=scores.device), torch.arange(width, device=scores.device)
    inside = ((rows >= border) & (rows < height * _CELL - border))[:, None]
    inside = inside & (columns >= border) & (columns < width * _CELL - border)
    valid = ((scores > decoder.keypoint_threshold) & inside).flatten(1)
    scores = scores.flatten(1)

    counts, total = valid.sum(dim=1), valid.shape[1]
    ranks = torch.where(valid, total - torch.arange(total, device=scores.device), 0)
    count: Any = counts.max()
    if decoder.max_keypoints >= 0:
        count = count.clamp_max(decoder.max_keypoints)
    count = count.item()
    torch._check(count >= 2)  # type: ignore[no-untyped-call]
    torch._check(count <= total)  # type: ignore[no-untyped-call]
    order = ranks.topk(count).indices
    if decoder.max_keypoints >= 0:
        best = torch.where(valid, scores, -1).topk(count).indices
        order = torch.where((counts > decoder.max_keypoints)[:, None], best, order)
    mask = valid.gather(1, order)
    points = torch.stack((order - order // width * width, order // width), dim=-1).to(scores.dtype)
    return torch.where(mask[..., None], points, 0), torch.where(mask, scores.gather(1, order), 0), mask


def distinct_keypoints(prefix: str) -> dict[str, float]:
    """Scale random weights so that keypoints and descriptors follow from the image, not from the biases.

    Args:
        prefix: of the parameters of SuperPoint.
    """
    blocks = [f"encoder.conv_blocks.{block}.conv_{part}" for block in range(4) for part in "ab"]
    decoders = ("keypoint_decoder.conv_score_a", "descriptor_decoder.conv_descriptor_a")
    biases = {f"{prefix}{name}.bias": 0.0 for name in (*blocks, *decoders, "descriptor_decoder.conv_descriptor_b")}
    return {**biases, f"{prefix}keypoint_decoder.conv_score_b.weight": 30.0}


ARCHITECTURES = (
    Architecture(
        ("superpoint",),
        patches=(
            Patch(
                f"{_MODULE}:SuperPointForKeypointDetection.forward",
                _detect_all_at_once,
                "a loop over the images finds as many keypoints as each has",
                EAGER,
                "Transformers finds the keypoints of all images at once",
            ),
        ),
        tiny=Tiny(fields={"keypoint_decoder_dim": 65}, scales=distinct_keypoints("")),
    ),
    Architecture(
        ("superglue",),
        tiny=Tiny(scales=distinct_keypoints("keypoint_detector.") | {"final_projection.final_proj.weight": 2.0}),
    ),
)
