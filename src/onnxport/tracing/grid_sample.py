"""Sample grids in float32 where the original runs in 16 bits, as ONNX Runtime and PyTorch on a GPU do.

On CPUs, PyTorch (since 2.6, pull request 134812; 2.13 still) computes coordinates and the offsets of elements in the
type of the image. In float16, positions beyond 2,048 are rounded, and images of more than 32,767 elements between their
ends, such as the values of deformable attention, are read out of bounds: the samples are other numbers in each run, or
NaN. On GPUs it computes in float32 (issue 96429).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import grid_sample
from torch.overrides import TorchFunctionMode


class GridSampleInFloat32(TorchFunctionMode):
    """Let `torch.nn.functional.grid_sample` compute in float32, and round its result to the type of the image."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch."""
        named = kwargs or {}
        return _in_float32(*args, **named) if func is grid_sample else func(*args, **named)


def _in_float32(input: torch.Tensor, grid: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:  # PyTorch's names
    return grid_sample(input.float(), grid.float(), *args, **kwargs).to(input.dtype)
