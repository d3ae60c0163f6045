"""Encoders of whole images and of crops of them, for DeepSeek-OCR 2, Unlimited OCR and Step 3.7.

Transformers concatenates the features of each image's crops and of the image itself in a loop over images. Here the
features of all images are sorted by the position that they have in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.description.default_preprocessor import first_int, image_size_of, sub_configs

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor

_IMAGES, _CROPS, _COUNTS = "pixel_values", "pixel_values_local", "num_local_patches"
_PATCHES = 14
"""Pixels of a patch if the configuration doesn't have them."""


class ImageCropsEncoderOnnxConfig(OnnxConfig):
    """Describe an encoder of images, each with a number of crops.

    Attributes:
        crop_field: attribute of the image processor with the side of a crop.
        crop_ratio: side of a crop relative to that of an image, if the image processor has none that is smaller.

    Args:
        model: the multimodal model.
        preprocessor: its preprocessor, which has the sizes of images and crops.
    """

    crop_field: ClassVar[str] = "tile_size"
    crop_ratio: ClassVar[float] = 0.75

    def __init__(self, model: PreTrainedModel, preprocessor: Preprocessor) -> None:
        super().__init__(model.config, task="default")
        processor = getattr(preprocessor, "image_processor", preprocessor)
        size = getattr(processor, "size", None) or {}
        self._side = size["height"] if "height" in size else (image_size_of(model.config) or (1024, 1024))[0]
        crop = getattr(processor, self.crop_field, None) or self._side
        if not isinstance(crop, int) or crop >= self._side:
            configs = [model.config, *sub_configs(model.config, ("vision_config", "sam_config"))]
            patch = first_int(configs, "patch_size") or _PATCHES
            crop = max(int(self._side * self.crop_ratio) // patch, 1) * patch
        self._crop_side = crop

    @property
    def inputs(self) -> Axes:
        """Images, [batch, channels, height, width], all crops, and the number of crops of each image, [batch]."""
        return {_IMAGES: {0: "batch"}, _CROPS: {0: "num_crops"}, _COUNTS: {0: "batch"}}

    @property
    def outputs(self) -> Axes:
        """Features of all images, those of an image's crops before its own, [features, hidden_size]."""
        return {"image_features": {}}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Preprocessor, batch_size: int = -1, **named: Any
    ) -> Mapping[str, torch.Tensor]:
        """Make images with two or three crops; see `OnnxConfig`."""
        import torch

        batch = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        counts = 2 + torch.arange(batch) % 2
        images = torch.zeros(batch, 3, self._side, self._side)
        return {
            _IMAGES: images,
            _CROPS: torch.zeros(int(counts.sum()), 3, self._crop_side, self._crop_side),
            _COUNTS: counts,
        }

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Run the encoder and the projector on images and on crops, and join their features."""
        model = model_of(forward).base_model
        encoder = model.vision_tower if hasattr(model, "vision_tower") else model.vision_model
        images, crops = (
            model.multi_modal_projector(encoder(arguments[name], return_dict=True).last_hidden_state)
            for name in (_IMAGES, _CROPS)
        )
        return {"image_features": self.joined(model, images, crops, arguments)}

    def joined(
        self, model: Any, images: torch.Tensor, crops: torch.Tensor, arguments: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return all features in order, [features, hidden_size]; a hook.

        Args:
            model: the base model, with the embeddings of separators.
            images: features of images, [batch, features of each, hidden_size].
            crops: features of crops, [crops, features of each, hidden_size].
            arguments: the inputs by name.
        """
        import torch

        counts, tokens = arguments[_COUNTS], crops.shape[1]
        images = with_separator(model, images)
        image, crop = _crops_of(counts, crops)
        sizes = counts * tokens
        starts = _starts(sizes, images)
        offsets = torch.arange(tokens, device=crops.device)
        positions = (starts[image] + crop * tokens)[:, None] + offsets
        return in_order(crops, positions, images, starts + sizes)


def with_separator(model: Any, images: torch.Tensor) -> torch.Tensor:
    """Return the features of images, each with a separator after them if the model has one.

    Args:
        model: the base model.
        images: [batch, features, hidden_size].
    """
    import torch

    separator = getattr(model, "view_separator", None)
    if separator is None:
        return images
    return torch.cat([images, separator.to(images.dtype).expand(images.shape[0], 1, -1)], dim=1)


class RowsOfCropsEncoderOnnxConfig(ImageCropsEncoderOnnxConfig):
    """Describe an encoder whose crops form a grid, with a newline after each row of features."""

    crop_ratio: ClassVar[float] = 0.625

    @property
    def inputs(self) -> Axes:
        """Images, crops, and the columns and rows of crops of each image, [batch, 2]."""
        return {**super().inputs, "patches_grid": {0: "batch"}}

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, torch.Tensor]:
        """Make images with two crops in a row, or three in a column; see `OnnxConfig`."""
        import torch

        inputs = super().generate_dummy_inputs(*arguments, **named)
        in_row = inputs[_COUNTS] == 2  # see `ImageCropsEncoderOnnxConfig`
        grids = torch.stack([1 + in_row.long(), torch.where(in_row, 1, inputs[_COUNTS])], dim=-1)
        return {**inputs, "patches_grid": grids}

    def joined(
        self, model: Any, images: torch.Tensor, crops: torch.Tensor, arguments: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return all features in order, with newlines; see `ImageCropsEncoderOnnxConfig`."""
        import torch

        counts, (columns, rows) = arguments[_COUNTS], arguments["patches_grid"].unbind(-1)
        side = int(crops.shape[1] ** 0.5)
        images = with_separator(model, _with_newlines(model, images).flatten(1, 2))
        crops = _with_newlines(model, crops)
        image, crop = _crops_of(counts, crops)
        sizes = torch.where(counts > 0, rows * side * (columns * side + 1), 0)
        starts = _starts(sizes, images)
        across = columns[image]
        row, column = crop // across, crop % across
        steps = torch.arange(side + 1, device=crops.device)
        line = (row * side)[:, None] + steps[:side]
        first = starts[image][:, None] + line * (across * side + 1)[:, None] + (column * side)[:, None]
        positions = first[..., None] + steps
        is_last = (column == across - 1)[:, None, None] | (steps < side)
        kept = is_last.expand(positions.shape)
        positions = torch.where(kept, positions, _DROPPED)
        return in_order(crops.flatten(1, 2), positions.flatten(1), images, starts + sizes)


_DROPPED = 2**40
"""Position of newlines between crops of a row, after all others."""


def _with_newlines(model: Any, features: torch.Tensor) -> torch.Tensor:
    """Return features of squares as rows with a newline, [batch, side, side + 1, hidden_size]."""
    import torch

    side = int(features.shape[1] ** 0.5)
    newline = model.image_newline.to(features.dtype).expand(features.shape[0], side, 1, -1)
    return torch.cat([features.reshape(features.shape[0], side, side, features.shape[-1]), newline], dim=2)


def _crops_of(counts: torch.Tensor, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the image of each crop, and the crop's index among those of the image, each [crops]."""
    import torch

    ends = counts.cumsum(0)
    index = torch.arange(crops.shape[0], device=crops.device)
    image = (index[:, None] >= ends).sum(1)
    return image, index - (ends - counts)[image]


def _starts(sizes: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the position of each image's first feature, [batch].

    Args:
        sizes: number of features of each image's crops, [batch].
        images: features of the images themselves, [batch, features, hidden_size].
    """
    import torch

    return sizes.cumsum(0) - sizes + torch.arange(images.shape[0], device=images.device) * images.shape[1]


def in_order(crops: torch.Tensor, positions: torch.Tensor, images: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Return the features of crops and images, sorted by their positions; those of `_DROPPED` aren't returned.

    Args:
        crops: [crops, features, hidden_size].
        positions: those of the crops' features, [crops, features].
        images: [batch, features, hidden_size].
        starts: position of each image's first feature, [batch].
    """
    import torch

    own = starts[:, None] + torch.arange(images.shape[1], device=images.device)
    joined = torch.cat([positions.flatten(), own.flatten()])
    order = joined.argsort()
    order = order[joined[order] < _DROPPED]
    return torch.cat([crops.flatten(0, 1), images.flatten(0, 1)])[order]
