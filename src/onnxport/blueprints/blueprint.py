"""What an export is before it has weights: graphs, and an expression for every parameter."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from onnxport._needs import MoreLayersNeededError
from onnxport.binding.bind import Binding
from onnxport.description.cache_layout import CacheLayout, CrossAttentionLayout
from onnxport.description.description import Description, GraphDescription, TensorSpec
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
        description: what is exported, with all its layers.
        trace: the graphs as they were traced, and how each gets all its layers.
        binding: what the parameters are made of.
        graphs: the graphs with all their layers, in order; whoever binds them may change them.
    """

    description: Description
    trace: Trace
    binding: Binding
    graphs: tuple[ir.Model, ...] = field(default=(), repr=False, compare=False)


def describe_graph(traced: TracedGraph, depth: Depth, graph: ir.Model) -> GraphDescription:
    """Return the description of a graph that has all its layers.

    Args:
        traced: the graph as it was traced; its description has the layers that were traced.
        depth: how it gets all its layers.
        graph: the graph that has them.
    """
    described, known = traced.description, {spec.name: spec for spec in traced.description.inputs}
    inputs = tuple(spec_of(value, known.get(str(value.name))) for value in graph.graph.inputs)
    outputs = tuple(map(spec_of, graph.graph.outputs))
    return replace(described, inputs=inputs, outputs=outputs, cache=_cache_at(described.cache, depth))


def spec_of(value: ir.Value, known: TensorSpec | None = None) -> TensorSpec:
    """Describe an input or an output of a graph.

    Args:
        value: the input or output.
        known: what is known of it beside what the graph has: its example, and its labels in the words of 4.37.2.
    """
    dims = [getattr(dim, "value", dim) for dim in value.shape or ()]
    axes = tuple(dim if isinstance(dim, int) else str(dim or "?") for dim in dims)
    dtype = value.dtype.name.lower() if value.dtype is not None else "unknown"
    name, dtype = str(value.name), _DTYPES.get(dtype, dtype)
    return TensorSpec(name, dtype, axes, ()) if known is None else replace(known, dtype=dtype, axes=axes)


_DTYPES = {"float": "float32", "double": "float64"}
"""ONNX's names of types that numpy and PyTorch call otherwise."""


def _cache_at(
    cache: CacheLayout | CrossAttentionLayout | None, depth: Depth
) -> CacheLayout | CrossAttentionLayout | None:
    """Return the layout of a cache with all layers; None where the layers that were traced don't tell it."""
    if cache is None or not depth.layers:
        return cache
    fitting = {(layers.traced, layers.full) for layers in depth.layers if len(layers.traced) == cache.depth}
    if len(fitting) != 1:
        return None
    ((traced, full),) = fitting
    return cache.at_depth([traced.index(layer) for layer in full])


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
