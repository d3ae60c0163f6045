"""Describe the vision encoders of LLaVA-NeXT, also for video, and its relatives: an image whole and cut in tiles.

The size of an image decides how many tiles it is cut in, and which features it has in the prompt: those of the whole
image, then row by row those of the tiles without padding, with a newline embedding behind each row. Transformers
selects them image by image; here they are found by arithmetic on the index of each row.
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

_SHRINKS = "llava_onevision"
_ENOUGH = 1.1
"""Factor above which the features of an image are interpolated to fewer."""


class AnyresEncoderOnnxConfig(OnnxConfig):
    """Describe what encodes images that are cut in tiles."""

    @property
    def inputs(self) -> Axes:
        """Tiles, the whole image first, and the sizes of the images before they were cut.

        `pixel_values` is [images, tiles, channels, height, width], `image_sizes` [images, 2] (height and width).
        LLaVA-OneVision takes `batch_num_images`, too, [prompts]: how many of the images each prompt has, those of a
        prompt with several aren't cut.
        """
        more = {"batch_num_images": {0: "texts"}} if self._shrinks else {}
        return {"image_sizes": {0: "batch"}, **more, "pixel_values": {0: "batch", 1: "num_images"}}

    @property
    def outputs(self) -> Axes:
        """The features of all images, concatenated, [rows, hidden size]."""
        return {"image_features": {}}

    @property
    def _shrinks(self) -> bool:
        return bool(self._config.model_type == _SHRINKS)

    def generate_dummy_inputs(self, preprocessor: Any, batch_size: int = -1, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Make images that are cut in few tiles, some of them padded."""
        import torch

        count = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        seen = self._config.vision_config.image_size
        small = sorted(self._config.image_grid_pinpoints, key=lambda sides: sides[0] * sides[1])[:2]
        known = torch.tensor([[high - high // 4 * (high >= wide), wide] for high, wide in small])
        tiles = 1 + int((_resolution(known, self._config.image_grid_pinpoints) // seen).prod(-1).max())
        sizes = known[torch.arange(count) % len(known)]
        more = {"batch_num_images": torch.tensor([1, count - 1])} if self._shrinks else {}
        return {"image_sizes": sizes, **more, "pixel_values": torch.ones(count, tiles, 3, seen, seen)}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder: while it is traced, on all tiles, with the rows found by arithmetic."""
        import torch

        model = model_of(forward)
        if not torch.compiler.is_exporting():
            return {"image_features": torch.cat(model.get_image_features(**arguments, return_dict=True).pooler_output)}
        tiles, sizes = arguments["pixel_values"], arguments["image_sizes"]
        cut = _cut(arguments["batch_num_images"], sizes.shape[0]) if self._shrinks else None
        states = self._encoded(model.model, tiles.flatten(0, 1))
        found = self._places(sizes, tiles.shape[1], cut)
        valid = found.valid.flatten().nonzero().squeeze(-1)
        corners = [(corner.flatten()[valid], weight) for corner, weight in found.corners]
        tables = [torch.cat([layer.flatten(0, 1), model.model.image_newline[None].to(layer.dtype)]) for layer in states]
        if len(corners) == 1:
            return self._named([table[corners[0][0]] for table in tables])
        (table,) = tables
        parts = [table[corner] * weight.flatten()[valid, None].to(table.dtype) for corner, weight in corners]
        return self._named([sum(parts[1:], parts[0])])

    def _named(self, states: list[Any]) -> dict[str, Any]:
        """Return the outputs by name."""
        return {"image_features": states[0]}

    def _encoded(self, model: PreTrainedModel, tiles: Any) -> list[Any]:
        """Return the features of tiles, [tiles, rows, hidden size], once for each layer that takes some."""
        import torch

        layers = self._config.vision_feature_layer
        hidden_states = model.vision_tower(tiles, output_hidden_states=True, return_dict=True).hidden_states
        states = torch.cat(
            [hidden_states[layer] for layer in ([layers] if isinstance(layers, int) else layers)], dim=-1
        )
        if self._config.vision_feature_select_strategy == "default":
            states = states[:, 1:]
        if states.shape[1] != self._side**2:
            raise UnsupportedError(
                f"the vision encoder of {type(model).__name__} gives {states.shape[1]} states for a tile of "
                f"{self._side} x {self._side} patches: check vision_feature_select_strategy in config.json"
            )
        return [model.multi_modal_projector(states)]

    @property
    def _side(self) -> int:
        """Return how many patches a tile has in a row."""
        seen = self._config.vision_config
        return int(seen.image_size // seen.patch_size)

    def _places(self, sizes: Any, tiles: int, cut: Any) -> _Sources:
        """Find which features make each row that the largest image would have.

        Args:
            sizes: height and width of each image, [images, 2].
            tiles: tiles of each image, padding included.
            cut: which images are cut, [images]; None for all.
        """
        import torch

        side, pinpoints = self._side, self._config.image_grid_pinpoints
        grid = _resolution(sizes, pinpoints) // self._config.vision_config.image_size
        padding, whole = _without_padding(sizes, grid * side)
        shown = self._shrunk(whole) if self._shrinks else whole
        if cut is not None:  # what isn't cut has a row of nothing, and its end
            shown = torch.where(cut[:, None], shown, torch.tensor([1, 0], device=sizes.device))
        number = torch.arange(side**2 + self._most(), device=sizes.device)[None]
        first = torch.arange(sizes.shape[0], device=sizes.device)[:, None] * tiles * side**2
        rows, columns = (part[:, None] for part in shown.unbind(-1))
        later = number - side**2
        row, column = later // (columns + 1), later % (columns + 1)
        end = sizes.shape[0] * tiles * side**2
        corners = []
        for y, x, weight in _corners((row, column), shown, whole) if self._shrinks else [(row, column, None)]:
            y, x = (part + more[:, None] for part, more in zip((y, x), padding.unbind(-1), strict=True))
            tile = 1 + (y // side) * grid[:, 1:] + x // side
            place = torch.where(column == columns, end, first + tile * side**2 + y % side * side + x % side)
            corners.append((torch.where(later < 0, first + number, place), weight))
        return _Sources(corners, row < rows)

    def _most(self) -> int:
        """Return the largest number of features of an image's tiles, ends of rows included."""
        seen, side = self._config.vision_config.image_size, self._side
        grids = [(int(high // seen), int(wide // seen)) for high, wide in self._config.image_grid_pinpoints]
        return max(high * side * (wide * side + 1) for high, wide in grids)

    def _shrunk(self, whole: Any) -> Any:
        """Return the rows and columns of images' features after interpolation, [images, 2].

        `whole` has those before, [images, 2]. Python's `//` on floats, which Transformers takes, is what is left when
        the rest is taken off.
        """
        import torch

        tiles = int(self._config.vision_aspect_ratio.rsplit("_", 1)[-1])
        exact = whole.double()
        ratio = (exact.prod(-1, keepdim=True) / (tiles * self._side**2)).sqrt()
        less = ((exact - torch.fmod(exact, ratio)) / ratio).round().long()
        return torch.where(ratio > _ENOUGH, less, whole)


@dataclass(frozen=True)
class _Sources:
    """Tell which features make each row.

    Attributes:
        corners: indices of features, [images, rows], each with its weight, None for 1.
        valid: which rows an image has, [images, rows].
    """

    corners: list[tuple[Any, Any]]
    valid: Any


def _cut(counts: Any, images: int) -> Any:
    """Return which images are cut in tiles, [images]: those that are the only one of their prompt."""
    import torch

    number = torch.arange(images, device=counts.device)
    return counts[(number[:, None] >= counts.cumsum(0)[None]).sum(-1)] == 1


def _resolution(sizes: Any, pinpoints: list[list[int]]) -> Any:
    """Return the resolution that each image is brought to, [images, 2].

    It is the one that keeps most of the image, of those the smallest, of those the first.
    """
    import torch

    known = torch.tensor(pinpoints, device=sizes.device)
    scale = (known.double()[None] / sizes.double()[:, None]).amin(-1, keepdim=True)
    kept = torch.minimum((sizes[:, None] * scale).long().prod(-1), sizes.prod(-1, keepdim=True))
    area = known.prod(-1)
    rank = (kept * (max(high * wide for high, wide in pinpoints) + 1) - area) * len(pinpoints)
    rank = rank - torch.arange(len(pinpoints), device=sizes.device)
    best = rank == rank.amax(-1, keepdim=True)
    return (best[..., None] * known[None]).sum(1)


def _without_padding(sizes: Any, current: Any) -> tuple[Any, Any]:
    """Return the rows and columns of padding before an image's features, and how many it has, [images, 2] each.

    Args:
        sizes: height and width of each image, [images, 2].
        current: rows and columns of features of its tiles, [images, 2].
    """
    import torch

    (height, width), (rows, columns) = sizes.unbind(-1), current.unbind(-1)
    wider = width * rows > columns * height
    own = torch.stack([height * columns // width, width * rows // height], dim=-1)
    padding = (current - own) // 2 * torch.stack([wider, ~wider], dim=-1)
    return padding, current - 2 * padding


def _corners(place: tuple[Any, Any], shown: Any, whole: Any) -> list[tuple[Any, Any, Any]]:
    """Return the four features that one of an interpolated image is made of: row, column and weight of each.

    Args:
        place: row and column of each feature, [images, rows].
        shown: rows and columns after interpolation, [images, 2].
        whole: rows and columns before, [images, 2].
    """
    import torch

    near, share = [], []
    for axis, number in enumerate(place):
        many, few = whole[:, axis, None], shown[:, axis, None]
        exact = ((number + 0.5) * (many / few.clamp(min=1)) - 0.5).clamp(min=0)
        low = torch.minimum(exact.long(), many - 1)
        near.append((low, torch.minimum(low + 1, many - 1)))
        share.append((1 - (exact - low), exact - low))
    both = (0, 1)
    return [(near[0][i], near[1][j], share[0][i] * share[1][j]) for i in both for j in both]


def _vision_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    return AnyresEncoderOnnxConfig(model.config)


ARCHITECTURES = (
    Architecture(
        ("llava_next", "llava_next_video"),
        encoders={"vision_encoder": _vision_encoder},
        tiny=Tiny({"image_grid_pinpoints": [[64, 128], [128, 64], [128, 128]]}),
    ),
    Architecture((_SHRINKS,), encoders={"vision_encoder": _vision_encoder}),
)
