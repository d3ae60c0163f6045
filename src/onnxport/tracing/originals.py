"""Run the original model on example inputs, and choose the inputs to trace with."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from onnxport._foreign_errors import translating
from onnxport.description.arguments import Layout, call, overridden
from onnxport.description.signature import sizes_of
from onnxport.patching.module_state import preserving_state

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from onnxport.description.examples import Examples

_LARGE_SIDE = 384
"""Side in pixels of square images that are traced with one side doubled, which takes a third of the memory.

Emu3 attends to all 64 x 64 patches of 512 x 512 pixels.
"""
logger = logging.getLogger(__name__)


def trace_examples(model: PreTrainedModel, examples: Examples) -> tuple[Layout, dict[str, int]]:
    """Create the inputs to trace with: dynamic axes have at least 2 elements, and images aren't square.

    Args:
        model: the original model, which is run to find out whether it accepts other image sizes.
        examples: creates the inputs.

    Returns:
        The inputs, and the size of each symbol.
    """
    layout = examples.at()
    signature = examples.signature.for_inputs(layout.flat)
    sizes = sizes_of(signature, layout.flat)
    changes = {symbol: 3 for symbol, size in sizes.items() if size < 2 and "sequence" in symbol}
    changes |= {symbol: 2 for symbol, size in sizes.items() if size < 2 and "batch" in symbol}
    if "height" in sizes and sizes["height"] == sizes.get("width"):
        side = sizes["height"]
        height, width = (side * 2, side * 3) if side <= _LARGE_SIDE else (side, side * 2)
        wide = {**changes, "height": height, "width": width}
        try:
            try_sizes(model, examples, examples.at(wide))
            changes = wide
        except RefusedSizesError as error:
            logger.debug("the image size is fixed: %s", error)
    return (examples.at(changes), {**sizes, **changes}) if changes else (layout, sizes)


class RefusedSizesError(Exception):
    """A model rejects inputs of some sizes."""


def try_sizes(model: PreTrainedModel, examples: Examples, layout: Layout) -> dict[str, torch.Tensor]:
    """Run a model on input sizes that it may reject, and return its outputs by flat name.

    Raises:
        RefusedSizesError: the model raised an exception, of any type.
    """
    with translating(lambda error: RefusedSizesError(f"{type(error).__name__}: {error}")):
        return run_tensors(model, examples, layout)


def run_original(model: PreTrainedModel, examples: Examples, layout: Layout) -> dict[str, NDArray[Any]]:
    """Run the original model and return its outputs as arrays, by flat name."""
    return {name: to_array(tensor) for name, tensor in run_tensors(model, examples, layout).items()}


def run_tensors(model: PreTrainedModel, examples: Examples, layout: Layout) -> dict[str, torch.Tensor]:
    """Run a model, whose state isn't changed, and return its outputs by flat name.

    Random numbers are constants, and grids are sampled in float32; see `tracing.comparable`.
    """
    import torch

    from onnxport.tracing.comparable import ComparableFunctions

    device = next(model.parameters()).device
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    flat = {
        name: tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
        for name, tensor in layout.flat.items()
    }
    with torch.no_grad(), overridden(model, examples.config), preserving_state(model), ComparableFunctions():
        return call(model, examples.config, layout, flat)


def to_array(tensor: torch.Tensor) -> NDArray[Any]:
    """Return a tensor as an array on the host."""
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array
