"""What an export is before it has weights: graphs, and an expression for every parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxport.binding.bind import Binding
from onnxport.description.encoder_outputs import Modality
from onnxport.description.tasks import Task
from onnxport.stamping import Layers, StampError, stamp

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class TracedGraph:
    """Hold a graph as it was traced, clean, possibly with few layers.

    Attributes:
        name: the component's name, `model` for a single graph.
        graph: parameters are `ParameterTensor`s; nodes still say which module they were traced in.
        prefix: what the component's parameter names lack to be the whole model's, such as `encoder.`.
        sizes: symbol to size at which it was traced.
        atol: absolute tolerance that its description asks for.
        fixed_axes: axes that the description wants to vary and the model can't, as `input: label = size`.
    """

    name: str
    graph: ir.Model
    prefix: str
    sizes: Mapping[str, int]
    atol: float
    fixed_axes: tuple[str, ...]

    @property
    def file(self) -> str:
        """Name of the graph's file."""
        return f"{self.name}.onnx"


@dataclass(frozen=True)
class Depth:
    """Say how a component's graph gets all its layers.

    Attributes:
        layers: the runs of layers to stamp; empty where the graph was traced whole.
        note: why it was traced whole although layers repeat; empty otherwise.
        as_drafted: whether the layers were traced that were chosen first; False where some more were needed.
    """

    layers: tuple[Layers, ...] = ()
    note: str = ""
    as_drafted: bool = True


@dataclass(frozen=True)
class Blueprint:
    """Hold everything that a checkpoint's configuration decides.

    Attributes:
        task: what is exported.
        architecture: name of the model class.
        model_type: as the configuration says it.
        graphs: as they were traced.
        depths: how each graph gets all its layers, in the same order.
        binding: what the parameters are made of.
        cached: whether tracing was spared.
        modalities: how what the encoders return gets into the decoder.
    """

    task: Task
    architecture: str
    model_type: str
    graphs: tuple[TracedGraph, ...]
    depths: tuple[Depth, ...]
    binding: Binding
    cached: bool = False
    modalities: tuple[Modality, ...] = ()


def at_full_depth(traced: TracedGraph, depth: Depth) -> ir.Model:
    """Return a graph with all its layers; the traced one isn't changed.

    Raises:
        StampError: layers couldn't be proved alike.
    """
    graph = traced.graph.clone()
    for layers in depth.layers:
        try:
            stamp(graph.graph, layers)
        except StampError as error:
            raise StampError(str(error), frozenset(f"{traced.prefix}{path}" for path in layers.paths)) from error
    return graph
