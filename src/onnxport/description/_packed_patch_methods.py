"""Methods of encoders that loop over images, and the replacement of each while it is traced."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from onnxport.description._patch_positions import PatchPositions, interpolated, resize_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_Method = Callable[..., Any]


def methods_of(model: PreTrainedModel, grids: Any, patches: Any) -> Iterator[tuple[Any, str, _Method]]:
    """Yield a module of the model, the name of its method, and what replaces that.

    Args:
        model: a Transformers model whose encoder takes grids.
        grids: frames, rows and columns of the images that the encoder is given.
        patches: how many patches the encoder is given.
    """
    for module in model.modules():
        for (ending, name, parameter), make in _METHODS.items():
            method = getattr(type(module), name, None)
            if method is None or not re.search(ending + "$", type(module).__name__):
                continue
            if parameter in inspect.signature(method).parameters:
                yield module, name, make(module, PatchPositions.of(grids, patches))


def _embeddings_by_image(module: Any, _: PatchPositions) -> _Method:
    """Look up in which image each patch is: images are of one frame, and lengths of frames aren't known."""

    def forward(embeddings: Any, lengths: Any, image_shapes: Any, h_coords: Any, w_coords: Any) -> Any:
        return type(module).forward(module, embeddings, image_shapes.prod(-1), image_shapes, h_coords, w_coords)

    return forward


def _duplicated_frames(_: Any, __: PatchPositions) -> _Method:
    """Put each image, which has one frame, in the place of a pair of frames."""
    import torch

    def slices(hidden_states: Any, grid_thw: Any) -> Any:
        return torch.cat([hidden_states, hidden_states], dim=-1)

    return slices


def _block_projector(module: Any, places: PatchPositions) -> _Method:
    """Project the patches of all images at once, in the order of blocks."""

    def forward(image_features: Any, image_grid_thw: Any) -> Any:
        side = module.merge_kernel_size[0]
        order = places.block_order(side)
        blocks = module.pre_norm(image_features)[order].reshape(-1, side**2 * image_features.shape[-1])
        return module.linear_2(module.act(module.linear_1(blocks)))

    return forward


def _pixel_unshuffle(_: Any, places: PatchPositions) -> _Method:
    """Make one feature of each block of patches: of those in its middle, as interpolation to half the size does."""

    def pixel_unshuffle(hidden_states: Any, grid_thw: Any, merge_sizes: Any) -> Any:
        side = merge_sizes[places.image]
        starts = (places.within % (side * side) == 0).nonzero()[:, 0]
        side = side[starts]
        before, after = (side - 1) // 2, side // 2
        taps = (starts + row * side + column for row in (before, after) for column in (before, after))
        return sum(hidden_states[tap] for tap in taps) / 4

    return pixel_unshuffle


def _short_convolution(module: Any, places: PatchPositions) -> _Method:
    """Convolve each patch with those around it, which are looked up by their numbers."""

    def forward(hidden_states: Any, grid_thw: Any, **_: Any) -> Any:
        before, after, states = module.in_proj(hidden_states).chunk(3, dim=-1)
        states = before * states
        side = module.spatial_merge_size
        row, column = places.row_and_column(side)
        kernel = module.spatial_conv.weight
        reach = kernel.shape[-1] // 2
        total = 0 if module.spatial_conv.bias is None else module.spatial_conv.bias
        for down in range(-reach, reach + 1):
            for right in range(-reach, reach + 1):
                y, x = row + down, column + right
                inside = (y >= 0) & (y < places.rows) & (x >= 0) & (x < places.columns)
                tap = places.index_of(y, x, side).where(inside, 0)
                share = kernel[:, 0, down + reach, right + reach]
                total = total + states[tap] * inside[:, None] * share
        return module.out_proj(after * total)

    return forward


def _resized_positions(_: Any, places: PatchPositions) -> _Method:
    """Stretch a table of positions over each image, or average where it is larger than the image."""

    def resize_positional_embeddings(positional_embeddings: Any, grid_thw: Any, spatial_merge_size: int) -> Any:
        row, column = places.row_and_column(spatial_merge_size)
        down = resize_weights(row, places.rows, positional_embeddings.shape[0])
        right = resize_weights(column, places.columns, positional_embeddings.shape[1])
        shares = (down[:, :, None] * right[:, None]).flatten(1)
        return shares.to(positional_embeddings.dtype) @ positional_embeddings.flatten(0, 1)

    return resize_positional_embeddings


def _patch_embedding(module: Any, places: PatchPositions) -> _Method:
    """Add positions, interpolated in a table, to the patches of all images at once."""

    def forward(pixel_values: Any, grid_thw: Any) -> Any:
        side, mode = module.position_edge, module.config.interpolate_mode
        images = pixel_values.reshape(-1, module.config.num_channels, module.patch_size, module.patch_size)
        states = module.patch_embedding(images).flatten(1)
        indices, weights = interpolated(places, 1, (side, mode, False, "border"))
        table = module.position_embedding.weight[1:]
        return (states + (table[indices] * weights[:, :, None]).sum(1).to(states.dtype))[None]

    return forward


def _patch_merger(module: Any, places: PatchPositions) -> _Method:
    """Merge blocks of patches, end each row of blocks with a mark, and put each image between two more.

    All states are made at once, each with the number of its place, and sorted by these.
    """
    import torch

    def forward(hidden_states: Any, size: Any) -> Any:
        side = module.spatial_merge_size
        states = module.before_rms(hidden_states)[0][places.block_order(side)]
        images = states.unflatten(0, (-1, side, side)).permute(0, 3, 1, 2)
        blocks = module.mlp(module.proj_out(module.proj_act(module.proj_conv(images))).flatten(1))
        row, column = (which[:: side**2] // side for which in places.row_and_column(side))
        image, across, down = (each[:: side**2] for each in (places.image, places.columns, places.rows))
        across, down = across // side, down // side
        first, last = (column == 0) & (row == 0), (column == across - 1) & (row == down - 1)
        ends = (column == across - 1).nonzero()[:, 0]
        starts = places.first[:: side**2] // side**2 + 2 * image
        starts = starts + _preceding_rows(down, first)
        place = starts + 1 + row * (across + 1) + column
        begins, closes = first.nonzero()[:, 0], last.nonzero()[:, 0]
        marks = [module.mlp(module.image_newline), module.image_begin, module.image_end]
        where = [ends, begins, closes]
        states = torch.cat([blocks, *(mark.expand(at.shape[0], -1) for mark, at in zip(marks, where, strict=True))])
        order = torch.cat([place, place[ends] + 1, place[begins] - 1, place[closes] + 2]).argsort()
        return module.after_rms(states[order][None])

    return forward


def _preceding_rows(down: Any, first: Any) -> Any:
    """Count for each block the rows of blocks in the images before its own."""
    return (down * first).cumsum(0) - down


def _repeated_merger(module: Any, _: PatchPositions) -> _Method:
    """Merge blocks of patches of all images at once, as often as the model does."""
    import torch

    def forward(hidden_states: Any, target_sizes: Any) -> list[Any]:
        side = module.merge_kernel_size[0]
        grids, states = torch.nn.functional.pad(target_sizes, (1, 0), value=1), hidden_states[0]
        for layer in module.mlp:
            order = PatchPositions.of(grids, states.shape[0]).block_order(side)
            states = layer(states[order].reshape(-1, side**2 * states.shape[-1]))
            grids = grids // grids.new_tensor([1, side, side])
        return [states]

    return forward


_METHODS: dict[tuple[str, str, str], Callable[[Any, PatchPositions], _Method]] = {
    ("VisionEmbeddings", "forward", "lengths"): _embeddings_by_image,  # GLM-4V and after
    ("ResamplerModel", "_temporal_slicing", "grid_thw"): _duplicated_frames,  # Ernie 4.5
    ("Projector", "forward", "image_grid_thw"): _block_projector,  # PaddleOCR
    ("VisionModel", "pixel_unshuffle", "merge_sizes"): _pixel_unshuffle,  # VideoLLaMA 3
    ("VisionEmbeddings", "resize_positional_embeddings", "grid_thw"): _resized_positions,  # Cosmos 3 Edge
    ("HunYuanVLVisionPatchEmbed", "forward", "grid_thw"): _patch_embedding,  # Hunyuan
    ("VisionPatchMerger", "forward", "size"): _patch_merger,  # Hunyuan
    ("(?<!Attention)Merger", "forward", "target_sizes"): _repeated_merger,  # MiniCPM
    ("VisionShortConv", "forward", "grid_thw"): _short_convolution,  # LFM 3
}
"""End of a class's name, its method, and a parameter that the method has, to what makes the replacement."""
