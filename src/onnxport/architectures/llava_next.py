"""Describe the vision encoders of LLaVA-NeXT, also for video, and its relatives, which encode images in tiles.

The number of tiles of an image follows from its size, and so does the number of its features: those of the whole image,
then row by row those of the tiles without padding, with a newline feature at the end of each row. Transformers
concatenates them image by image; here the index of the feature at each position is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.errors import UnsupportedError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.models.granite4_vision.modeling_granite4_vision import Granite4VisionModel
    from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
    from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

    from onnxport.description.preprocessor import Preprocessor

_INTERPOLATES = "llava_onevision"
_MAX_RATIO = 1.1
"""Features are interpolated where an image has more than this ratio of the rows and columns that it may have."""


class AnyresEncoderOnnxConfig(OnnxConfig):
    """Describe an encoder of images of any resolution, which are cut into tiles."""

    @property
    def inputs(self) -> Axes:
        """Tiles, the whole image first, and the sizes of the images before they were cut into tiles.

        `pixel_values` is [batch, 1 + tiles, channels, height, width], `image_sizes` [batch, 2] (height and width); the
        batch is one of images. LLaVA-OneVision takes `batch_num_images`, too, [prompts]: the number of images in each
        prompt. Images of a prompt with several aren't cut into tiles.
        """
        counts = {"batch_num_images": {0: "texts"}} if self._interpolates else {}
        return {"image_sizes": {0: "batch"}, **counts, "pixel_values": {0: "batch", 1: "num_images"}}

    @property
    def outputs(self) -> Axes:
        """Features of all images, concatenated, [placeholder tokens, hidden size]."""
        return {"image_features": {}}

    @property
    def _interpolates(self) -> bool:
        return bool(self._config.model_type == _INTERPOLATES)

    def generate_dummy_inputs(
        self, preprocessor: Preprocessor, batch_size: int = -1, **named: Any
    ) -> Mapping[str, Any]:  # type: ignore[override]
        """Make images that are cut into few tiles, some of them padded."""
        import torch

        count = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        side = self._config.vision_config.image_size
        smallest = sorted(self._config.image_grid_pinpoints, key=lambda size: size[0] * size[1])[:2]
        examples = torch.tensor([[height - height // 4 * (height >= width), width] for height, width in smallest])
        tiles = 1 + int((_best_resolution(examples, self._config.image_grid_pinpoints) // side).prod(-1).max())
        sizes = examples[torch.arange(count) % len(examples)]
        counts = {"batch_num_images": torch.tensor([1, count - 1])} if self._interpolates else {}
        return {"image_sizes": sizes, **counts, "pixel_values": torch.ones(count, tiles, 3, side, side)}

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; while it is traced, features are gathered by computed indices instead of in a loop."""
        import torch

        model = model_of(forward)
        if not torch.compiler.is_exporting():
            return {"image_features": torch.cat(model.get_image_features(**arguments, return_dict=True).pooler_output)}
        tiles, sizes = arguments["pixel_values"], arguments["image_sizes"]
        is_tiled = _is_tiled(arguments["batch_num_images"], sizes.shape[0]) if self._interpolates else None
        features = self._tile_features(model.model, tiles.flatten(0, 1))
        gather = self._gather(sizes, tiles.shape[1], is_tiled)
        valid = gather.valid.flatten().nonzero().squeeze(-1)
        corners = [(index.flatten()[valid], weight) for index, weight in gather.corners]
        newline = model.model.image_newline
        tables = [torch.cat([layer.flatten(0, 1), newline[None].to(layer.dtype)]) for layer in features]
        if len(corners) == 1:
            return self._named_outputs([table[corners[0][0]] for table in tables])
        (table,) = tables
        parts = [table[index] * weight.flatten()[valid, None].to(table.dtype) for index, weight in corners]
        return self._named_outputs([sum(parts[1:], parts[0])])

    def _named_outputs(self, features: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the outputs by name."""
        return {"image_features": features[0]}

    def _tile_features(
        self, model: LlavaNextModel | LlavaOnevisionModel | Granite4VisionModel, tiles: torch.Tensor
    ) -> list[torch.Tensor]:
        """Return the projected features of tiles, [tiles, patches, hidden size], for each decoder layer that adds any.

        Raises:
            UnsupportedError: the encoder returns another number of features than a tile has patches.
        """
        import torch

        layers = self._config.vision_feature_layer
        hidden_states = model.vision_tower(tiles, output_hidden_states=True, return_dict=True).hidden_states
        selected = [hidden_states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
        features = torch.cat(selected, dim=-1)
        if self._config.vision_feature_select_strategy == "default":
            features = features[:, 1:]
        if features.shape[1] != self._side**2:
            raise UnsupportedError(
                f"the vision encoder of {type(model).__name__} returns {features.shape[1]} features for a tile of "
                f"{self._side} x {self._side} patches: check vision_feature_select_strategy in config.json"
            )
        return [model.multi_modal_projector(features)]

    @property
    def _side(self) -> int:
        """Return the number of patches in a row of a tile."""
        vision = self._config.vision_config
        return int(vision.image_size // vision.patch_size)

    def _gather(self, sizes: torch.Tensor, tiles: int, is_tiled: torch.Tensor | None) -> _Gather:
        """Compute the indices of the features at each position that the largest image would have.

        Args:
            sizes: height and width of each image, [batch, 2].
            tiles: tiles of each image, padding included.
            is_tiled: images that are cut into tiles, [batch]; None for all.
        """
        import torch

        side, pinpoints = self._side, self._config.image_grid_pinpoints
        grid = _best_resolution(sizes, pinpoints) // self._config.vision_config.image_size
        padding, unpadded = _unpadded(sizes, grid * side)
        target = self._interpolated_size(unpadded) if self._interpolates else unpadded
        if is_tiled is not None:  # an image that isn't cut into tiles has one empty row with its newline
            target = torch.where(is_tiled[:, None], target, torch.tensor([1, 0], device=sizes.device))
        position = torch.arange(side**2 + self._max_tile_features(), device=sizes.device)[None]
        offset = torch.arange(sizes.shape[0], device=sizes.device)[:, None] * tiles * side**2
        rows, columns = (size[:, None] for size in target.unbind(-1))
        behind = position - side**2
        row, column = behind // (columns + 1), behind % (columns + 1)
        newline = sizes.shape[0] * tiles * side**2
        corners = []
        for y, x, weight in _corners((row, column), target, unpadded) if self._interpolates else [(row, column, None)]:
            y, x = (part + before[:, None] for part, before in zip((y, x), padding.unbind(-1), strict=True))
            tile = 1 + (y // side) * grid[:, 1:] + x // side
            index = torch.where(column == columns, newline, offset + tile * side**2 + y % side * side + x % side)
            corners.append((torch.where(behind < 0, offset + position, index), weight))
        return _Gather(corners, row < rows)

    def _max_tile_features(self) -> int:
        """Return the maximum number of features of an image's tiles, newlines included."""
        image_size, side = self._config.vision_config.image_size, self._side
        pinpoints = self._config.image_grid_pinpoints
        grids = ((int(height // image_size), int(width // image_size)) for height, width in pinpoints)
        return max(rows * side * (columns * side + 1) for rows, columns in grids)

    def _interpolated_size(self, unpadded: torch.Tensor) -> torch.Tensor:
        """Return the rows and columns of features after interpolation to the maximum number, [batch, 2].

        Transformers divides floats with `//`, which is computed here by subtracting the remainder.

        Args:
            unpadded: rows and columns of features without padding, [batch, 2].
        """
        import torch

        tiles = int(self._config.vision_aspect_ratio.rsplit("_", 1)[-1])
        exact = unpadded.double()
        ratio = (exact.prod(-1, keepdim=True) / (tiles * self._side**2)).sqrt()
        smaller = ((exact - torch.fmod(exact, ratio)) / ratio).round().long()
        return torch.where(ratio > _MAX_RATIO, smaller, unpadded)


@dataclass(frozen=True)
class _Gather:
    """Indices of the features at each position.

    Attributes:
        corners: indices of features and their interpolation weights, [batch, positions] each; the weight is None
            without interpolation.
        valid: positions that an image has, [batch, positions].
    """

    corners: list[tuple[torch.Tensor, Any]]
    valid: torch.Tensor


def _is_tiled(counts: torch.Tensor, images: int) -> torch.Tensor:
    """Return which images are cut into tiles, [images]: those that are the only one of their prompt."""
    import torch

    image = torch.arange(images, device=counts.device)
    return counts[(image[:, None] >= counts.cumsum(0)[None]).sum(-1)] == 1


def _best_resolution(sizes: torch.Tensor, pinpoints: list[list[int]]) -> torch.Tensor:
    """Return the resolution that each image is resized to, [batch, 2], as Transformers' `select_best_resolution` does.

    It is the one with the highest effective resolution, of those the smallest, of those the first.
    """
    import torch

    candidates = torch.tensor(pinpoints, device=sizes.device)
    scale = (candidates.double()[None] / sizes.double()[:, None]).amin(-1, keepdim=True)
    effective = torch.minimum((sizes[:, None] * scale).long().prod(-1), sizes.prod(-1, keepdim=True))
    area = candidates.prod(-1)
    rank = (effective * (max(height * width for height, width in pinpoints) + 1) - area) * len(pinpoints)
    rank = rank - torch.arange(len(pinpoints), device=sizes.device)
    best = rank == rank.amax(-1, keepdim=True)
    return (best[..., None] * candidates[None]).sum(1)


def _unpadded(sizes: torch.Tensor, current: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows and columns of padding before each image's features, and those of the features, [batch, 2] each.

    Args:
        sizes: height and width of each image, [batch, 2].
        current: rows and columns of the features of its tiles, [batch, 2].
    """
    import torch

    (height, width), (rows, columns) = sizes.unbind(-1), current.unbind(-1)
    is_wider = width * rows > columns * height
    unpadded = torch.stack([height * columns // width, width * rows // height], dim=-1)
    padding = (current - unpadded) // 2 * torch.stack([is_wider, ~is_wider], dim=-1)
    return padding, current - 2 * padding


def _corners(
    position: tuple[torch.Tensor, torch.Tensor], target: torch.Tensor, source: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor, Any]]:
    """Return the four features that bilinear interpolation combines: row, column and weight of each.

    Args:
        position: row and column of each position, [batch, positions].
        target: rows and columns after interpolation, [batch, 2].
        source: rows and columns before interpolation, [batch, 2].
    """
    import torch

    neighbors, weights = [], []
    for axis, index in enumerate(position):
        length, target_length = source[:, axis, None], target[:, axis, None]
        exact = ((index + 0.5) * (length / target_length.clamp(min=1)) - 0.5).clamp(min=0)
        lower = torch.minimum(exact.long(), length - 1)
        neighbors.append((lower, torch.minimum(lower + 1, length - 1)))
        weights.append((1 - (exact - lower), exact - lower))
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
    Architecture((_INTERPOLATES,), encoders={"vision_encoder": _vision_encoder}),
)
