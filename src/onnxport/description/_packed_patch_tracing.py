"""Replacements of Transformers' functions while a model with packed patches is traced: no loops, no lengths.

Transformers computes positions with Python loops over images, and its attention splits the patches by image, frame or
window at cumulative lengths (`cu_seqlens`). Here positions are arithmetic on patch indices, and segment ids (the index
of each patch's frame or window) replace `cu_seqlens`: patches attend to patches with the same segment id.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxport._transformers_api import pools_frames_by_scattering
from onnxport.description._packed_patch_methods import methods_of
from onnxport.description._patch_positions import PatchPositions, interpolated, windows
from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class PackedPatchTracing:
    """Hold the replacements in a model for its trace.

    It has to be built before the engine replaces attention with its own, which requires images of equal size.

    Args:
        model: a Transformers model whose encoder takes grids.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._attention_forwards = [
            (module, type(module).forward)
            for module in model.modules()
            if "cu_seqlens" in inspect.signature(type(module).forward).parameters
        ]
        self._modules = {sys.modules[type(module).__module__] for module in model.modules()}
        self.model = model

    def at(self, model: PreTrainedModel) -> PackedPatchTracing:
        """Return the replacements for another model of the same class."""
        return type(self)(model)

    @contextmanager
    def replaced(self, grids: Any, num_patches: Any) -> Iterator[None]:
        """Apply the replacements inside the block.

        Args:
            grids: frames, rows and columns of the encoder's images, [images, 3].
            num_patches: number of patches of all images.
        """
        functions = (
            Replacement(module, name, make(num_patches))
            for name, make in _FUNCTIONS.items()
            for module in self._modules
            if hasattr(module, name)
        )
        methods = (Replacement(*found) for found in methods_of(self.model, grids, num_patches))
        with patching(*functions, *self._attention(), *methods), unsplit_features():
            yield

    def _attention(self) -> Iterator[Replacement]:
        """Yield the changes that make attention modules call `_segment_attention`.

        `AttentionInterface.register` can't be undone, so its mapping is replaced instead.
        """
        from transformers import AttentionInterface

        yield Replacement(
            AttentionInterface,
            "_global_mapping",
            {**AttentionInterface._global_mapping, _ATTENTION_NAME: _segment_attention},
        )
        for module, forward in self._attention_forwards:
            yield Replacement(module, "forward", forward.__get__(module))
            if (config := getattr(module, "config", None)) is not None:
                yield Replacement(config, "_attn_implementation_internal", _ATTENTION_NAME)


def _segment_ids(num_patches: Any) -> Callable[..., Any]:
    def get_vision_cu_seqlens(grid_thw: Any, merge_temporal: bool = False, kwargs: Any = None) -> Any:
        positions = PatchPositions.of(grid_thw, num_patches)
        return positions.image if merge_temporal else positions.global_frame(grid_thw)

    return get_vision_cu_seqlens


def _segment_ids_and_length(num_patches: Any) -> Callable[..., Any]:
    segment_ids = _segment_ids(num_patches)

    def get_vision_attention_seqlens(
        grid_thw: Any, config: PreTrainedConfig, merge_temporal: bool = False, kwargs: Any = None
    ) -> Any:
        return segment_ids(grid_thw, merge_temporal), 1

    return get_vision_attention_seqlens


def _max_length(_: Any) -> Callable[..., Any]:
    def get_max_seqlen(*arguments: Any, **named: Any) -> int:
        return 1

    return get_max_seqlen


def _position_ids(num_patches: Any) -> Callable[..., Any]:
    def get_vision_position_ids(
        grid_thw: Any, spatial_merge_size: Any, include_temporal: bool = False, kwargs: Any = None
    ) -> Any:
        import torch

        positions = PatchPositions.of(grid_thw, num_patches)
        side = spatial_merge_size
        row, column = positions.row_and_column(side if isinstance(side, int) else side[positions.image])
        return torch.stack([positions.frame, row, column] if include_temporal else [row, column], dim=-1)

    return get_vision_position_ids


def _window_index(num_patches: Any) -> Callable[..., Any]:
    def get_vision_window_index(
        grid_thw: Any, spatial_merge_size: int, window_size: int, patch_size: int, kwargs: Any = None
    ) -> Any:
        return windows(grid_thw, num_patches, spatial_merge_size, window_size // spatial_merge_size // patch_size)

    return get_vision_window_index


def _interpolated(num_patches: Any) -> Callable[..., Any]:
    def get_vision_interpolation_indices_and_weights(grid_thw: Any, num_grid_per_side: int, **named: Any) -> Any:
        options = {"mode": "bilinear", "align_corners": False, "padding": "border", **named}
        table = (num_grid_per_side, options["mode"], options["align_corners"], options["padding"])
        return interpolated(PatchPositions.of(grid_thw, num_patches), options.get("spatial_merge_size", 1), table)

    return get_vision_interpolation_indices_and_weights


def _pixel_shuffle_index(num_patches: Any) -> Callable[..., Any]:
    def get_vision_pixel_shuffle_index(grid_thw: Any, merge_size: int, kwargs: Any = None) -> Any:
        return PatchPositions.of(grid_thw, num_patches).block_order(merge_size)

    return get_vision_pixel_shuffle_index


def _frame_index(num_patches: Any) -> Callable[..., Any]:
    def get_vision_frame_index(grid_thw: Any, kwargs: Any = None) -> Any:
        positions = PatchPositions.of(grid_thw, num_patches)
        return positions.frame + (grid_thw[:, 0] > 1)[positions.image].to(positions.frame.dtype)

    return get_vision_frame_index


def _temporal_merge_index(num_patches: Any) -> Callable[..., Any]:
    def get_vision_temporal_merge_index(
        grid_thw: Any, kernel_height: int, kernel_width: int, kwargs: Any = None
    ) -> Any:
        import torch

        positions, size = PatchPositions.of(grid_thw, num_patches), kernel_height * kernel_width
        if not pools_frames_by_scattering():
            return positions.block_order(kernel_height).reshape(-1, 1, size)  # images have one frame
        index = positions.index_of(*positions.row_and_column(1), kernel_height)
        return index, torch.ones_like(index, dtype=torch.float32), num_patches // size

    return get_vision_temporal_merge_index


def _nearest_position_ids(num_patches: Any) -> Callable[..., Any]:
    def get_vision_nearest_position_ids(target_sizes: Any, num_patches_per_side: int, kwargs: Any = None) -> Any:
        import torch

        step = 1 / num_patches_per_side
        borders = torch.arange(step, 1.0, step, device=target_sizes.device)
        positions = PatchPositions.of(torch.nn.functional.pad(target_sizes, (1, 0), value=1), num_patches)
        row, column = positions.row_and_column(1)
        relative = (row / positions.rows, column / positions.columns)
        row, column = ((fraction[:, None] >= borders).sum(-1) for fraction in relative)
        return row * num_patches_per_side + column

    return get_vision_nearest_position_ids


def _no_check(_: Any) -> Callable[..., Any]:
    def torch_compilable_check(*arguments: Any, **named: Any) -> None:
        """Check nothing: the checks compare lengths."""

    return torch_compilable_check


_FUNCTIONS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "get_vision_cu_seqlens": _segment_ids,
    "get_vision_attention_seqlens": _segment_ids_and_length,
    "get_max_seqlen": _max_length,
    "get_vision_position_ids": _position_ids,
    "get_vision_window_index": _window_index,
    "get_vision_interpolation_indices_and_weights": _interpolated,
    "get_vision_pixel_shuffle_index": _pixel_shuffle_index,
    "get_vision_nearest_position_ids": _nearest_position_ids,
    "torch_compilable_check": _no_check,
    "get_vision_frame_index": _frame_index,
    "get_vision_temporal_merge_index": _temporal_merge_index,
}
"""Name of a function of Transformers to the factory of its replacement, which takes the number of patches."""


class _UnknownLengths(list[Any]):
    """Replace the result of `tolist()`, whose values aren't known in a trace: one row for all images together."""

    def __init__(self) -> None:
        super().__init__([(None, None, None)])


@contextmanager
def unsplit_features() -> Iterator[None]:
    """Leave features unsplit where a model splits them by `tensor.tolist()`, whose values aren't known in a trace."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensor
    from torch._subclasses.functional_tensor import FunctionalTensor
    from torch.overrides import TorchFunctionMode

    class Unsplit(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            arguments = (*args, *(kwargs or {}).values())
            if any(isinstance(value, _UnknownLengths) for value in arguments):
                return (args[0],)
            return function(*args, **(kwargs or {}))

    classes = (torch.Tensor, FakeTensor, FunctionalTensor)
    with patching(*(Replacement(cls, "tolist", lambda _: _UnknownLengths()) for cls in classes)), Unsplit():
        yield


@contextmanager
def repeats_as_lookups(grids: Any, num_patches: Any) -> Iterator[None]:
    """Replace `repeat_interleave(values, counts)`, which repeats a value per image for its patches, with a lookup.

    Args:
        grids: frames, rows and columns of the encoder's images, [images, 3].
        num_patches: number of patches of all images.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Lookup(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if (
                function is torch.repeat_interleave
                and len(args) == _TENSOR_AND_REPEATS
                and isinstance(args[1], torch.Tensor)
            ):
                return args[0][PatchPositions.of(grids, num_patches).image]
            return function(*args, **(kwargs or {}))

    with Lookup():
        yield


_TENSOR_AND_REPEATS = 2


_ATTENTION_NAME = "onnxport_flash_numbers"
"""Models pass `cu_seqlens` only to an attention implementation with `flash` in its name."""


def _segment_attention(_: Any, query: Any, key: Any, value: Any, **settings: Any) -> tuple[Any, None]:
    """Compute attention among patches with the same segment id; query, key, value: [1, heads, patches, head_size]."""
    import torch

    segment_ids, scale = settings["cu_seq_lens_q"], settings["scaling"]
    if segment_ids.dtype == torch.int32:  # cu_seqlens of Transformers, the boundaries of images
        segment_ids = (torch.arange(query.shape[2], device=segment_ids.device)[:, None] >= segment_ids[None, 1:]).sum(
            -1
        )
    mask = (segment_ids[:, None] == segment_ids[None])[None, None]
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) if groups > 1 else t for t in (key, value))
    outputs = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    return outputs.transpose(1, 2), None
