"""An export without weights: graphs at full depth, and an expression for every parameter."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from onnxport._needs import MoreLayersNeededError
from onnxport.binding.bind import Binding
from onnxport.description.border_dtypes import border_dtype
from onnxport.description.cache_layout import CacheLayout, CrossAttentionLayout
from onnxport.description.description import Description, GraphDescription, TensorSpec
from onnxport.description.image_processing import ImageProcessing
from onnxport.options import GraphOptions
from onnxport.stamping import Layers, StampError, stamp

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class TracedGraph:
    """Hold a traced and cleaned-up graph, possibly with few layers.

    Attributes:
        description: the description of the traced layers' inputs and outputs.
        graph: its parameters are `ParameterTensor`s; its nodes have the names of their modules as metadata.
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
        """Prefix of the component's parameter names in the full model, such as `encoder.`."""
        return self.description.prefix


@dataclass(frozen=True)
class Depth:
    """Describe how a component's graph is extended to full depth.

    Attributes:
        layers: the layer stacks to stamp; empty if the graph was traced at full depth.
        note: why it was traced at full depth although layers repeat; empty otherwise.
        as_drafted: whether the draft's layers were traced; False if more were needed.
    """

    layers: tuple[Layers, ...] = ()
    note: str = ""
    as_drafted: bool = True


@dataclass(frozen=True)
class Trace:
    """Hold the traced graphs of a model, in the order of its description.

    Attributes:
        graphs: see `TracedGraph`.
        depths: how each graph is extended to full depth.
        cached: whether the graphs are from the cache.
    """

    graphs: tuple[TracedGraph, ...]
    depths: tuple[Depth, ...]
    cached: bool = False


@dataclass(frozen=True)
class Blueprint:
    """Hold everything of an export that is determined by a checkpoint's configuration.

    Attributes:
        description: the description at full depth.
        trace: the traced graphs, and how each is extended to full depth.
        binding: the expressions of the parameters.
        graphs: the graphs at full depth, in order; binding may modify them in place.
        image_processing: the pre- and postprocessing of images in a graph; None without it.
    """

    description: Description
    trace: Trace
    binding: Binding
    graphs: tuple[ir.Model, ...] = field(default=(), repr=False, compare=False)
    image_processing: ImageProcessing | None = None


def describe_graph(traced: TracedGraph, depth: Depth, graph: ir.Model) -> GraphDescription:
    """Return the description of a graph at full depth.

    Args:
        traced: the traced graph, with its description.
        depth: how it is extended to full depth.
        graph: the graph at full depth.
    """
    described, specs = traced.description, {spec.name: spec for spec in traced.description.inputs}
    inputs = tuple(spec_of(value, specs.get(str(value.name))) for value in graph.graph.inputs)
    outputs = tuple(map(spec_of, graph.graph.outputs))
    return replace(described, inputs=inputs, outputs=outputs, cache=_cache_at(described.cache, depth))


def cast_borders(model: ir.Model, options: GraphOptions) -> None:
    """Give the inputs and outputs of a graph the dtypes of the options, in place.

    Args:
        model: the graph at full depth.
        options: `token_dtype` and `io_dtype`.
    """
    import onnx_ir as ir

    from onnxport.passes.borders import CastBordersPass

    dtypes = {}
    for values, is_input in ((model.graph.inputs, True), (model.graph.outputs, False)):
        for spec in map(spec_of, values):
            dtype = border_dtype(spec.name, spec.dtype, options, is_input=is_input)
            if dtype != spec.dtype:
                dtypes[spec.name] = ir.DataType[_ONNX_DTYPES.get(dtype, dtype).upper()]
    CastBordersPass(dtypes)(model)


def spec_of(value: ir.Value, described: TensorSpec | None = None) -> TensorSpec:
    """Describe an input or an output of a graph.

    Args:
        value: the input or output.
        described: its description, with what the graph lacks: an example, and the axis labels of 4.37.2.
    """
    dims = [getattr(dim, "value", dim) for dim in value.shape or ()]
    axes = tuple(dim if isinstance(dim, int) else str(dim or "?") for dim in dims)
    dtype = value.dtype.name.lower() if value.dtype is not None else "unknown"
    name, dtype = str(value.name), _DTYPES.get(dtype, dtype)
    return TensorSpec(name, dtype, axes, ()) if described is None else replace(described, dtype=dtype, axes=axes)


_DTYPES = {"float": "float32", "double": "float64"}
"""ONNX's dtype names that differ from NumPy's and PyTorch's, to those."""
_ONNX_DTYPES = {name: onnx_name for onnx_name, name in _DTYPES.items()}


def _cache_at(
    cache: CacheLayout | CrossAttentionLayout | None, depth: Depth
) -> CacheLayout | CrossAttentionLayout | None:
    """Return the layout of a cache at full depth; None if the traced layers don't determine it."""
    if cache is None or not depth.layers:
        return cache
    fitting = {(layers.traced, layers.full) for layers in depth.layers if len(layers.traced) == cache.depth}
    if len(fitting) != 1:
        return None
    ((traced, full),) = fitting
    return cache.at_depth([traced.index(layer) for layer in full])


def at_full_depth(traced: TracedGraph, depth: Depth) -> ir.Model:
    """Return a graph at full depth; the traced graph isn't modified.

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
