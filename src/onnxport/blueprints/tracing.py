"""Trace the graphs of a described model, and stamp them to full depth.

Of isomorphic layers, only a few are traced, if it can be proved that they are isomorphic. Otherwise the graph is traced
with more layers, or with the weights in memory, and the blueprint has a note with the reason.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from onnxport._needs import MoreLayersNeededError, WeightsNeededError, translating_missing_values
from onnxport.blueprints.blueprint import Depth, TracedGraph, at_full_depth, spec_of
from onnxport.blueprints.describing import Described
from onnxport.blueprints.draft import Draft
from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.description.axes import is_fixed, today_label
from onnxport.description.description import GraphDescription
from onnxport.description.lengths import long_length, positions_of
from onnxport.errors import TraceError, UnsupportedError
from onnxport.options import ExportOptions, GraphOptions, Progress
from onnxport.stamping import Layers, interleaved
from onnxport.tracing import Traced, trace
from onnxport.tracing._steps import reporting_steps
from onnxport.tracing.layer_indices import watched_layer_indices
from onnxport.tracing.originals import RefusedSizesError, try_sizes
from onnxport.tracing.reduction import Reduction, TracedStack
from onnxport.tracing.scope import without_values
from onnxport.weights.parameters import ParameterTensor

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class FullGraph:
    """Hold a traced graph, how it is extended to full depth, and the graph at full depth."""

    traced: TracedGraph
    depth: Depth
    graph: ir.Model


def stamp_cached(graphs: tuple[TracedGraph, ...], draft: Draft) -> tuple[FullGraph, ...] | None:
    """Stamp cached graphs to the full depth of a model; return None if it fails.

    Args:
        graphs: traced graphs of a model with the same trace key as the draft's.
        draft: the draft of the model.
    """
    try:
        return tuple(stamp_to_full_depth(traced, draft) for traced in graphs)
    except MoreLayersNeededError:
        return None


def trace_graphs(
    described: Described, checkpoint: Checkpoint, options: ExportOptions, report: Progress
) -> tuple[Described, tuple[FullGraph, ...]]:
    """Trace every graph of a model, and stamp it to full depth.

    Args:
        described: the described model.
        checkpoint: the checkpoint, whose weights are loaded if they are needed.
        options: opset; dtype and device of the weights.
        report: called with the stage.

    Returns:
        The described model, with another draft if the weights were needed; and the graphs.

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
    full_graphs = []
    for index, graph in enumerate(graphs):
        share = index / len(graphs)
        name = f"trace {graph.name}"
        try:
            with reporting_steps(partial(_report_step, report, name, share)):
                traced = trace_with_few_layers(graph, described.draft, options)
            report(f"stamp the layers of {graph.name}", share)
            full_graphs.append(stamp_to_full_depth(traced, described.draft))
        except MoreLayersNeededError as error:
            with reporting_steps(partial(_report_step, report, f"{name} with more layers", share)):
                full_graphs.append(trace_with_more_layers(index, described, error, options))
    return tuple(full_graphs)


def _report_step(report: Progress, stage: str, share: float, step: str) -> None:
    report(f"{stage}: {step}", share)


def stamp_to_full_depth(traced: TracedGraph, draft: Draft) -> FullGraph:
    """Stamp a graph to the depth of a draft's full model.

    Raises:
        MoreLayersNeededError: the layers couldn't be proved isomorphic, or the shape of a parameter differs.
    """
    depth = Depth(layers_of(draft.reduction.stacks, traced), "; ".join(draft.reduction.notes))
    graph = at_full_depth(traced, depth)
    _check_shapes(graph, traced.prefix, draft.bound.model)
    return FullGraph(traced, depth, graph)


def trace_with_more_layers(
    index: int, described: Described, error: MoreLayersNeededError, options: GraphOptions
) -> FullGraph:
    """Trace a graph again: with all layers of the stacks that couldn't be stamped, or else of all stacks.

    Args:
        index: index of the graph in the description.
        described: the model with few layers.
        error: why few layers aren't sufficient.
        options: opset.

    Raises:
        TraceError: the graph can't be captured.
        WeightsNeededError: tracing requires the values of parameters.
    """
    full_stacks: frozenset[str] = frozenset()
    while error.stacks - full_stacks:
        full_stacks |= error.stacks
        draft = described.draft.with_all_layers_of(full_stacks)
        if not draft.reduction.stacks:
            break
        try:
            graph = described.extended(draft, options).description.graphs[index]
            full = stamp_to_full_depth(trace_with_few_layers(graph, draft, options), draft)
        except MoreLayersNeededError as other:
            error = other
        except UnsupportedError:  # its stacks must be of equal length: PI0's layers share a cache with another stack's
            break
        else:
            return replace(full, depth=replace(full.depth, note=f"traced at full depth: {error}", as_drafted=False))
    deep = described.extended(described.draft.at_full_depth(str(error)), options)
    with translating_missing_values():
        traced = trace_graph(deep.description.graphs[index], deep.draft.reduction, options)
    depth = Depth(note="; ".join(deep.draft.reduction.notes))
    return FullGraph(traced, depth, at_full_depth(traced, depth))


def _check_shapes(graph: ir.Model, prefix: str, model: torch.nn.Module) -> None:
    """Compare the shapes of a graph's parameters with the model's.

    Raises:
        MoreLayersNeededError: a shape differs: a stamped layer isn't isomorphic to its template.
    """
    shapes = {name: tuple(value.shape) for name, value in model.state_dict(keep_vars=True).items()}
    for name, value in graph.graph.initializers.items():
        tensor = value.const_value
        if not isinstance(tensor, ParameterTensor):
            continue
        shape, expected = tuple(tensor.shape.numpy()), shapes.get(f"{prefix}{name}")
        if expected is not None and shape != expected:
            raise MoreLayersNeededError(f"{prefix}{name} is {list(expected)}, and {list(shape)} in the traced layer")


def trace_with_few_layers(graph: GraphDescription, draft: Draft, options: GraphOptions) -> TracedGraph:
    """Trace a graph with the layers of a draft.

    Raises:
        MoreLayersNeededError: the model's code branches on a layer index, or requires all layers.
        TraceError: the model has all its layers, and can't be captured.
        WeightsNeededError: the same, because tracing requires the values of parameters.
    """
    reduction = draft.reduction
    if not reduction.stacks:
        if draft.build is None:
            return trace_graph(graph, reduction, options)
        with translating_missing_values():
            return trace_graph(graph, reduction, options)
    with watched_layer_indices(reduction.model, reduction.stacks) as branches:
        try:
            traced = trace_graph(graph, reduction, options)
        except TraceError as error:
            if not branches.locations:
                reason = f"it can't be traced with few layers ({' '.join(str(error).split())})"
                raise MoreLayersNeededError(reason) from error
    if branches.locations:
        reason = f"code branches on a layer index ({branches.locations[0]})"
        raise MoreLayersNeededError(f"{', '.join(sorted(branches.stacks))}: {reason}", frozenset(branches.stacks))
    return traced


def trace_graph(graph: GraphDescription, reduction: Reduction, options: GraphOptions) -> TracedGraph:
    """Trace one graph of a model.

    Args:
        graph: its description.
        reduction: the described model.
        options: opset.

    Raises:
        TraceError: it can't be captured, or it fixes an axis that the user's description lists as dynamic.
    """
    module, code = graph.module_of(reduction.model), graph.code
    traced = _trace_beyond_limits(graph, module, options)
    if batches := _fixed_batches(graph, traced):
        graph, traced = _trace_one_sample(graph, batches, module, options) or (graph, traced)
    inputs = {str(value.name): value for value in traced.graph.graph.inputs}
    fixed = tuple(
        f"{name}: {today_label(label)} = {inputs[name].shape[axis]}"  # type: ignore[index]
        for name, axes in code.config.inputs.items()
        for axis, label in axes.items()
        if name in inputs and isinstance(inputs[name].shape[axis], int)  # type: ignore[index]
        if not is_fixed(label, graph.fixed_sizes)
    )
    if fixed and options.description is not None:
        raise TraceError(
            f"{options.description} lists axes as dynamic that {type(module).__name__} fixes ({'; '.join(fixed)}): "
            "leave them out of its inputs"
        )
    outputs = tuple(map(spec_of, traced.graph.graph.outputs))
    limited = replace(graph, max_sizes=traced.max_sizes, branch_sizes=traced.branch_sizes)
    return TracedGraph(replace(limited, outputs=outputs, fixed_axes=fixed), traced.graph)


def _fixed_batches(graph: GraphDescription, traced: Traced) -> set[str]:
    """Return the symbols of batches of several samples whose size the model's code fixes, by a loop over them."""
    shapes = {str(value.name): value.shape for value in traced.graph.graph.inputs if value.shape is not None}
    labels = {
        today_label(label)
        for name, axes in graph.code.config.inputs.items()
        for axis, label in axes.items()
        if name in shapes and isinstance(shapes[name][axis], int)
    }
    fixed = graph.fixed_sizes
    return {label for label in labels if "batch" in label and graph.sizes.get(label, 1) > 1 and label not in fixed}


def _trace_one_sample(
    graph: GraphDescription, batches: Collection[str], module: PreTrainedModel, options: GraphOptions
) -> tuple[GraphDescription, Traced] | None:
    """Trace a graph with a batch of 1; the runtime runs it for each sample. Return None if the model refuses that."""
    single = replace(graph, sizes={**graph.sizes, **dict.fromkeys(batches, 1)})
    try:
        with without_values(module):
            try_sizes(module, graph.code.examples, graph.code.examples.at(single.sizes))
        return single, _trace(single, module, options)
    except (RefusedSizesError, TraceError):
        return None


def _trace_beyond_limits(graph: GraphDescription, module: PreTrainedModel, options: GraphOptions) -> Traced:
    """Trace a graph; with longer sequences if its limit isn't the model's, and that trace holds for any length."""
    traced = _trace(graph, module, options)
    hidden = _hidden_limits(graph, module, traced.max_sizes)
    if not hidden:
        return traced
    try:
        longer = _trace(replace(graph, sizes={**graph.sizes, **hidden}), module, options)
    except TraceError:
        return traced
    dims = {str(dim) for value in longer.graph.graph.inputs for dim in value.shape or ()}
    holds = all(longer.min_sizes.get(symbol, 0) <= graph.sizes[symbol] for symbol in hidden)
    reaches = all(longer.max_sizes.get(symbol, size) >= size for symbol, size in hidden.items())
    return longer if holds and reaches and hidden.keys() <= dims else traced


def _trace(graph: GraphDescription, module: PreTrainedModel, options: GraphOptions) -> Traced:
    with without_values(module):
        layout = graph.code.layout(graph.sizes)
    layout.flat = {name: tensor.to(module.device) for name, tensor in layout.flat.items()}
    signature = graph.code.examples.signature
    return trace(module, graph.code.config, layout, signature, opset=options.opset, fixed=graph.fixed_sizes)


def _hidden_limits(graph: GraphDescription, module: PreTrainedModel, max_sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the symbols of sequences whose short limit is the graph's, not the model's, each with a size beyond it.

    The code that was traced branches on the length, and takes the branch of the short example (LongT5's global blocks).
    """
    config = module.config
    limits = {
        symbol: size
        for symbol, size in max_sizes.items()
        if symbol in graph.sizes and "sequence" in symbol and size < _SHORT and size not in positions_of(config)
    }
    hidden = {}
    for symbol, limit in limits.items():
        size = max(limit + 1, long_length(config, 0))
        with without_values(module):
            try:
                try_sizes(module, graph.code.examples, graph.code.examples.at({**graph.sizes, symbol: size}))
            except RefusedSizesError:
                continue
        hidden[symbol] = size
    return hidden


_SHORT = 128
"""Length from which a limit stays: a trace beyond it would be invalid for shorter sequences (Doge's window)."""


def layers_of(stacks: tuple[TracedStack, ...], traced: TracedGraph) -> tuple[Layers, ...]:
    """Return the layers of a graph, from the model's stacks of which it has parameters.

    Sibling `ModuleList`s of the same layer types that are interleaved in the graph are parts of the same layers.
    """
    siblings: dict[tuple[str, tuple[int, ...], tuple[int, ...]], list[str]] = {}
    parameters = list(traced.graph.graph.initializers)
    for stack in stacks:
        path = stack.path.removeprefix(traced.prefix)
        if stack.path.startswith(traced.prefix) and any(name.startswith(f"{path}.") for name in parameters):
            siblings.setdefault((path.rpartition(".")[0], stack.traced, stack.full), []).append(path)
    return tuple(
        Layers(tuple(group), layer_types, full)
        for (_, layer_types, full), paths in siblings.items()
        for group in interleaved(traced.graph.graph, paths)
    )
