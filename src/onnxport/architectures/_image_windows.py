"""Windowed attention on images of any size, for the patches of Swin variants, SAM 2, SAM 3 and ViTDet.

Transformers pads an image whose size isn't a multiple of the window size, and crops it again. Python branches on that
with the example's size. In SAM and ViTDet, torch.export compares nested remainders of sizes, which takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from onnxport.patching.patch import EAGER, SLOW, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.swin.modeling_swin import SwinLayer, SwinPatchEmbeddings, SwinPatchMerging

    Size = int | torch.SymInt

_PADDED_BY_SIZE = "padding to a multiple of the window size, and cropping, is specialized to the example's size"


class _Shift(int):
    """A window shift that applies only to images with several windows."""

    def __neg__(self) -> _Shift:
        return _Shift(-int(self))

    def __rmul__(self, direction: int) -> _Shift:
        return _Shift(direction * int(self))

    def __rsub__(self, size: Size) -> Size:  # type: ignore[misc, override]  # sizes may be symbolic
        return size - int(self)


def swin_patches(module: str, prefix: str, *, shift_by_size: bool = False) -> tuple[Patch, ...]:
    """Return the patches of a Swin variant.

    Args:
        module: name of its modeling module.
        prefix: prefix of its class names.
        shift_by_size: whether the model doesn't shift the windows of images with a single window.
    """
    padding = (
        Patch(
            f"{module}:{prefix}Layer.maybe_pad",
            _pad_to_windows,
            _PADDED_BY_SIZE,
            EAGER,
            "Transformers always pads and crops",
        ),
        Patch(
            f"{module}:{prefix}PatchMerging.maybe_pad", _pad_to_even, _PADDED_BY_SIZE, EAGER, "Transformers always pads"
        ),
    )
    if not shift_by_size:
        return padding
    reason = "whether windows are shifted is specialized to the example's size, and stored in the module"
    until = "Transformers computes the shift with tensors"
    return (
        *padding,
        Patch(f"{module}:{prefix}Layer.set_shift_and_window_size", _mark_shift, reason, EAGER, until),
        Patch(f"{module}:{prefix}Layer.get_attn_mask", _mask_by_size, reason, EAGER, until),
        Patch(f"{module}:torch", _TorchWithRoll, reason, EAGER, until),
    )


def patch_padding(module: str, prefix: str) -> Patch:
    """Return the patch of a model that pads images to a multiple of the patch size.

    Args:
        module: name of its modeling module.
        prefix: prefix of its class names.
    """
    return Patch(
        f"{module}:{prefix}PatchEmbeddings.maybe_pad",
        _pad_to_patches,
        "padding to a multiple of the patch size is specialized to the example's size",
        EAGER,
        "Transformers always pads",
    )


def partition_patches(module: str) -> tuple[Patch, ...]:
    """Return the patches of a model with functions that partition an image into windows and join them again.

    Args:
        module: name of its modeling module.
    """
    return tuple(
        Patch(
            f"{module}:{function}",
            make,
            "the number of windows is a nested remainder, which torch.export takes minutes to compare with itself",
            SLOW,
            "Transformers computes the number of windows with a ceiling division",
        )
        for function, make in (("window_partition", _partition), ("window_unpartition", _unpartition))
    )


def _pad_to_windows(_: object) -> Callable[..., Any]:
    """Pad to a multiple of the window size, possibly by zero."""

    def maybe_pad(
        self: SwinLayer, hidden_states: torch.Tensor, height: Size, width: Size
    ) -> tuple[torch.Tensor, tuple[int, ...]]:
        padded = _padded(hidden_states, (height, width), self.window_size)
        return padded, (0, 0, 0, 1, 0, 1)  # the caller only checks whether any padding is positive, and crops

    return maybe_pad


def _pad_to_even(_: object) -> Callable[..., torch.Tensor]:
    """Pad to an even number of rows and columns, possibly by zero."""

    def maybe_pad(self: SwinPatchMerging, hidden_states: torch.Tensor, height: Size, width: Size) -> torch.Tensor:
        return _padded(hidden_states, (height, width), 2)

    return maybe_pad


def _pad_to_patches(_: object) -> Callable[..., torch.Tensor]:
    """Pad images, [batch, channels, height, width], to a multiple of the patch size, possibly by zero."""

    def maybe_pad(self: SwinPatchEmbeddings, pixel_values: torch.Tensor, height: Size, width: Size) -> torch.Tensor:
        from torch.nn import functional

        rows, columns = self.patch_size
        bottom = (height + rows - 1) // rows * rows - height
        right = (width + columns - 1) // columns * columns - width
        return functional.pad(pixel_values, (0, right, 0, bottom))  # type: ignore[arg-type]  # see above

    return maybe_pad


def _padded(hidden_states: torch.Tensor, sizes: tuple[Size, Size], multiple: int) -> torch.Tensor:
    """Pad [batch, height, width, channels] to multiples of a size."""
    from torch.nn import functional

    counts = _window_counts(*sizes, multiple)
    bottom, right = (count * multiple - size for count, size in zip(counts, sizes, strict=True))
    return functional.pad(hidden_states, (0, 0, 0, right, 0, bottom))  # type: ignore[arg-type]  # symbolic sizes are integers


def _partition(_: object) -> Callable[..., Any]:
    """Partition [batch, height, width, channels] into any number of windows."""

    def window_partition(hidden_states: torch.Tensor, window_size: int) -> tuple[torch.Tensor, tuple[Size, Size]]:
        height, width, channels = hidden_states.shape[1:]
        rows, columns = _window_counts(height, width, window_size)
        padded = _padded(hidden_states, (height, width), window_size)
        windows = padded.view(-1, rows, window_size, columns, window_size, channels).transpose(2, 3)
        return windows.reshape(-1, window_size, window_size, channels), (rows * window_size, columns * window_size)

    return window_partition


def _unpartition(_: object) -> Callable[..., torch.Tensor]:
    """Join windows, and crop the padding; the number of windows follows from the image size."""

    def window_unpartition(
        windows: torch.Tensor, window_size: int, _padded: tuple[Size, Size], height_width: tuple[Size, Size]
    ) -> torch.Tensor:
        height, width = height_width
        rows, columns = _window_counts(height, width, window_size)
        joined = windows.view(-1, rows, columns, window_size, window_size, windows.shape[-1]).transpose(2, 3)
        padded = joined.reshape(-1, rows * window_size, columns * window_size, windows.shape[-1])
        return padded[:, :height, :width].contiguous()

    return window_unpartition


def _window_counts(height: Size, width: Size, window: int) -> tuple[Size, Size]:
    return (height + window - 1) // window, (width + window - 1) // window


def _mark_shift(_: object) -> Callable[..., None]:
    """Let the graph determine whether an image has a single window."""

    def set_shift_and_window_size(self: SwinLayer, input_resolution: tuple[Size, Size]) -> None:
        self.shift_size = _Shift(self.shift_size)

    return set_shift_and_window_size


def _mask_by_size(original: Callable[..., torch.Tensor | None]) -> Callable[..., torch.Tensor | None]:
    """Mask attention between positions that a shift made adjacent, in images with several windows."""

    def get_attn_mask(
        self: SwinLayer, height: Size, width: Size, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor | None:
        mask = original(self, height, width, dtype=dtype, device=device)
        if mask is None or not isinstance(self.shift_size, _Shift):
            return mask
        return mask * _is_shifted(mask, height, width, self.shift_size).to(dtype)

    return get_attn_mask


def _is_shifted(like: torch.Tensor, height: Size, width: Size, shift: int) -> torch.Tensor:
    """Return whether there are several windows along both axes; a shift is half a window size."""
    import torch

    max_window_size = 2 * abs(shift) + 1
    scalar = partial(torch.scalar_tensor, dtype=torch.int64, device=like.device)
    rows, columns = scalar(height), scalar(width)  # type: ignore[arg-type]  # symbolic sizes are scalars
    return (rows > max_window_size) & (columns > max_window_size)


class _TorchWithRoll:
    """The module torch, with a `roll` whose shift depends on the image size."""

    def __init__(self, original: ModuleType) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def roll(self, image: torch.Tensor, shifts: tuple[int, int], dims: tuple[int, int]) -> torch.Tensor:
        """Roll images with several windows."""
        if not isinstance(shifts[0], _Shift):
            return self._original.roll(image, shifts=shifts, dims=dims)
        torch = self._original
        shifted = _is_shifted(image, image.shape[1], image.shape[2], shifts[0]).long()
        for axis, shift in zip(dims, shifts, strict=True):
            size = torch.scalar_tensor(image.shape[axis], dtype=torch.int64, device=image.device)
            position = torch.arange(image.shape[axis], device=image.device) - int(shift) * shifted
            image = image.index_select(axis, torch.remainder(position, size))
        return image
