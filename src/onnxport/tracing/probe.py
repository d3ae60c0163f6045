"""Find the axes of a graph by running its model on fake tensors, each symbol at another size in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxport.description.arguments import Layout
from onnxport.description.axes import symbols_of
from onnxport.description.examples import Examples
from onnxport.description.signature import solve
from onnxport.tracing.originals import RefusedSizesError, run_tensors, try_sizes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Shape = tuple[int, ...]

_MULTIPLIED = ("height", "width", "audio", "feature", "num_")
"""Parts of the symbols whose sizes must stay multiples of something: they are doubled."""


@dataclass(frozen=True)
class Probe:
    """Hold what running a model has shown.

    Attributes:
        layout: the inputs that are traced.
        outputs: name → dtype and shape.
        fixed: symbol → size, those that the model refuses to vary.
        labels: output → axis → label, those that vary.
    """

    layout: Layout
    outputs: dict[str, tuple[str, Shape]]
    fixed: Mapping[str, int]
    labels: Mapping[str, dict[int, str]]


def probe(model: PreTrainedModel, examples: Examples, layout: Layout) -> Probe:
    """Run a model at the sizes that it is traced at, and with each symbol changed.

    Args:
        model: its parameters may be fake.
        examples: makes inputs of other sizes.
        layout: the inputs that are traced.
    """
    signature = examples.signature.for_inputs(layout.flat)
    sizes = solve(signature, {name: tuple(tensor.shape) for name, tensor in layout.flat.items()})
    first = run_tensors(model, examples, layout)
    shapes = {name: tuple(tensor.shape) for name, tensor in first.items()}
    fixed: dict[str, int] = {}
    moved: dict[str, tuple[int, dict[str, Shape]]] = {}
    for symbol in dict.fromkeys(_symbols(examples, layout)):
        if symbol not in sizes:
            continue
        other = _other(symbol, sizes[symbol])
        try:
            found = try_sizes(model, examples, examples.at({**sizes, symbol: other}))
        except RefusedSizesError:
            fixed[symbol] = sizes[symbol]
            continue
        moved[symbol] = (other, {name: tuple(tensor.shape) for name, tensor in found.items()})
    labels = {name: _labels(name, shape, sizes, moved) for name, shape in shapes.items()}
    dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in first.items()}
    return Probe(layout, {name: (dtypes[name], shape) for name, shape in shapes.items()}, fixed, labels)


def _symbols(examples: Examples, layout: Layout) -> list[str]:
    inputs = examples.signature.for_inputs(layout.flat).inputs
    return [symbol for axes in inputs.values() for label in axes.values() for symbol in symbols_of(label)]


def _other(symbol: str, size: int) -> int:
    return 2 * size if any(part in symbol for part in _MULTIPLIED) else size + 3


def _labels(
    name: str, shape: Shape, sizes: Mapping[str, int], moved: Mapping[str, tuple[int, dict[str, Shape]]]
) -> dict[int, str]:
    """Label the axes of an output that moved with a symbol."""
    labels = {}
    for axis, size in enumerate(shape):
        steps = {
            symbol: (shapes[name][axis] - size) / (other - sizes[symbol])
            for symbol, (other, shapes) in moved.items()
            if len(shapes[name]) == len(shape) and shapes[name][axis] != size
        }
        if steps:
            labels[axis] = _formula(size, steps, sizes)
    return labels


def _formula(size: int, steps: Mapping[str, float], sizes: Mapping[str, int]) -> str:
    """Write how an axis depends on symbols: as a sum where it is one, else by naming them."""
    rest = size - sum(sizes[symbol] for symbol in steps)
    if any(step != 1 for step in steps.values()) or (rest and len(steps) > 1):
        return f"f({', '.join(steps)})"
    # A cache's length comes first in a sum, as it does in the labels of inputs.
    total = " + ".join(sorted(steps, key=lambda symbol: not symbol.startswith("past")))
    return total + (f" + {rest}" if rest > 0 else f" - {-rest}" if rest < 0 else "")
