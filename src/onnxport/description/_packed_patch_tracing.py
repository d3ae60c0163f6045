"""What stands in for Transformers' own while a model that takes grids is traced: no loops, no lengths.

Its functions find positions with Python loops over the images, and attention cuts the patches up by image, frame
or window. Here positions are arithmetic on the number of each patch, instead of where frames begin attention is given
the number of each patch's frame or window, and lets patches of the same number see each other.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxport.description._packed_patch_methods import methods_of
from onnxport.description._patch_positions import PatchPositions, interpolated, windows
from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class PackedPatchTracing:
    """Know what is replaced in a model while it is traced.

    Made before the engine replaces attention with its own, which wants equal images.

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
        """Return the same for another model of the class."""
        return type(self)(model)

    @contextmanager
    def replaced(self, grids: Any, patches: Any) -> Iterator[None]:
        """Trace with replacements inside the block.

        Args:
            grids: frames, rows and columns of the images that the encoder is given.
            patches: how many patches the encoder is given.
        """
        functions = (
            Replacement(file, name, make(patches))
            for name, make in _FUNCTIONS.items()
            for file in self._modules
            if hasattr(file, name)
        )
        methods = (Replacement(*found) for found in methods_of(self.model, grids, patches))
        with patching(*functions, *self._attention(), *methods), unsplit_features():
            yield

    def _attention(self) -> Iterator[Replacement]:
        """Yield the changes by which attention modules call `_segment_attention`; registering it otherwise lasts."""
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


def _segment_ids(patches: Any) -> Callable[..., Any]:
    def get_vision_cu_seqlens(grid_thw: Any, merge_temporal: bool = False, kwargs: Any = None) -> Any:
        places = PatchPositions.of(grid_thw, patches)
        return places.image if merge_temporal else places.global_frame(grid_thw)

    return get_vision_cu_seqlens


def _segment_ids_and_length(patches: Any) -> Callable[..., Any]:
    numbers = _segment_ids(patches)

    def get_vision_attention_seqlens(
        grid_thw: Any, config: PreTrainedConfig, merge_temporal: bool = False, kwargs: Any = None
    ) -> Any:
        return numbers(grid_thw, merge_temporal), 1

    return get_vision_attention_seqlens


def _max_length(_: Any) -> Callable[..., Any]:
    def get_max_seqlen(*arguments: Any, **named: Any) -> int:
        return 1

    return get_max_seqlen


def _position_ids(patches: Any) -> Callable[..., Any]:
    def get_vision_position_ids(
        grid_thw: Any, spatial_merge_size: Any, include_temporal: bool = False, kwargs: Any = None
    ) -> Any:
        import torch

        places = PatchPositions.of(grid_thw, patches)
        side = spatial_merge_size
        row, column = places.row_and_column(side if isinstance(side, int) else side[places.image])
        return torch.stack([places.frame, row, column] if include_temporal else [row, column], dim=-1)

    return get_vision_position_ids


def _window_index(patches: Any) -> Callable[..., Any]:
    def get_vision_window_index(
        grid_thw: Any, spatial_merge_size: int, window_size: int, patch_size: int, kwargs: Any = None
    ) -> Any:
        return windows(grid_thw, patches, spatial_merge_size, window_size // spatial_merge_size // patch_size)

    return get_vision_window_index


def _interpolated(patches: Any) -> Callable[..., Any]:
    def get_vision_interpolation_indices_and_weights(grid_thw: Any, num_grid_per_side: int, **named: Any) -> Any:
        given = {"mode": "bilinear", "align_corners": False, "padding": "border", **named}
        how = (num_grid_per_side, given["mode"], given["align_corners"], given["padding"])
        return interpolated(PatchPositions.of(grid_thw, patches), given.get("spatial_merge_size", 1), how)

    return get_vision_interpolation_indices_and_weights


def _pixel_shuffle_index(patches: Any) -> Callable[..., Any]:
    def get_vision_pixel_shuffle_index(grid_thw: Any, merge_size: int, kwargs: Any = None) -> Any:
        return PatchPositions.of(grid_thw, patches).block_order(merge_size)

    return get_vision_pixel_shuffle_index


def _frame_index(patches: Any) -> Callable[..., Any]:
    def get_vision_frame_index(grid_thw: Any, kwargs: Any = None) -> Any:
        places = PatchPositions.of(grid_thw, patches)
        return places.frame + (grid_thw[:, 0] > 1)[places.image].to(places.frame.dtype)

    return get_vision_frame_index


def _temporal_merge_index(patches: Any) -> Callable[..., Any]:
    def get_vision_temporal_merge_index(
        grid_thw: Any, kernel_height: int, kernel_width: int, kwargs: Any = None
    ) -> Any:
        order = PatchPositions.of(grid_thw, patches).block_order(kernel_height)
        return order.reshape(-1, 1, kernel_height * kernel_width)  # images have one frame

    return get_vision_temporal_merge_index


def _nearest_position_ids(patches: Any) -> Callable[..., Any]:
    def get_vision_nearest_position_ids(target_sizes: Any, num_patches_per_side: int, kwargs: Any = None) -> Any:
        import torch

        step = 1 / num_patches_per_side
        borders = torch.arange(step, 1.0, step, device=target_sizes.device)
        places = PatchPositions.of(torch.nn.functional.pad(target_sizes, (1, 0), value=1), patches)
        row, column = places.row_and_column(1)
        down, right = ((share[:, None] >= borders).sum(-1) for share in (row / places.rows, column / places.columns))
        return down * num_patches_per_side + right

    return get_vision_nearest_position_ids


def _no_check(_: Any) -> Callable[..., Any]:
    def torch_compilable_check(*arguments: Any, **named: Any) -> None:
        """Leave out what checks lengths."""

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
"""Name of a function of Transformers to what makes its replacement from the number of patches."""


class _UnknownLengths(list[Any]):
    """Stand in for numbers that aren't known while a model is traced: one row of them, for all images at once."""

    def __init__(self) -> None:
        super().__init__([(None, None, None)])


@contextmanager
def unsplit_features() -> Iterator[None]:
    """Leave states whole that are split by lengths which a tensor holds: nobody knows them while a model is traced."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensor
    from torch._subclasses.functional_tensor import FunctionalTensor
    from torch.overrides import TorchFunctionMode

    class Unsplit(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = (*args, *(kwargs or {}).values())
            if any(isinstance(value, _UnknownLengths) for value in given):
                return (args[0],)
            return function(*args, **(kwargs or {}))

    classes = (torch.Tensor, FakeTensor, FunctionalTensor)
    with patching(*(Replacement(kind, "tolist", lambda _: _UnknownLengths()) for kind in classes)), Unsplit():
        yield


@contextmanager
def repeats_as_lookups(grids: Any, patches: Any) -> Iterator[None]:
    """Look up what each patch's image has, where it is repeated for as many patches as the image has.

    Args:
        grids: frames, rows and columns of the images that the encoder is given.
        patches: how many patches the encoder is given.
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
                return args[0][PatchPositions.of(grids, patches).image]
            return function(*args, **(kwargs or {}))

    with Lookup():
        yield


_TENSOR_AND_REPEATS = 2


_ATTENTION_NAME = "onnxport_flash_numbers"
"""Models hand lengths of sequences only to an attention that has `flash` in its name."""


def _segment_attention(_: Any, query: Any, key: Any, value: Any, **settings: Any) -> tuple[Any, None]:
    """Let patches of the same number see each other; [1, heads, patches, size] each."""
    import torch

    numbers, scale = settings["cu_seq_lens_q"], settings["scaling"]
    if numbers.dtype == torch.int32:  # not ours, but where images begin
        numbers = (torch.arange(query.shape[2], device=numbers.device)[:, None] >= numbers[None, 1:]).sum(-1)
    mask = (numbers[:, None] == numbers[None])[None, None]
    more = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(more, dim=1) if more > 1 else states for states in (key, value))
    outputs = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    return outputs.transpose(1, 2), None
