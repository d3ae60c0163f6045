"""LightGlue: pairs of images that stop early and lose keypoints, all at once, and their tiny checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures.superpoint import distinct_keypoints
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.lightglue.modeling_lightglue import LightGlueForKeypointMatching

    Matching = tuple[torch.Tensor, torch.Tensor, torch.Tensor, Any, Any]


def _match_with_masks(original: Callable[..., Matching]) -> Callable[..., Matching]:
    """Keep all pairs of images and all keypoints in each layer; a keypoint that is taken out gets no attention."""

    def _match_image_pair(self: LightGlueForKeypointMatching, *arguments: Any, **named: Any) -> Matching:
        both = self.depth_confidence > 0 and self.width_confidence > 0  # Transformers can't do one without the other
        return _match(self, *arguments, **named) if both else original(self, *arguments, **named)

    return _match_image_pair


def _match(
    self: LightGlueForKeypointMatching,
    keypoints: torch.Tensor,
    descriptors: torch.Tensor,
    height: int | torch.SymInt,
    width: int | torch.SymInt,
    mask: torch.Tensor,
    output_attentions: bool | None = None,
    output_hidden_states: bool | None = None,
) -> Matching:
    """Run all layers, and keep for each pair of images what the layer at which it stops returns."""
    import torch
    from transformers.masking_utils import create_bidirectional_mask
    from transformers.models.lightglue.modeling_lightglue import normalize_keypoints

    points = mask.flatten(1).sum(dim=1)
    normalized = normalize_keypoints(keypoints.flatten(0, 1), height, width)  # type: ignore[arg-type]
    features, encoding = self._keypoint_processing(descriptors.flatten(0, 1), normalized)
    kept = mask.flatten(0, 1).bool()
    running, found = torch.ones_like(points, dtype=torch.bool), _Found(kept, features)
    hidden_states: tuple[torch.Tensor, ...] = ()
    attentions: tuple[torch.Tensor, ...] = ()
    for layer in range(self.num_layers):
        attended = create_bidirectional_mask(
            self.config, features[:, :1], kept.long(), allow_is_bidirectional_skip=False
        )
        features, states, weights = self.transformer_layers[layer](
            features,
            encoding[0],
            attention_mask=attended,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        hidden_states, attentions = hidden_states + (states or ()), attentions + (weights or ())
        matched = self._get_keypoint_matching(features, kept, layer)
        if layer == self.num_layers - 1:
            found.keep(layer, matched, kept, running, running)
            break
        confidences = self.token_confidence[layer](features)
        stops = running & self._get_early_stopped_image_pairs(confidences, layer, kept, num_points=points)
        found.keep(layer, matched, kept, stops, running)
        running = running & ~stops
        going = running.repeat_interleave(2)[:, None]
        matchability = self.match_assignment_layers[layer].get_matchability(features)
        kept = kept & (self._get_pruning_mask(confidences, matchability, layer) | ~going)
        found.iterations = found.iterations + (kept & going)
    matches, scores, iterations = (values.view(points.shape[0], 2, -1) for values in found.listed())
    returned = (hidden_states if output_hidden_states else None, attentions if output_attentions else None)
    return matches, scores, iterations, *returned


class _Found:
    """What was found in images [images] until their pairs stopped: values of keypoints are [images, keypoints]."""

    def __init__(self, kept: torch.Tensor, features: torch.Tensor) -> None:
        import torch

        self.matches = torch.full_like(kept, -1, dtype=torch.long)
        self.scores = torch.zeros_like(features[..., 0])
        self.iterations = torch.ones_like(self.matches)
        self._count = kept.shape[1]
        self._stopped_at = torch.zeros_like(self.matches[:, 0])
        self._sizes = torch.full_like(self._stopped_at, self._count)
        self._widest = torch.zeros_like(self._sizes[:1])

    def keep(
        self,
        layer: int,
        matched: tuple[torch.Tensor, torch.Tensor],
        kept: torch.Tensor,
        stops: torch.Tensor,
        running: torch.Tensor,
    ) -> None:
        """Keep matches and their scores of the pairs that stop at a layer, of those that ran until it."""
        import torch

        images, (matches, scores) = stops.repeat_interleave(2), matched
        self.matches = torch.where(images[:, None], torch.where(kept, matches, -1), self.matches)
        if layer:
            scores = torch.where(kept, scores, 0)
        self.scores = torch.where(images[:, None], scores, self.scores)
        present = kept.sum(dim=1) if layer else self._sizes
        self._sizes = torch.where(images, present, self._sizes)
        present = torch.where(running.repeat_interleave(2) & stops.any(), present, 0)
        self._widest = torch.maximum(self._widest, present.max())
        self._stopped_at = torch.where(images, layer, self._stopped_at)

    def listed(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return matches, scores and iterations as Transformers 5.23 arranges them.

        It fills the shorter lists of keypoints with the index -1, so that the last keypoint loses its match, and takes
        the results, which are in the order in which the pairs stopped, in the square of that order.
        """
        import torch

        images = torch.arange(self._sizes.shape[0], device=self._sizes.device)
        last = torch.arange(self._count, device=images.device) == self._count - 1
        short = (self._sizes < self._widest)[:, None] & last
        order = (self._stopped_at * images.shape[0] + images).argsort()
        order = order[order[order]]
        matches, scores = torch.where(short, -1, self.matches), torch.where(short, 0, self.scores)
        return matches[order], scores[order], self.iterations[order]


ARCHITECTURES = (
    Architecture(
        ("lightglue",),
        patches=(
            Patch(
                "transformers.models.lightglue.modeling_lightglue:LightGlueForKeypointMatching._match_image_pair",
                _match_with_masks,
                "pairs of images that are matched and keypoints without a match are taken out after each layer",
                EAGER,
                "Transformers keeps them with a mask",
            ),
        ),
        tiny=Tiny(scales=distinct_keypoints("keypoint_detector.")),
    ),
)
