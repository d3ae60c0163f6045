"""How far a 16-bit original is from itself in float32, for outputs that are outside the tolerance of the type.

A tolerance relative to the largest value holds where an output changes little with what is rounded. It doesn't where a
layer chooses: near a tie of a router, another expert computes, so that a graph and its original differ by as much as
each differs from float32, and neither is wrong (a tiny GPT-OSS: 0.5 of 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from onnxport.description.tolerances import Tolerance

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tensors = Mapping[str, torch.Tensor]
_HALVES = (torch.float16, torch.bfloat16)


def allowed_in_any_case(
    model: PreTrainedModel,
    inputs: Tensors,
    run: Callable[[dict[str, torch.Tensor]], Tensors],
    outputs: Tensors,
    tolerance: Tolerance,
) -> dict[str, float]:
    """Return what outputs may differ by at least: a multiple of the 16-bit original's difference from float32.

    Args:
        model: the original; its weights are float32 meanwhile.
        inputs: its inputs, which are rounded to the model's type.
        run: runs it.
        outputs: its outputs for the inputs.
        tolerance: has the multiple.

    Returns:
        Name of an output to the difference; empty if the model isn't 16-bit, or its weights aren't in memory.
    """
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.dtype in _HALVES]
    if not tolerance.own_rounding or not tensors or any(tensor.is_meta for tensor in tensors):
        return {}
    dtype = tensors[0].dtype
    given = {name: value.to(dtype).float() if value.is_floating_point() else value for name, value in inputs.items()}
    with _in_float32(tensors):
        exact = run(given)
    return {
        name: tolerance.own_rounding * float((exact[name].double() - value.double()).abs().nan_to_num(0, 0, 0).max())
        for name, value in outputs.items()
        if value.is_floating_point() and value.numel() and exact[name].shape == value.shape
    }


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
