"""Methods of encoders that loop over pictures in a way of their own, and what stands in for each while it is traced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from onnxport.configs._places import Places

_Method = Callable[..., Any]


def methods_of(model: Any, grids: Any, patches: Any) -> Iterator[tuple[Any, str, _Method]]:
    """Yield a module of the model, the name of its method, and what replaces that.

    Args:
        model: a Transformers model whose encoder takes grids.
        grids: frames, rows and columns of the pictures that the encoder is given.
        patches: how many patches the encoder is given.
    """
    for module in model.modules():
        for (ending, name, parameter), make in _METHODS.items():
            method = getattr(type(module), name, None)
            if method is None or not type(module).__name__.endswith(ending):
                continue
            if parameter in inspect.signature(method).parameters:
                yield module, name, make(module, Places.of(grids, patches))


def _with_lengths_of_pictures(module: Any, _: Places) -> _Method:
    """Look up in which picture each patch is: pictures are of one frame, and lengths of frames aren't known."""

    def forward(embeddings: Any, lengths: Any, image_shapes: Any, h_coords: Any, w_coords: Any) -> Any:
        return type(module).forward(module, embeddings, image_shapes.prod(-1), image_shapes, h_coords, w_coords)

    return forward


def _without_videos(_: Any, __: Places) -> _Method:
    """Put each picture, which has one frame, in the place of a pair of frames."""
    import torch

    def slices(hidden_states: Any, grid_thw: Any) -> Any:
        return torch.cat([hidden_states, hidden_states], dim=-1)

    return slices


def _projected_in_blocks(module: Any, places: Places) -> _Method:
    """Project the patches of all pictures at once, in the order of blocks."""

    def forward(image_features: Any, image_grid_thw: Any) -> Any:
        side = module.merge_kernel_size[0]
        order = places.rank_of_block(side)
        blocks = module.pre_norm(image_features)[order].reshape(-1, side**2 * image_features.shape[-1])
        return module.linear_2(module.act(module.linear_1(blocks)))

    return forward


def _shrunk(_: Any, places: Places) -> _Method:
    """Make one state of each block of patches: of those at its middle, which is what half a picture's size makes."""

    def pixel_unshuffle(hidden_states: Any, grid_thw: Any, merge_sizes: Any) -> Any:
        side = merge_sizes[places.picture]
        starts = (places.within % (side * side) == 0).nonzero()[:, 0]
        side = side[starts]
        before, after = (side - 1) // 2, side // 2
        taps = (starts + row * side + column for row in (before, after) for column in (before, after))
        return sum(hidden_states[tap] for tap in taps) / 4

    return pixel_unshuffle


def _convolved(module: Any, places: Places) -> _Method:
    """Convolve each patch with those around it, which are looked up by their numbers."""

    def forward(hidden_states: Any, grid_thw: Any, **_: Any) -> Any:
        before, after, states = module.in_proj(hidden_states).chunk(3, dim=-1)
        states = before * states
        side = module.spatial_merge_size
        row, column = places.in_blocks(side)
        kernel = module.spatial_conv.weight
        reach = kernel.shape[-1] // 2
        total = 0 if module.spatial_conv.bias is None else module.spatial_conv.bias
        for down in range(-reach, reach + 1):
            for right in range(-reach, reach + 1):
                y, x = row + down, column + right
                inside = (y >= 0) & (y < places.rows) & (x >= 0) & (x < places.columns)
                tap = places.number_of(y, x, side).where(inside, 0)
                share = kernel[:, 0, down + reach, right + reach]
                total = total + states[tap] * inside[:, None] * share
        return module.out_proj(after * total)

    return forward


_METHODS: dict[tuple[str, str, str], Callable[[Any, Places], _Method]] = {
    ("VisionEmbeddings", "forward", "lengths"): _with_lengths_of_pictures,  # GLM-4V and after
    ("ResamplerModel", "_temporal_slicing", "grid_thw"): _without_videos,  # Ernie 4.5
    ("Projector", "forward", "image_grid_thw"): _projected_in_blocks,  # PaddleOCR
    ("VisionModel", "pixel_unshuffle", "merge_sizes"): _shrunk,  # VideoLLaMA 3
    ("VisionShortConv", "forward", "grid_thw"): _convolved,  # LFM 3
}
"""End of a class's name, its method, and a parameter that the method has, to what makes the replacement."""
