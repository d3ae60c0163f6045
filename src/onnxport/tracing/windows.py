"""Fixes of the capture for models that attend within windows of a picture (Swin and its relatives), of any size.

They pad a picture to whole windows where they must, and cut it again: whether they must is decided in Python, from the
sizes of the example. The sizes that come out are nested, and comparing them took torch minutes.
"""

from __future__ import annotations

import math
from typing import Any

from onnxport.patching.patch import Patch


class _Shift(int):
    """How far windows are shifted in pictures of several windows; those of one window aren't shifted."""

    def __neg__(self) -> _Shift:
        return _Shift(-int(self))

    def __rmul__(self, direction: int) -> _Shift:
        return _Shift(direction * int(self))

    def __rsub__(self, size: Any) -> Any:
        return size - int(self)


def _flat_division(original: Any) -> Any:
    """Divide sums by as little as can be, and at once.

    (a // b + c) // d is (a + b * c) // (b * d), and (g * a + c) // (g * d) is (a + c // g) // d.
    """

    def divide(cls: Any, base: Any, divisor: Any) -> Any:
        if base.is_Add and divisor.is_Integer and divisor > 0:
            number, rest = base.as_coeff_Add()
            if isinstance(rest, cls) and number.is_Integer and rest.args[1].is_Integer and rest.args[1] > 0:
                return cls(rest.args[0] + rest.args[1] * number, rest.args[1] * divisor)
            common = _common(rest, divisor) if number.is_Integer else 1
            if common > 1:
                return cls((rest / common).expand() + number // common, divisor // common)
        return original(base, divisor)

    return classmethod(divide)


def _common(rest: Any, divisor: Any) -> int:
    """Return what divides a number and all coefficients of a sum of whole numbers."""
    coefficients = [term.as_coeff_Mul()[0] for term in rest.as_ordered_terms() if term.is_integer]
    whole = rest.is_integer and all(number.is_Integer for number in coefficients)
    return math.gcd(int(divisor), *map(int, coefficients)) if whole else 1


def _whole_windows(_: Any) -> Any:
    """Pad to whole windows, by nothing where they are whole."""

    def maybe_pad(self: Any, states: Any, height: Any, width: Any) -> tuple[Any, tuple[int, ...]]:
        padded = _padded(states, (height, width), self.window_size)
        return padded, (0, 0, 0, 1, 0, 1)  # only says that it must be cut

    return maybe_pad


def _whole_pairs(_: Any) -> Any:
    """Pad to an even number of rows and columns, by nothing where they are even."""

    def maybe_pad(self: Any, states: Any, height: Any, width: Any) -> Any:
        return _padded(states, (height, width), 2)

    return maybe_pad


def _padded(states: Any, sizes: tuple[Any, Any], whole: int) -> Any:
    """Pad [batch, height, width, channels] to a multiple of a number."""
    from torch.nn import functional

    below, right = (count * whole - size for count, size in zip(_counts(*sizes, whole), sizes, strict=True))
    return functional.pad(states, (0, 0, 0, right, 0, below))


def _partition(_: Any) -> Any:
    """Part [batch, height, width, channels] into windows of any number."""

    def window_partition(states: Any, window_size: int) -> tuple[Any, tuple[Any, Any]]:
        height, width, channels = states.shape[1:]
        rows, columns = _counts(height, width, window_size)
        padded = _padded(states, (height, width), window_size)
        parted = padded.view(-1, rows, window_size, columns, window_size, channels).transpose(2, 3)
        return parted.reshape(-1, window_size, window_size, channels), (rows * window_size, columns * window_size)

    return window_partition


def _put_together(_: Any) -> Any:
    """Put windows together, and cut what was padded; the size of the picture says how many windows there are."""

    def window_unpartition(windows: Any, window_size: int, _padded: Any, height_width: tuple[Any, Any]) -> Any:
        height, width = height_width
        rows, columns = _counts(height, width, window_size)
        parted = windows.view(-1, rows, columns, window_size, window_size, windows.shape[-1]).transpose(2, 3)
        whole = parted.reshape(-1, rows * window_size, columns * window_size, windows.shape[-1])
        return whole[:, :height, :width].contiguous()

    return window_unpartition


def _counts(height: Any, width: Any, window: int) -> tuple[Any, Any]:
    return (height + window - 1) // window, (width + window - 1) // window


def _shift_by_size(_: Any) -> Any:
    """Leave to the graph whether a picture is of one window."""

    def set_shift_and_window_size(self: Any, input_resolution: Any) -> None:
        self.shift_size = _Shift(self.shift_size)

    return set_shift_and_window_size


def _mask_by_size(original: Any) -> Any:
    """Mask what a shift brought together, in pictures of several windows."""

    def get_attn_mask(self: Any, height: Any, width: Any, dtype: Any, device: Any) -> Any:
        mask = original(self, height, width, dtype=dtype, device=device)
        several = isinstance(self.shift_size, _Shift) and mask is not None
        return mask * _several(mask, height, width, self.shift_size).to(dtype) if several else mask

    return get_attn_mask


def _several(like: Any, height: Any, width: Any, shift: int) -> Any:
    """Say whether there are several windows in both directions: a shift is half a window, sizes are whole windows."""
    import torch

    most = 2 * abs(shift) + 1
    rows, columns = (torch.scalar_tensor(size, dtype=torch.int64, device=like.device) for size in (height, width))
    return (rows > most) & (columns > most)


class _Rolling:
    """Be the module torch, but for how a picture is rolled by a shift that depends on its size."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def roll(self, image: Any, shifts: Any, dims: Any) -> Any:
        """Roll pictures of several windows."""
        if not isinstance(shifts[0], _Shift):
            return self._original.roll(image, shifts=shifts, dims=dims)
        torch = self._original
        several = _several(image, image.shape[1], image.shape[2], shifts[0]).long()
        for axis, shift in zip(dims, shifts, strict=True):
            size = torch.scalar_tensor(image.shape[axis], dtype=torch.int64, device=image.device)
            place = torch.arange(image.shape[axis], device=image.device) - int(shift) * several
            image = image.index_select(axis, torch.remainder(place, size))
        return image


_SWIN = {
    "swin.modeling_swin": "Swin",
    "donut.modeling_donut_swin": "DonutSwin",
    "clap.modeling_clap": "ClapAudio",
    "maskformer.modeling_maskformer_swin": "MaskFormerSwin",
    "swinv2.modeling_swinv2": "Swinv2",
    "swin2sr.modeling_swin2sr": "Swin2SR",
}
"""Modules to what the names of their classes begin with."""
_BY_SIZE = ("Swin", "DonutSwin", "ClapAudio")
"""Those that don't shift the windows of a picture of one window."""
_ANY = "whether it is padded to whole windows, and cut again, is decided by the size of the example"


def _patches_of(module: str, name: str) -> tuple[Patch, ...]:
    module = f"transformers.models.{module}"
    padding = (
        Patch(f"{module}:{name}Layer.maybe_pad", _whole_windows, _ANY, "Transformers pads and cuts in any case"),
        Patch(f"{module}:{name}PatchMerging.maybe_pad", _whole_pairs, _ANY, "Transformers pads in any case"),
    )
    if name not in _BY_SIZE:
        return padding
    reason = "whether windows are shifted is decided by the size of the example, and kept in the model"
    until = "Transformers decides it from values"
    return (
        *padding,
        Patch(f"{module}:{name}Layer.set_shift_and_window_size", _shift_by_size, reason, until),
        Patch(f"{module}:{name}Layer.get_attn_mask", _mask_by_size, reason, until),
        Patch(f"{module}:torch", _Rolling, reason, until),
    )


DIVISIONS = (
    Patch(
        "torch.utils._sympy.functions:FloorDiv.eval",
        _flat_division,
        "sizes that are halved again and again are nested so deep that comparing them takes minutes (Swin, SAM 2)",
        "torch flattens them",
    ),
)
_PLAIN = ("sam2", "sam3", "vitdet")
"""Models that part a picture into windows with functions of their own, and put it together again."""
WINDOWS: tuple[Patch, ...] = (
    *(patch for module, name in _SWIN.items() for patch in _patches_of(module, name)),
    *(
        Patch(
            f"transformers.models.{name}.modeling_{name}:{function}",
            make,
            "how many windows there are is a remainder of a remainder, which takes minutes to compare with itself",
            "Transformers divides, and rounds up",
        )
        for name in _PLAIN
        for function, make in (("window_partition", _partition), ("window_unpartition", _put_together))
    ),
)
"""For models that may not be imported."""
