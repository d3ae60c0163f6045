"""Windowed attention on images of any size, for the patches of Swin and its relatives, SAM 2, SAM 3 and ViTDet.

Transformers pads an image to whole windows where its size isn't a multiple, and crops it again. Python decides that
from the sizes of the example. In SAM and ViTDet, torch.export compares nested remainders of sizes, which takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from onnxport.patching.patch import EAGER, SLOW, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.swin.modeling_swin import SwinLayer, SwinPatchMerging

    Size = int | torch.SymInt

_ANY = "whether the image is padded to whole windows, and cropped again, is decided by the example's size"


class _Shift(int):
    """Shift of the windows of images of several windows; those of one window aren't shifted."""

    def __neg__(self) -> _Shift:
        return _Shift(-int(self))

    def __rmul__(self, direction: int) -> _Shift:
        return _Shift(direction * int(self))

    def __rsub__(self, size: Size) -> Size:  # type: ignore[misc, override]  # of symbolic sizes, too
        return size - int(self)


def swin_patches(module: str, prefix: str, *, shift_by_size: bool = False) -> tuple[Patch, ...]:
    """Return the patches of a Swin.

    Args:
        module: its modeling file.
        prefix: what its class names begin with.
        shift_by_size: whether it leaves the shift out for images of one window.
    """
    padding = (
        Patch(f"{module}:{prefix}Layer.maybe_pad", _whole_windows, _ANY, EAGER, "Transformers always pads and crops"),
        Patch(f"{module}:{prefix}PatchMerging.maybe_pad", _even_sizes, _ANY, EAGER, "Transformers always pads"),
    )
    if not shift_by_size:
        return padding
    reason = "whether windows are shifted is decided by the example's size, and kept in the module"
    until = "Transformers computes the shift with tensors"
    return (
        *padding,
        Patch(f"{module}:{prefix}Layer.set_shift_and_window_size", _keep_shift, reason, EAGER, until),
        Patch(f"{module}:{prefix}Layer.get_attn_mask", _mask_by_size, reason, EAGER, until),
        Patch(f"{module}:torch", _Rolling, reason, EAGER, until),
    )


def partition_patches(module: str) -> tuple[Patch, ...]:
    """Return the patches of a model with functions that cut an image into windows and join them again.

    Args:
        module: its modeling file.
    """
    return tuple(
        Patch(
            f"{module}:{function}",
            make,
            "the number of windows is a nested remainder, which torch.export takes minutes to compare with itself",
            SLOW,
            "Transformers divides and rounds up",
        )
        for function, make in (("window_partition", _partition), ("window_unpartition", _unpartition))
    )


def _whole_windows(_: object) -> Callable[..., Any]:
    """Pad to whole windows, by nothing where they are whole."""

    def maybe_pad(
        self: SwinLayer, hidden_states: torch.Tensor, height: Size, width: Size
    ) -> tuple[torch.Tensor, tuple[int, ...]]:
        padded = _padded(hidden_states, (height, width), self.window_size)
        return padded, (0, 0, 0, 1, 0, 1)  # the caller only tests whether any is above zero, and crops

    return maybe_pad


def _even_sizes(_: object) -> Callable[..., torch.Tensor]:
    """Pad to an even number of rows and columns, by nothing where they are even."""

    def maybe_pad(self: SwinPatchMerging, hidden_states: torch.Tensor, height: Size, width: Size) -> torch.Tensor:
        return _padded(hidden_states, (height, width), 2)

    return maybe_pad


def _padded(hidden_states: torch.Tensor, sizes: tuple[Size, Size], whole: int) -> torch.Tensor:
    """Pad [batch, height, width, channels] to multiples of `whole`."""
    from torch.nn import functional

    below, right = (count * whole - size for count, size in zip(_counts(*sizes, whole), sizes, strict=True))
    return functional.pad(hidden_states, (0, 0, 0, right, 0, below))  # type: ignore[arg-type]  # symbolic sizes are integers


def _partition(_: object) -> Callable[..., Any]:
    """Cut [batch, height, width, channels] into windows, however many."""

    def window_partition(hidden_states: torch.Tensor, window_size: int) -> tuple[torch.Tensor, tuple[Size, Size]]:
        height, width, channels = hidden_states.shape[1:]
        rows, columns = _counts(height, width, window_size)
        padded = _padded(hidden_states, (height, width), window_size)
        windows = padded.view(-1, rows, window_size, columns, window_size, channels).transpose(2, 3)
        return windows.reshape(-1, window_size, window_size, channels), (rows * window_size, columns * window_size)

    return window_partition


def _unpartition(_: object) -> Callable[..., torch.Tensor]:
    """Join windows, and crop the padding; the image's size gives the number of windows."""

    def window_unpartition(
        windows: torch.Tensor, window_size: int, _padded: tuple[Size, Size], height_width: tuple[Size, Size]
    ) -> torch.Tensor:
        height, width = height_width
        rows, columns = _counts(height, width, window_size)
        joined = windows.view(-1, rows, columns, window_size, window_size, windows.shape[-1]).transpose(2, 3)
        whole = joined.reshape(-1, rows * window_size, columns * window_size, windows.shape[-1])
        return whole[:, :height, :width].contiguous()

    return window_unpartition


def _counts(height: Size, width: Size, window: int) -> tuple[Size, Size]:
    return (height + window - 1) // window, (width + window - 1) // window


def _keep_shift(_: object) -> Callable[..., None]:
    """Leave to the graph whether an image has one window only."""

    def set_shift_and_window_size(self: SwinLayer, input_resolution: tuple[Size, Size]) -> None:
        self.shift_size = _Shift(self.shift_size)

    return set_shift_and_window_size


def _mask_by_size(original: Callable[..., torch.Tensor | None]) -> Callable[..., torch.Tensor | None]:
    """Mask positions that a shift moved next to each other, in images of several windows."""

    def get_attn_mask(
        self: SwinLayer, height: Size, width: Size, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor | None:
        mask = original(self, height, width, dtype=dtype, device=device)
        if mask is None or not isinstance(self.shift_size, _Shift):
            return mask
        return mask * _is_shifted(mask, height, width, self.shift_size).to(dtype)

    return get_attn_mask


def _is_shifted(like: torch.Tensor, height: Size, width: Size, shift: int) -> torch.Tensor:
    """Return whether there are several windows in both directions; a shift is half a window."""
    import torch

    most = 2 * abs(shift) + 1
    make = partial(torch.scalar_tensor, dtype=torch.int64, device=like.device)
    rows, columns = make(height), make(width)  # type: ignore[arg-type]  # symbolic sizes are scalars
    return (rows > most) & (columns > most)


class _Rolling:
    """The module torch, with a `roll` by a shift that depends on the image's size."""

    def __init__(self, original: ModuleType) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def roll(self, image: torch.Tensor, shifts: tuple[int, int], dims: tuple[int, int]) -> torch.Tensor:
        """Roll images of several windows."""
        if not isinstance(shifts[0], _Shift):
            return self._original.roll(image, shifts=shifts, dims=dims)
        torch = self._original
        shifted = _is_shifted(image, image.shape[1], image.shape[2], shifts[0]).long()
        for axis, shift in zip(dims, shifts, strict=True):
            size = torch.scalar_tensor(image.shape[axis], dtype=torch.int64, device=image.device)
            position = torch.arange(image.shape[axis], device=image.device) - int(shift) * shifted
            image = image.index_select(axis, torch.remainder(position, size))
        return image
