"""Find the dynamic axes of a graph by running its model on fake tensors, varying the size of one symbol at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxport.description.arguments import Layout
from onnxport.description.axes import symbols_of, today_label
from onnxport.description.examples import Examples
from onnxport.description.signature import sizes_of
from onnxport.tracing.originals import RefusedSizesError, run_tensors, try_sizes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Shape = tuple[int, ...]

_DOUBLED = ("height", "width", "audio", "feature", "num_")
"""Parts of the names of symbols whose sizes must be multiples of a patch size or similar: they are doubled."""


@dataclass(frozen=True)
class Probe:
    """Results of probing a model.

    Attributes:
        layout: the inputs that are traced.
        outputs: dtype and shape of each output.
        fixed: size of each symbol that the model can't vary.
        labels: label of each dynamic axis of each output.
    """

    layout: Layout
    outputs: dict[str, tuple[str, Shape]]
    fixed: Mapping[str, int]
    labels: Mapping[str, dict[int, str]]


def probe(model: PreTrainedModel, examples: Examples, layout: Layout, static: Collection[str] = ()) -> Probe:
    """Run a model at the sizes that it is traced with, and once per symbol with another size.

    Args:
        model: the model; its parameters may be fake.
        examples: creates inputs of other sizes.
        layout: the inputs that are traced.
        static: symbols whose sizes aren't varied, with the names that today's clients expect.
    """
    signature = examples.signature.for_inputs(layout.flat)
    sizes = sizes_of(signature, layout.flat)
    reference = run_tensors(model, examples, layout)
    shapes = {name: tuple(tensor.shape) for name, tensor in reference.items()}
    fixed: dict[str, int] = {}
    varied: dict[str, tuple[int, dict[str, Shape]]] = {}
    for symbol in dict.fromkeys(_symbols(examples, layout)):
        if symbol not in sizes or today_label(symbol) in static:
            continue
        size = _other_size(symbol, sizes[symbol])
        try:
            outputs = try_sizes(model, examples, examples.at({**sizes, symbol: size}))
        except RefusedSizesError:
            fixed[symbol] = sizes[symbol]
            continue
        varied[symbol] = (size, {name: tuple(tensor.shape) for name, tensor in outputs.items()})
    labels = {name: _labels(name, shape, sizes, varied) for name, shape in shapes.items()}
    dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in reference.items()}
    return Probe(layout, {name: (dtypes[name], shape) for name, shape in shapes.items()}, fixed, labels)


def _symbols(examples: Examples, layout: Layout) -> list[str]:
    inputs = examples.signature.for_inputs(layout.flat).inputs
    return [symbol for axes in inputs.values() for label in axes.values() for symbol in symbols_of(label)]


def _other_size(symbol: str, size: int) -> int:
    return 2 * size if any(part in symbol for part in _DOUBLED) else size + 3


def _labels(
    name: str, shape: Shape, sizes: Mapping[str, int], varied: Mapping[str, tuple[int, dict[str, Shape]]]
) -> dict[int, str]:
    """Label the axes of an output whose size varied with a symbol."""
    labels = {}
    for axis, size in enumerate(shape):
        steps = {
            symbol: (shapes[name][axis] - size) / (other - sizes[symbol])
            for symbol, (other, shapes) in varied.items()
            if len(shapes[name]) == len(shape) and shapes[name][axis] != size
        }
        if steps:
            labels[axis] = _formula(size, steps, sizes)
    return labels


def _formula(size: int, steps: Mapping[str, float], sizes: Mapping[str, int]) -> str:
    """Format an axis size as a sum of symbols, or as `f(symbols)` if it isn't a sum."""
    rest = size - sum(sizes[symbol] for symbol in steps)
    if any(step != 1 for step in steps.values()) or (rest and len(steps) > 1):
        return f"f({', '.join(steps)})"
    # A cache's length comes first in a sum, as it does in the labels of inputs.
    total = " + ".join(sorted(steps, key=lambda symbol: not symbol.startswith("past")))
    return total + (f" + {rest}" if rest > 0 else f" - {-rest}" if rest < 0 else "")
