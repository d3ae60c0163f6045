"""Describe UDOP, which requires bounding boxes, although its error doesn't mention them; combine images with text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport.architectures._architecture import Architecture, always
from onnxport.description.component_types import encoder_decoder, generates_from_encoder
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dummy_inputs import DummyInput, InputContext
from onnxport.description.encoder_decoder import EncoderOnnxConfig
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.description.components import Component
    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task


def _boxes(context: InputContext) -> torch.Tensor:
    """Return bounding boxes, normalized to the page size, [batch, sequence, 4]."""
    import torch

    return torch.full((context.batch, context.length, 4), 0.5)


def _images(context: InputContext) -> torch.Tensor:
    """Return images of the configuration's size, [batch, channels, height, width]."""
    import torch

    size = context.config.image_size
    return torch.zeros(context.batch, context.config.num_channels, size, size)


_DUMMY_INPUTS = {"bbox": DummyInput({0: "batch", 1: "sequence"}, _boxes)}


class UdopOnnxConfig(DerivedOnnxConfig):
    """Describe UDOP as a single graph."""

    dummy_inputs: ClassVar[Mapping[str, DummyInput]] = {
        **_DUMMY_INPUTS,
        "pixel_values": DummyInput({0: "batch"}, _images),
    }


class UdopEncoderOnnxConfig(EncoderOnnxConfig):
    """Describe UDOP's encoder."""

    dummy_inputs = _DUMMY_INPUTS


def _components(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor, _: bool
) -> tuple[Component, ...] | None:
    if not generates_from_encoder(model, task):
        return None
    return encoder_decoder(model, preprocessor, encoder=UdopEncoderOnnxConfig)


def _combine_at_once(_: object) -> Callable[..., Any]:
    """Combine the patches and the tokens of all samples with tensors only; padding has box 0 and mask 0."""

    def combine(
        image_embeddings: torch.Tensor,
        inputs_embeds: torch.Tensor,
        bbox: torch.Tensor,
        visual_bbox: torch.Tensor | None,
        attention_mask: torch.Tensor | None = None,
        num_patches: int = 14,
        max_len: int = 0,
        image_size: int = 224,
        patch_size: int = 16,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        import torch
        from transformers.models.udop.modeling_udop import get_visual_bbox

        boxes = bbox.double()
        columns, rows = (
            torch.floor((boxes[..., axis] + boxes[..., axis + 2]) / 2.0 * num_patches).long().clip(0, num_patches - 1)
            for axis in (0, 1)
        )
        patch, size = columns + rows * num_patches, image_embeddings.shape[-1]
        is_special = (boxes.mean(-1) == 0.0) | (boxes.mean(-1) == 1.0)
        of_token = image_embeddings.gather(1, patch[..., None].expand(-1, -1, size))
        tokens = inputs_embeds + of_token.masked_fill(is_special[..., None], 0.0)
        if visual_bbox is None:
            visual_bbox = get_visual_bbox(image_size=image_size, patch_size=patch_size).to(image_embeddings.device)
            visual_bbox = visual_bbox.expand(image_embeddings.shape[0], -1, -1)
        free = torch.ones_like(image_embeddings[..., 0], dtype=torch.long).scatter(1, patch, 0)
        count = image_embeddings.shape[1]
        order = (free * count - torch.arange(count, device=free.device)).argsort(descending=True)
        free = free.gather(1, order)
        kept = image_embeddings.gather(1, order[..., None].expand(-1, -1, size)) * free[..., None]
        kept_boxes = visual_bbox.to(boxes).gather(1, order[..., None].expand(-1, -1, 4)) * free[..., None]
        mask = None if attention_mask is None else torch.cat([attention_mask, free.to(attention_mask)], 1)
        return torch.cat([tokens, kept], 1), torch.cat([boxes, kept_boxes], 1), mask

    return combine


ARCHITECTURES = (
    Architecture(
        ("udop",),
        components=_components,
        model=always(UdopOnnxConfig),
        patches=(
            Patch(
                "transformers.models.udop.modeling_udop:combine_image_text_embeddings",
                _combine_at_once,
                "loops over the tokens and the samples select patches by the boxes",
                EAGER,
                "Transformers combines all samples at once",
            ),
        ),
    ),
)
