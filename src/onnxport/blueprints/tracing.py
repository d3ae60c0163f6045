"""Trace the graphs of a described model, and see that each can be given all its layers.

No layer is traced that is isomorphic to others, as long as that can be proved. What can't be done that way is traced
with more layers, or with the weights in memory, and the blueprint has a note of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxport._needs import MoreLayersNeededError, WeightsNeededError, without_values
from onnxport.blueprints.blueprint import Depth, TracedGraph, at_full_depth, spec_of
from onnxport.blueprints.describing import Described
from onnxport.blueprints.draft import Draft
from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.description.axes import today_label
from onnxport.description.description import GraphDescription
from onnxport.errors import TraceError
from onnxport.options import ExportOptions, GraphOptions, Progress
from onnxport.stamping import Layers, interleaved
from onnxport.tracing import trace
from onnxport.tracing.layer_indices import watched_layer_indices
from onnxport.tracing.reduction import Reduction, TracedStack
from onnxport.tracing.scope import without_values as running_fakes
from onnxport.weights.parameters import ParameterTensor

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch


@dataclass(frozen=True)
class FullGraph:
    """Hold a graph as it was traced, how it gets all its layers, and the graph that has them."""

    traced: TracedGraph
    depth: Depth
    graph: ir.Model


def stamped(known: tuple[TracedGraph, ...], draft: Draft) -> tuple[FullGraph, ...] | None:
    """Give graphs that were traced before all the layers of a model; None where they can't be.

    Args:
        known: traced of a model that is like the draft's.
        draft: the model.
    """
    try:
        return tuple(at_depth_of(traced, draft) for traced in known)
    except MoreLayersNeededError:
        return None


def trace_graphs(
    described: Described, checkpoint: Checkpoint, options: ExportOptions, report: Progress
) -> tuple[Described, tuple[FullGraph, ...]]:
    """Trace every graph of a model, and prove that it can be given all its layers.

    Args:
        described: the model.
        checkpoint: where the weights are, should they be needed.
        options: opset; dtype and device of the weights.
        report: called with the stage.

    Returns:
        What was described: another draft where the weights were needed. And the graphs.

    Raises:
        TraceError: a graph can't be captured.
    """
    try:
        return described, _trace_all(described, options.graph, report)
    except WeightsNeededError as error:
        if described.draft.build is None:
            raise TraceError(str(error)) from error
        reason = str(error)
    report("load the weights", None)
    loaded = described.extended(described.draft.with_weights(checkpoint, reason, options.checkpoint), options.graph)
    return loaded, _trace_all(loaded, options.graph, report)


def _trace_all(described: Described, options: GraphOptions, report: Progress) -> tuple[FullGraph, ...]:
    graphs = described.description.graphs
    found = []
    for index, graph in enumerate(graphs):
        report(f"trace {graph.name}", index / len(graphs))
        try:
            traced = trace_few(graph, described.draft, options)
            found.append(at_depth_of(traced, described.draft))
        except MoreLayersNeededError as error:
            report(f"trace {graph.name} with more layers", index / len(graphs))
            found.append(trace_more(index, described, error, options))
    return tuple(found)


def at_depth_of(traced: TracedGraph, draft: Draft) -> FullGraph:
    """Give a graph all the layers that a draft's model stands for.

    Raises:
        MoreLayersNeededError: the layers couldn't be proved isomorphic, or a parameter would have another shape.
    """
    depth = Depth(layers_of(draft.reduction.stacks, traced), "; ".join(draft.reduction.notes))
    graph = at_full_depth(traced, depth)
    _check_shapes(graph, traced.prefix, draft.bound.model)
    return FullGraph(traced, depth, graph)


def trace_more(index: int, described: Described, error: MoreLayersNeededError, options: GraphOptions) -> FullGraph:
    """Trace a graph again: with all layers of the stacks that couldn't be stamped, or else of all stacks.

    Args:
        index: which graph of the description.
        described: the model with few layers.
        error: why they don't do.
        options: opset.

    Raises:
        TraceError: the graph can't be captured.
        WeightsNeededError: it needs the values of parameters.
    """
    whole: frozenset[str] = frozenset()
    while error.stacks - whole:
        whole |= error.stacks
        draft = described.draft.with_all_layers_of(whole)
        if not draft.reduction.stacks:
            break
        try:
            graph = described.extended(draft, options).description.graphs[index]
            found = at_depth_of(trace_few(graph, draft, options), draft)
        except MoreLayersNeededError as other:
            error = other
        else:
            return replace(found, depth=replace(found.depth, note=f"traced at full depth: {error}", as_drafted=False))
    deep = described.extended(described.draft.at_full_depth(str(error)), options)
    with without_values():
        traced = trace_graph(deep.description.graphs[index], deep.draft.reduction, options)
    depth = Depth(note="; ".join(deep.draft.reduction.notes))
    return FullGraph(traced, depth, at_full_depth(traced, depth))


def _check_shapes(graph: ir.Model, prefix: str, model: torch.nn.Module) -> None:
    """Compare the parameters of a graph with those of the model.

    Raises:
        MoreLayersNeededError: one has another shape: a layer isn't like the one that it was copied from.
    """
    shapes = {name: tuple(value.shape) for name, value in model.state_dict(keep_vars=True).items()}
    for name, value in graph.graph.initializers.items():
        tensor = value.const_value
        if not isinstance(tensor, ParameterTensor):
            continue
        found, wanted = tuple(tensor.shape.numpy()), shapes.get(f"{prefix}{name}")
        if wanted is not None and found != wanted:
            raise MoreLayersNeededError(
                f"{prefix}{name} is {list(wanted)}, and {list(found)} in the layer that was traced"
            )


def trace_few(graph: GraphDescription, draft: Draft, options: GraphOptions) -> TracedGraph:
    """Trace a graph with the layers of a draft.

    Raises:
        MoreLayersNeededError: code decides by a layer's index, or needs all layers.
        TraceError: the model isn't shortened, and can't be captured.
        WeightsNeededError: the same, because it needs the values of parameters.
    """
    reduction = draft.reduction
    if not reduction.stacks:
        if draft.build is None:
            return trace_graph(graph, reduction, options)
        with without_values():
            return trace_graph(graph, reduction, options)
    with watched_layer_indices(reduction.model, reduction.stacks) as seen:
        try:
            traced = trace_graph(graph, reduction, options)
        except TraceError as error:
            if not seen.locations:
                reason = f"it can't be traced with few layers ({' '.join(str(error).split())})"
                raise MoreLayersNeededError(reason) from error
    if seen.locations:
        reason = f"code branches on a layer's index ({seen.locations[0]})"
        raise MoreLayersNeededError(f"{', '.join(sorted(seen.stacks))}: {reason}", frozenset(seen.stacks))
    return traced


def trace_graph(graph: GraphDescription, reduction: Reduction, options: GraphOptions) -> TracedGraph:
    """Trace one graph of a model.

    Args:
        graph: its description.
        reduction: the model that it was made of.
        options: opset.

    Raises:
        TraceError: it can't be captured.
    """
    module, code = graph.module_of(reduction.model), graph.code
    with running_fakes(module):
        layout = code.layout(graph.sizes)
    layout.flat = {name: tensor.to(module.device) for name, tensor in layout.flat.items()}
    model = trace(module, code.config, layout, code.examples.signature, opset=options.opset)
    inputs = {str(value.name): value for value in model.graph.inputs}
    fixed = tuple(
        f"{name}: {today_label(label)} = {inputs[name].shape[axis]}"  # type: ignore[index]
        for name, axes in code.config.inputs.items()
        for axis, label in axes.items()
        if name in inputs and isinstance(inputs[name].shape[axis], int)  # type: ignore[index]
    )
    outputs = tuple(map(spec_of, model.graph.outputs))
    return TracedGraph(replace(graph, outputs=outputs, fixed_axes=fixed), model)


def layers_of(stacks: tuple[TracedStack, ...], traced: TracedGraph) -> tuple[Layers, ...]:
    """Return the runs of layers in a graph, from the stacks of the whole model; a decoder's has none of the encoder's.

    Lists beside each other that are shortened alike and interleaved in the graph hold parts of the same layers.
    """
    runs: dict[tuple[str, tuple[int, ...], tuple[int, ...]], list[str]] = {}
    parameters = list(traced.graph.graph.initializers)
    for stack in stacks:
        path = stack.path.removeprefix(traced.prefix)
        if stack.path.startswith(traced.prefix) and any(name.startswith(f"{path}.") for name in parameters):
            runs.setdefault((path.rpartition(".")[0], stack.traced, stack.full), []).append(path)
    return tuple(
        Layers(tuple(paths), kinds, full)
        for (_, kinds, full), beside in runs.items()
        for paths in interleaved(traced.graph.graph, beside)
    )
