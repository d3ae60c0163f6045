"""Find the shapes of inputs by running a model: the layers that take an input fix the sizes of some of its axes.

Every axis begins with a size that no other axis has. A layer that needs another size tells which axis it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport._foreign_errors import translating
from onnxport._needs import needs_weights
from onnxport.description.dummy_inputs import DummyInput, InputContext

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_SHAPES = ((2, 40, 56), (2, 7, 64, 96), (2, 48), (2, 4, 7, 64, 96), (2, 7, 16000), (2, 7, 64, 64))
"""Shapes with which a probe begins: hidden states, feature maps, samples, videos, channels of audio, square maps."""
_LABELS = {
    2: {0: "batch", 1: "sequence"},
    3: {0: "batch", 1: "sequence", 2: "sequence"},
    4: {0: "batch", 2: "height", 3: "width"},
    5: {0: "batch", 3: "height", 4: "width"},
}
"""Number of axes to the labels of those that no layer fixes."""
_MAX_RUNS = 12


def probed_dummies(
    run: Callable[[Mapping[str, torch.Tensor]], object],
    inputs: Mapping[str, torch.Tensor],
    names: Sequence[str],
    image: tuple[int, ...] | None,
) -> dict[str, DummyInput]:
    """Return dummies of the shapes with which a model runs; none if no shape is found.

    Args:
        run: runs the model.
        inputs: inputs by name.
        names: inputs whose shape is sought; one that is among `inputs` begins with its shape there.
        image: channels, height and width of the configuration's images; None if it doesn't have them.
    """
    given = {name: tuple(inputs[name].shape) for name in names if name in inputs}
    starts = [given] if given else []
    images = () if image is None else ((2, *image),)
    starts += [dict.fromkeys(names, shape) for shape in (*_SHAPES[:1], *images, *_SHAPES[1:])]
    for start in starts:
        found = _probe(run, inputs, {name: start.get(name, _SHAPES[0]) for name in names})
        if found:
            return {name: _dummy(name, found[name].shape, found[name].fixed) for name in names}
    return {}


@dataclass
class _Probed:
    """Hold the shape of an input, and the axes whose size a layer needs."""

    shape: tuple[int, ...]
    fixed: frozenset[int] = frozenset()


class _SizeError(Exception):
    """A function refuses the size of an axis.

    Attributes:
        found: the size.
        needed: the size that the other operand or the weights have.
    """

    def __init__(self, found: int, needed: int) -> None:
        super().__init__(f"a layer needs size {needed} instead of {found}")
        self.found, self.needed = found, needed


class _RunError(Exception):
    """A model raised an exception, of any type."""


def _unless_size(error: Exception) -> Exception | None:
    """Translate errors other than those of a size, and of a model that requires the values of its parameters."""
    return None if isinstance(error, _SizeError) or needs_weights(error) else _RunError(str(error))


def _probe(
    run: Callable[[Mapping[str, torch.Tensor]], object],
    inputs: Mapping[str, torch.Tensor],
    start: Mapping[str, tuple[int, ...]],
) -> dict[str, _Probed]:
    """Run a model with inputs of certain shapes until it runs; return the last shapes, or none if it doesn't."""
    found = {name: _Probed(shape) for name, shape in start.items()}
    for _ in range(_MAX_RUNS):
        tensors = {name: _tensor(name, probed.shape) for name, probed in found.items()}
        try:
            with translating(_unless_size), _checking_layers():
                run({**inputs, **tensors})
        except _SizeError as error:
            if not _resize(found, error):
                return {}
        except _RunError as error:
            logger.debug("not shapes of the inputs: %s (%s)", found, error)
            return {}
        else:
            return found
    return {}


def _resize(found: Mapping[str, _Probed], error: _SizeError) -> bool:
    """Change the size of the axis that a function refused; return whether an input has it.

    A size that no axis has is a multiple of one: the mel bins times the channels of a convolution.
    """
    axes = [
        (one, axis) for one in found.values() for axis in reversed(range(1, len(one.shape))) if axis not in one.fixed
    ]
    needed, other = error.needed, error.found
    choices = [(one, axis, needed) for one, axis in axes if one.shape[axis] == other]
    choices += [(one, axis, other) for one, axis in axes if one.shape[axis] == needed]
    multiples = [(one, axis, one.shape[axis] * needed) for one, axis in axes]
    choices += [(one, axis, size // other) for one, axis, size in multiples if size % other == 0 and size // other > 1]
    for one, axis, size in choices[:1]:
        one.shape = (*one.shape[:axis], size, *one.shape[axis + 1 :])
        one.fixed |= {axis}
    return bool(choices)


def _tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a tensor of a shape; a mask without padding covers the first axis after the batch."""
    import torch

    return torch.ones(shape[:2], dtype=torch.bool) if name.endswith("mask") else torch.zeros(shape)


def _checking_layers() -> Any:
    """Return a context that raises `_SizeError` before a layer that would refuse the size of an axis."""
    from torch.overrides import TorchFunctionMode

    class Checking(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            for size, needed in _sizes(function.__name__, args, kwargs):
                if size != needed:
                    raise _SizeError(size, needed)
            return function(*args, **kwargs)

    return Checking()


def _sizes(function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """Yield the sizes of axes that a layer's function takes, each with the size that its weights need."""
    import torch

    values = [*args, *kwargs.values()]
    if function == "cat":
        yield from _concatenated(values[0], kwargs.get("dim", values[1] if len(values) > 1 else 0))
        return
    if len(values) < 2 or not isinstance(values[0], torch.Tensor):
        return
    tensor, weight = values[:2]
    if function == "linear":
        yield tensor.shape[-1], weight.shape[1]
    elif function in _CONVOLUTIONS and tensor.dim() == _CONVOLUTIONS[function] + 2:
        groups = kwargs.get("groups", args[6] if len(args) > 6 else 1)  # its place in the signature
        yield tensor.shape[1], weight.shape[1] * groups
    elif function == "layer_norm":
        yield from zip(tensor.shape[-len(weight) :], weight, strict=True)
    elif function == "batch_norm" and isinstance(weight, torch.Tensor):
        yield tensor.shape[1], len(weight)
    elif function in _BROADCAST and isinstance(weight, torch.Tensor):
        axes = zip(reversed(tensor.shape), reversed(weight.shape), strict=False)
        yield from ((size, needed) for size, needed in axes if 1 not in (size, needed))


def _concatenated(tensors: Sequence[torch.Tensor], axis: int) -> Iterator[tuple[int, int]]:
    """Yield the sizes of the other axes of concatenated tensors, each with that of the first tensor."""
    first = tensors[0].shape
    for tensor in tensors[1:]:
        sizes = zip(tensor.shape, first, strict=False)
        yield from (pair for index, pair in enumerate(sizes) if index != axis % len(first))


_CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
_BROADCAST = ("add", "sub", "mul", "div", "__add__", "__sub__", "__mul__", "__truediv__")


def _dummy(name: str, shape: tuple[int, ...], fixed: frozenset[int]) -> DummyInput:
    """Return a dummy of a shape; the axes that a layer fixes, and those of channels, aren't dynamic."""
    rank = _tensor(name, shape).dim()
    labels = {axis: label for axis, label in _LABELS.get(rank, {0: "batch"}).items() if axis not in fixed}

    def make(context: InputContext) -> torch.Tensor:
        return _tensor(name, (context.batch, *shape[1:]))

    return DummyInput(labels, make)
