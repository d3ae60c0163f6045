"""What an export is before it has weights: graphs, and an expression for every parameter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxport._needs import MoreLayersNeededError
from onnxport.binding.bind import Binding
from onnxport.description.description import Description, GraphDescription
from onnxport.stamping import Layers, StampError, stamp

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class TracedGraph:
    """Hold a graph as it was traced, clean, possibly with few layers.

    Attributes:
        description: what it takes and returns, of the layers that were traced.
        graph: parameters are `ParameterTensor`s; nodes still have the names of the modules they were traced in.
    """

    description: GraphDescription
    graph: ir.Model

    @property
    def name(self) -> str:
        """The component's name, `model` for a single graph."""
        return self.description.name

    @property
    def file(self) -> str:
        """Name of the graph's file."""
        return self.description.file

    @property
    def prefix(self) -> str:
        """What the component's parameter names lack to be the whole model's, such as `encoder.`."""
        return self.description.prefix


@dataclass(frozen=True)
class Depth:
    """Describe how a component's graph gets all its layers.

    Attributes:
        layers: the runs of layers to stamp; empty where the graph was traced whole.
        note: why it was traced whole although layers repeat; empty otherwise.
        as_drafted: whether the layers were traced that were chosen first; False where some more were needed.
    """

    layers: tuple[Layers, ...] = ()
    note: str = ""
    as_drafted: bool = True


@dataclass(frozen=True)
class Trace:
    """Hold the graphs of a model as they were traced, in the order of its description.

    Attributes:
        graphs: see `TracedGraph`.
        depths: how each gets all its layers.
        cached: whether tracing was spared.
    """

    graphs: tuple[TracedGraph, ...]
    depths: tuple[Depth, ...]
    cached: bool = False


@dataclass(frozen=True)
class Blueprint:
    """Hold everything that a checkpoint's configuration decides.

    Attributes:
        description: what is exported.
        trace: the graphs as they were traced, and how each gets all its layers.
        binding: what the parameters are made of.
        graphs: the graphs with all their layers, in order; whoever binds them may change them.
    """

    description: Description
    trace: Trace
    binding: Binding
    graphs: tuple[ir.Model, ...] = field(default=(), repr=False, compare=False)


def at_full_depth(traced: TracedGraph, depth: Depth) -> ir.Model:
    """Return a graph with all its layers; the traced one isn't changed.

    Raises:
        MoreLayersNeededError: layers couldn't be proved isomorphic.
    """
    graph = traced.graph.clone()
    for layers in depth.layers:
        try:
            stamp(graph.graph, layers)
        except StampError as error:
            stacks = frozenset(f"{traced.prefix}{path}" for path in layers.paths)
            raise MoreLayersNeededError(str(error), stacks) from error
    return graph
