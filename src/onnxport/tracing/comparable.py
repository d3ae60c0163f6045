"""Let an original compute what its graph does: constants for random numbers, and samples of grids in float32.

PyTorch and ONNX Runtime draw different numbers. What is computed of a number that is neither 0 nor 1 shows whether the
graph scales and adds it as the model does; its distribution isn't compared. `runtime.exact` does the same to the graph.

On CPUs, PyTorch's `grid_sample` (since 2.6, pull request 134812; 2.13 still) computes coordinates and the offsets of
elements in the type of the image. In float16, positions beyond 2,048 are rounded, and images of more than 32,767
elements between their ends, such as the values of deformable attention, are read out of bounds: the samples are other
numbers in each run, or NaN. ONNX Runtime and PyTorch on a GPU (issue 96429) compute in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import grid_sample
from torch.overrides import TorchFunctionMode

from onnxport.description.tolerances import DRAWN

_DRAWS = frozenset({torch.randn, torch.randn_like, torch.rand, torch.rand_like})


class ComparableFunctions(TorchFunctionMode):
    """Let PyTorch draw constants, except from a generator (example inputs), and sample grids in float32.

    Standard normal and uniform numbers are `DRAWN`; of a multinomial distribution, the first categories that aren't
    impossible are drawn, each at most once, as the patches of models that select samples take them. The samples of a
    grid are rounded to the type of the image.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch, and fill what it draws."""
        named = dict(kwargs or {})
        if func is grid_sample:
            return _in_float32(*args, **named)
        result = func(*args, **named)
        if named.get("generator") is not None:
            return result
        if func is torch.multinomial:
            possible = (args[0] > 0).long().argsort(dim=-1, descending=True, stable=True)
            return possible[..., : result.shape[-1]]
        return result.fill_(DRAWN) if func in _DRAWS else result


def _in_float32(input: torch.Tensor, grid: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:  # PyTorch's names
    return grid_sample(input.float(), grid.float(), *args, **kwargs).to(input.dtype)
