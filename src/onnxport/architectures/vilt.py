"""ViLT: the patches of padded images, several images for each text, and fields of its tiny configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny, of_class
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.vilt.modeling_vilt import ViltEmbeddings

    Size = int | torch.SymInt

_IMAGES = ("pixel_values", "pixel_mask")


class SeveralImagesOnnxConfig(DerivedOnnxConfig):
    """Describe a classifier of a text with several images, [batch, num_images, channels, height, width]."""

    def fit_inputs(self, inputs: dict[str, Any]) -> None:
        """Repeat each image."""
        for name in _IMAGES:
            if name in inputs:
                inputs[name] = (
                    inputs[name]
                    .repeat_interleave(self._config.num_images, 0)
                    .unflatten(0, (-1, self._config.num_images))
                )

    def _axes_of(self, inputs: Mapping[str, Any]) -> dict[str, Mapping[int, str]]:
        images = {
            "pixel_values": {0: "batch", 3: "height", 4: "width"},
            "pixel_mask": {0: "batch", 2: "height", 3: "width"},
        }
        return {**super()._axes_of(inputs), **{name: axes for name, axes in images.items() if name in inputs}}


def _embed_all_at_once(_: object) -> Callable[..., Any]:
    """Embed the patches of all images with tensors only: those in the images, then as many others as the batch needs.

    Transformers draws the others at random, and of more than `max_image_length` patches those that it keeps; here,
    the first ones are taken.
    """

    def visual_embed(
        self: ViltEmbeddings, pixel_values: torch.Tensor, pixel_mask: torch.Tensor, max_image_length: int = 200
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, tuple[Size, Size]]]:
        import torch
        from torch.nn import functional

        features = self.patch_embeddings(pixel_values)
        height, width = features.shape[-2:]
        mask = functional.interpolate(pixel_mask[:, None].float(), size=(height, width))[:, 0].long()
        rows, columns = mask.sum(dim=1)[:, 0], mask.sum(dim=2)[:, 0]
        side = self.config.image_size // self.config.patch_size
        table = self.position_embeddings[0, 1:].view(side, side, -1)
        weights = _interpolation(rows, height, side), _interpolation(columns, width, side)
        positions = torch.einsum("bhp,pqd,bwq->bhwd", weights[0], table, weights[1]).flatten(1, 2)
        patches, valid = features.flatten(2).transpose(1, 2) + positions, mask.flatten(1)

        largest = (rows * columns).max()
        count: Any = (largest if max_image_length < 0 else largest.clamp_max(max_image_length)).item()
        torch._check(count >= 2)  # type: ignore[no-untyped-call]
        torch._check(count <= height * width)  # type: ignore[no-untyped-call]
        total = valid.shape[1]
        order = (valid * total - torch.arange(total, device=valid.device)).argsort(descending=True)[:, :count]
        patches, valid = patches.gather(1, order[..., None].expand(-1, -1, patches.shape[2])), valid.gather(1, order)
        first = self.cls_token.expand(patches.shape[0], -1, -1) + self.position_embeddings[:, :1]
        patches, valid = torch.cat((first, patches), dim=1), torch.cat((torch.ones_like(valid[:, :1]), valid), dim=1)
        index = torch.stack((order // width, order % width), dim=-1)
        return self.dropout(patches), valid, (index, (height, width))

    return visual_embed


def _interpolation(counts: torch.Tensor, size: Size, side: int) -> torch.Tensor:
    """Return the weights with which position embeddings are interpolated along an axis, [batch, size, side].

    Args:
        counts: number of patches of each image along the axis, [batch]; the others have no position embedding.
        size: number of patches along the axis, with padding.
        side: number of position embeddings along the axis.
    """
    import torch

    index = torch.arange(size, device=counts.device)  # type: ignore[arg-type]  # symbolic sizes are integers
    position = index * (side - 1) / (counts - 1).clamp_min(1)[:, None]
    distance = position[..., None] - torch.arange(side, device=counts.device)
    weights = (1 - distance.abs()).clamp_min(0)
    return torch.where((index < counts[:, None])[..., None], weights, 0)


ARCHITECTURES = (
    Architecture(
        ("vilt",),
        model=of_class("ViltForImagesAndTextClassification", SeveralImagesOnnxConfig),
        patches=(
            Patch(
                "transformers.models.vilt.modeling_vilt:ViltEmbeddings.visual_embed",
                _embed_all_at_once,
                "a loop over the samples resizes position embeddings and selects patches by the sizes in the mask",
                EAGER,
                "Transformers embeds the patches of all images at once",
            ),
        ),
        tiny=Tiny(tasks={"architecture": {"num_images": 2, "modality_type_vocab_size": 3}}),
    ),
)
