"""Describe the any-resolution vision encoders of LLaVA-NeXT, LLaVA-NeXT-Video and their variants.

An image's size determines the number of tiles that it is split into, and its features in the prompt: those of the base
image, then row by row those of the tiles without padding, with a newline embedding after each row. Transformers selects
them image by image; here the index of each feature is computed arithmetically.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.errors import UnsupportedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor

_ONEVISION = "llava_onevision"
_MAX_RATIO = 1.1
"""Ratio to the maximum number of features per side above which an image's features are interpolated to fewer."""


class AnyresEncoderOnnxConfig(OnnxConfig):
    """Describe an encoder of images that are split into tiles."""

    @property
    def inputs(self) -> Axes:
        """Tiles, with the base image first, and the original image sizes.

        `pixel_values` is [images, tiles, channels, height, width], `image_sizes` is [images, 2] (height and width).
        LLaVA-OneVision also takes `batch_num_images`, [prompts], the number of images in each prompt. If a prompt has
        several, they aren't split into tiles.
        """
        counts = {"batch_num_images": {0: "texts"}} if self._is_onevision else {}
        return {"image_sizes": {0: "batch"}, **counts, "pixel_values": {0: "batch", 1: "num_images"}}

    @property
    def outputs(self) -> Axes:
        """Concatenated features of all images, [features, hidden_size]."""
        return {"image_features": {}}

    @property
    def _is_onevision(self) -> bool:
        """Return whether the model interpolates features and takes `batch_num_images`."""
        return bool(self._config.model_type == _ONEVISION)

    def generate_dummy_inputs(self, preprocessor: Any, batch_size: int = -1, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Create dummy images that are split into few tiles, some of them padded."""
        import torch

        count = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        side = self._config.vision_config.image_size
        smallest = sorted(self._config.image_grid_pinpoints, key=lambda sides: sides[0] * sides[1])[:2]
        choices = torch.tensor([[height - height // 4 * (height >= width), width] for height, width in smallest])
        tiles = 1 + int((_best_resolution(choices, self._config.image_grid_pinpoints) // side).prod(-1).max())
        sizes = choices[torch.arange(count) % len(choices)]
        counts = {"batch_num_images": torch.tensor([1, count - 1])} if self._is_onevision else {}
        return {"image_sizes": sizes, **counts, "pixel_values": torch.ones(count, tiles, 3, side, side)}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; when exporting, on all tiles at once, with feature indices computed arithmetically."""
        import torch

        model = model_of(forward)
        if not torch.compiler.is_exporting():
            return {"image_features": torch.cat(model.get_image_features(**arguments, return_dict=True).pooler_output)}
        tiles, sizes = arguments["pixel_values"], arguments["image_sizes"]
        is_tiled = _is_tiled(arguments["batch_num_images"], sizes.shape[0]) if self._is_onevision else None
        features = self._encode_tiles(model.base_model, tiles.flatten(0, 1))
        sources = self._feature_sources(sizes, tiles.shape[1], is_tiled)
        valid = sources.valid.flatten().nonzero().squeeze(-1)
        neighbors = [(index.flatten()[valid], weight) for index, weight in sources.neighbors]
        newline = model.base_model.image_newline[None]
        tables = [torch.cat([layer.flatten(0, 1), newline.to(layer.dtype)]) for layer in features]
        if len(neighbors) == 1:
            return self._to_outputs([table[neighbors[0][0]] for table in tables])
        (table,) = tables
        terms = [table[index] * weight.flatten()[valid, None].to(table.dtype) for index, weight in neighbors]
        return self._to_outputs([sum(terms[1:], terms[0])])

    def _to_outputs(self, features: list[Any]) -> dict[str, Any]:
        """Return the outputs by name, from the features of each layer."""
        return {"image_features": features[0]}

    def _encode_tiles(self, model: PreTrainedModel, tiles: Any) -> list[Any]:
        """Return the features of tiles, [tiles, features, hidden_size], for each decoder layer that takes features."""
        import torch

        layers = self._config.vision_feature_layer
        hidden_states = model.vision_tower(tiles, output_hidden_states=True, return_dict=True).hidden_states
        features = torch.cat(
            [hidden_states[layer] for layer in ([layers] if isinstance(layers, int) else layers)], dim=-1
        )
        if self._config.vision_feature_select_strategy == "default":
            features = features[:, 1:]
        if features.shape[1] != self._features_per_side**2:
            raise UnsupportedError(
                f"the vision encoder of {type(model).__name__} returns {features.shape[1]} features for a tile of "
                f"{self._features_per_side} x {self._features_per_side} patches: "
                "check vision_feature_select_strategy in config.json"
            )
        return [model.multi_modal_projector(features)]

    @property
    def _features_per_side(self) -> int:
        """Return the number of features in a row of a tile."""
        vision = self._config.vision_config
        return int(vision.image_size // vision.patch_size)

    def _feature_sources(self, sizes: Any, tiles: int, is_tiled: Any) -> _Sources:
        """Compute the sources of each output feature, for the number of features of the largest image.

        Args:
            sizes: height and width of each image, [images, 2].
            tiles: number of tiles per image, including padding.
            is_tiled: mask of the images that are split into tiles, [images]; None for all.
        """
        import torch

        side, pinpoints = self._features_per_side, self._config.image_grid_pinpoints
        grid = _best_resolution(sizes, pinpoints) // self._config.vision_config.image_size
        padding, unpadded = _unpad(sizes, grid * side)
        shape = self._interpolated_shape(unpadded) if self._is_onevision else unpadded
        if is_tiled is not None:  # an image without tiles has one row of zero features, and its newline
            shape = torch.where(is_tiled[:, None], shape, torch.tensor([1, 0], device=sizes.device))
        index = torch.arange(side**2 + self._max_tile_features(), device=sizes.device)[None]
        first = torch.arange(sizes.shape[0], device=sizes.device)[:, None] * tiles * side**2
        rows, columns = (size[:, None] for size in shape.unbind(-1))
        tile_index = index - side**2  # negative for features of the base image
        row, column = tile_index // (columns + 1), tile_index % (columns + 1)
        newline = sizes.shape[0] * tiles * side**2
        neighbors = []
        for y, x, weight in _bilinear((row, column), shape, unpadded) if self._is_onevision else [(row, column, None)]:
            y, x = (position + offset[:, None] for position, offset in zip((y, x), padding.unbind(-1), strict=True))
            tile = 1 + (y // side) * grid[:, 1:] + x // side
            source = torch.where(column == columns, newline, first + tile * side**2 + y % side * side + x % side)
            neighbors.append((torch.where(tile_index < 0, first + index, source), weight))
        return _Sources(neighbors, row < rows)

    def _max_tile_features(self) -> int:
        """Return the largest number of features of an image's tiles, including newlines."""
        image_size, side = self._config.vision_config.image_size, self._features_per_side
        pinpoints = self._config.image_grid_pinpoints
        grids = [(int(height // image_size), int(width // image_size)) for height, width in pinpoints]
        return max(rows * side * (columns * side + 1) for rows, columns in grids)

    def _interpolated_shape(self, shape: Any) -> Any:
        """Return the rows and columns of images' features after interpolation, [images, 2].

        `shape` has the rows and columns before interpolation, [images, 2]. Transformers uses Python's `//` on floats,
        which is computed here by subtracting the remainder before the division.
        """
        import torch

        tiles = int(self._config.vision_aspect_ratio.rsplit("_", 1)[-1])
        exact = shape.double()
        ratio = (exact.prod(-1, keepdim=True) / (tiles * self._features_per_side**2)).sqrt()
        interpolated = ((exact - torch.fmod(exact, ratio)) / ratio).round().long()
        return torch.where(ratio > _MAX_RATIO, interpolated, shape)


@dataclass(frozen=True)
class _Sources:
    """The encoder features that each output feature is interpolated from.

    Attributes:
        neighbors: pairs of feature indices, [images, features], and their weights; a weight of None is 1.
        valid: mask of the features that an image has, [images, features].
    """

    neighbors: list[tuple[Any, Any]]
    valid: Any


def _is_tiled(counts: Any, images: int) -> Any:
    """Return a mask of the images that are split into tiles, [images]: the only images of their prompts."""
    import torch

    index = torch.arange(images, device=counts.device)
    return counts[(index[:, None] >= counts.cumsum(0)[None]).sum(-1)] == 1


def _best_resolution(sizes: Any, pinpoints: list[list[int]]) -> Any:
    """Return the resolution that each image is resized to, [images, 2], like `select_best_resolution`.

    It is the resolution that preserves the most pixels of the image; ties go to the smallest, then to the first.
    """
    import torch

    choices = torch.tensor(pinpoints, device=sizes.device)
    scale = (choices.double()[None] / sizes.double()[:, None]).amin(-1, keepdim=True)
    effective = torch.minimum((sizes[:, None] * scale).long().prod(-1), sizes.prod(-1, keepdim=True))
    area = choices.prod(-1)
    rank = (effective * (max(height * width for height, width in pinpoints) + 1) - area) * len(pinpoints)
    rank = rank - torch.arange(len(pinpoints), device=sizes.device)
    best = rank == rank.amax(-1, keepdim=True)
    return (best[..., None] * choices[None]).sum(1)


def _unpad(sizes: Any, padded: Any) -> tuple[Any, Any]:
    """Return the rows and columns of padding before an image's features, and of the features, [images, 2] each.

    Args:
        sizes: height and width of each image, [images, 2].
        padded: rows and columns of its tiles' features, including padding, [images, 2].
    """
    import torch

    (height, width), (rows, columns) = sizes.unbind(-1), padded.unbind(-1)
    wider = width * rows > columns * height
    scaled = torch.stack([height * columns // width, width * rows // height], dim=-1)
    padding = (padded - scaled) // 2 * torch.stack([wider, ~wider], dim=-1)
    return padding, padded - 2 * padding


def _bilinear(position: tuple[Any, Any], output_shape: Any, input_shape: Any) -> list[tuple[Any, Any, Any]]:
    """Return row, column and weight of the four input features that each output feature is interpolated from.

    Args:
        position: row and column of each output feature, [images, features].
        output_shape: rows and columns after interpolation, [images, 2].
        input_shape: rows and columns before interpolation, [images, 2].
    """
    import torch

    neighbors, weights = [], []
    for axis, index in enumerate(position):
        input_size, output_size = input_shape[:, axis, None], output_shape[:, axis, None]
        exact = ((index + 0.5) * (input_size / output_size.clamp(min=1)) - 0.5).clamp(min=0)
        low = torch.minimum(exact.long(), input_size - 1)
        neighbors.append((low, torch.minimum(low + 1, input_size - 1)))
        weights.append((1 - (exact - low), exact - low))
    both = (0, 1)
    return [(neighbors[0][i], neighbors[1][j], weights[0][i] * weights[1][j]) for i in both for j in both]


def _vision_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    return AnyresEncoderOnnxConfig(model.config)


ARCHITECTURES = (
    Architecture(
        ("llava_next", "llava_next_video"),
        encoders={"vision_encoder": _vision_encoder},
        tiny=Tiny({"image_grid_pinpoints": [[64, 128], [128, 64], [128, 128]]}),
    ),
    Architecture((_ONEVISION,), encoders={"vision_encoder": _vision_encoder}),
)
