"""How much the original's own outputs change with rounding, for outputs that are outside the tolerance.

A tolerance relative to the largest value holds where an output changes little with what is rounded. It doesn't where a
layer chooses or divides by what is nearly 0: near a tie of a router, another expert computes, so that a graph and its
original differ by as much as each changes with its own rounding, and neither is wrong (a tiny GPT-OSS: 0.5 of 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from onnxport.description.tolerances import Tolerance

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tensors = Mapping[str, torch.Tensor]
_HALVES = (torch.float16, torch.bfloat16)
_RUNS = 4
"""Runs with other rounding errors: near a tie, each makes the other choice with a probability of one half."""


def allowed_in_any_case(
    model: PreTrainedModel,
    inputs: Tensors,
    run: Callable[[dict[str, torch.Tensor]], Tensors],
    outputs: Tensors,
    tolerance: Tolerance,
) -> dict[str, float]:
    """Return what outputs may differ by at least: a multiple of what rounding changes in the original.

    The original runs again with the outputs of its layers multiplied by 1 plus or minus the machine epsilon of its
    type; one of 16 bits whose weights are in memory also in float32, without and with that.

    Args:
        model: the original; the weights of one of 16 bits are float32 meanwhile.
        inputs: its inputs, which are rounded to the model's type.
        run: runs it.
        outputs: its outputs for the inputs.
        tolerance: has the multiple.

    Returns:
        Name of an output to the difference; empty if the tolerance has no multiple.
    """
    if not tolerance.own_rounding:
        return {}
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.dtype in _HALVES]
    dtype = tensors[0].dtype if tensors else torch.float32
    exact = bool(tensors) and not any(tensor.is_meta for tensor in tensors)
    given = {name: _rounded(value, dtype, torch.float32 if exact else dtype) for name, value in inputs.items()}
    with _in_float32(tensors) if exact else nullcontext():
        others = [run(given)] if exact else []
        for seed in range(_RUNS):
            with _rounding_otherwise(model, torch.finfo(dtype).eps, seed):
                others.append(run(given))
    return {
        name: tolerance.own_rounding * max(_difference(other[name], value) for other in others)
        for name, value in outputs.items()
        if value.is_floating_point() and value.numel() and all(other[name].shape == value.shape for other in others)
    }


def _rounded(value: torch.Tensor, dtype: torch.dtype, given: torch.dtype) -> torch.Tensor:
    return value.to(dtype).to(given) if value.is_floating_point() else value


def _difference(other: torch.Tensor, value: torch.Tensor) -> float:
    return float((other.double() - value.double()).abs().nan_to_num(0, 0, 0).max())


@contextmanager
def _rounding_otherwise(model: torch.nn.Module, epsilon: float, seed: int) -> Iterator[None]:
    """Multiply the outputs of a model's innermost modules by 1 plus or minus a number, for a block."""
    generator = np.random.default_rng(seed)  # PyTorch's draws are constants while an original runs

    def change(_module: torch.nn.Module, _inputs: Any, output: Any) -> Any:
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            return None
        signs = torch.from_numpy(generator.integers(0, 2, tuple(output.shape), dtype=np.int8)) * 2 - 1
        return output * (1 + epsilon * signs.to(output))

    hooks = [
        module.register_forward_hook(change) for module in model.modules() if next(module.children(), None) is None
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _in_float32(tensors: list[torch.Tensor]) -> Iterator[None]:
    """Cast tensors in place for a block; casting back gives the same values."""
    dtypes = [tensor.dtype for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, dtype in zip(tensors, dtypes, strict=True):
            tensor.data = tensor.data.to(dtype)
