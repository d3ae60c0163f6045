"""What a description says: for each graph its inputs, outputs and axes, and where they come from."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from onnxport.description.axes import today_label


@dataclass(frozen=True)
class Tensor:
    """Describe an input or an output.

    Attributes:
        name: as the graph calls it.
        dtype: type of its elements.
        axes: for each axis its size, or its label where it may vary.
        example: shape in the example that is traced.
        labels: axis to label in the words of 4.37.2, those that may vary.
    """

    name: str
    dtype: str
    axes: tuple[int | str, ...]
    example: tuple[int, ...]
    labels: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, dtype: str, shape: tuple[int, ...], labels: dict[int, str]) -> Tensor:
        """Return the description of a tensor whose example is known."""
        axes = tuple(_today(labels[axis]) if axis in labels else size for axis, size in enumerate(shape))
        return cls(name, dtype, axes, shape, labels)


def _today(label: str) -> str:
    """Translate the symbols in a label."""
    return re.sub(r"[A-Za-z_]\w*", lambda symbol: today_label(symbol[0]), label)


@dataclass(frozen=True)
class GraphDescription:
    """Describe a graph.

    Attributes:
        name: the component's name, `model` for a single graph.
        file: name of its file.
        source: `hand-written`, or `derived` from the model.
        described_by: the class that describes it; that of the model alone, where modules follow it.
        opset: its opset.
        atol: absolute tolerance of the proof.
        rtol: relative tolerance of the proof.
        inputs: in the graph's order.
        outputs: in the graph's order.
        fixed_axes: axes that the description lists and the model can't vary, as `input: label = size`.
        config: the description itself, of which all this was read.
    """

    name: str
    file: str
    source: str
    described_by: str
    opset: int
    atol: float
    rtol: float
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    fixed_axes: tuple[str, ...]
    config: Any = field(repr=False, compare=False)


@dataclass(frozen=True)
class Description:
    """Describe what a checkpoint becomes.

    Attributes:
        model: as the user gave it.
        model_type: as its configuration says.
        architecture: the class that is exported.
        task: what for.
        dtype: floating-point type of the weights in the graph.
        graphs: one for each component.
        notes: what isn't as it would be in an export.
    """

    model: str
    model_type: str
    architecture: str
    task: str
    dtype: str
    graphs: tuple[GraphDescription, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values for JSON; the same for the same checkpoint."""
        values = {name: getattr(self, name) for name in ("model", "model_type", "architecture", "task", "dtype")}
        return {**values, "notes": list(self.notes), "graphs": [_graph_values(graph) for graph in self.graphs]}


def _graph_values(graph: GraphDescription) -> dict[str, Any]:
    names = ("name", "file", "source", "described_by", "opset", "atol", "rtol")
    values: dict[str, Any] = {name: getattr(graph, name) for name in names}
    for side in ("inputs", "outputs"):
        values[side] = [_without_labels(asdict(tensor)) for tensor in getattr(graph, side)]
    return {**values, "fixed_axes": list(graph.fixed_axes)}


def _without_labels(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if name != "labels"
    }
