"""Make a blueprint: bind, build with fake parameters, shorten, describe, trace, stamp.

No tensor of the checkpoint is read, and no layer is traced that has a twin, as long as that can be done and proved.
What can't be done that way is done with the weights in memory, or at full depth, and the blueprint says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from onnxport.architectures.describe import Component, describe, infer_task, model_class, text_only
from onnxport.binding.bind import Bound, bind
from onnxport.blueprints.blueprint import Blueprint, Depth, TracedGraph, at_full_depth
from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.description.axes import today_label
from onnxport.description.examples import Examples
from onnxport.description.sentence_head import with_head
from onnxport.description.signature import signature_of
from onnxport.description.tasks import SENTENCE_SIMILARITY, Task, canonical_task
from onnxport.errors import OnnxportError, OptionError, TraceError, UnsupportedError
from onnxport.loading.load import dtype_of, load_config, load_model, load_preprocessor
from onnxport.options import ExportOptions, Progress
from onnxport.patching.patch import patched
from onnxport.stamping import Layers, StampError, interleaved
from onnxport.tracing import trace
from onnxport.tracing._capture import quiet_engine
from onnxport.tracing.fake import build_fake, like_full
from onnxport.tracing.layer_indices import watched_layer_indices
from onnxport.tracing.originals import trace_examples
from onnxport.tracing.patches import fake_patches
from onnxport.tracing.reduction import Reduction, TracedStack, reduce
from onnxport.weights.parameters import ParameterTensor

if TYPE_CHECKING:
    import onnx_ir as ir
    from transformers import PreTrainedConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """Name what is exported.

    Attributes:
        task: what for.
        model_class: the class that loads it.
        config: its configuration.
        preprocessor: what makes its inputs; None where the checkpoint has none.
    """

    task: Task
    model_class: Any
    config: PreTrainedConfig
    preprocessor: Any


def subject_of(checkpoint: Checkpoint, options: ExportOptions) -> Subject:
    """Find out what a checkpoint is and what it is for.

    Raises:
        CheckpointError: its configuration or preprocessor can't be read.
        UnsupportedError: there is no class for it and the task.
    """
    named = checkpoint.adapter.task if checkpoint.adapter and options.task is None else options.task
    wanted = canonical_task(named) if named is not None else None
    config = load_config(checkpoint, options)
    if not config.architectures and checkpoint.format == "gguf":
        wanted = wanted or canonical_task("text-generation-with-past")
    code = checkpoint.directory if options.trust_remote_code else None
    if checkpoint.sentence:
        wanted = wanted or canonical_task(SENTENCE_SIMILARITY)
    task = wanted or infer_task(config, code=code)
    if not options.past:
        task = task.past(False)
    if options.last_logits and task.name != "text-generation":
        raise OptionError(f"--last-logits is for text-generation, and this is {task.name}: leave it out")
    chosen = model_class(config, task, code=code)
    task = text_only(task, chosen)
    if checkpoint.sentence:
        chosen = with_head(chosen, checkpoint.sentence.modules)
    return Subject(task, chosen, config, load_preprocessor(checkpoint, options))


@dataclass(frozen=True)
class Draft:
    """Hold what is known before tracing.

    Attributes:
        subject: what is exported.
        bound: the model at full depth, and its binding.
        full: builds the model at full depth with fake parameters; None where that can't be done.
        reduction: the model to trace.
        less: chooses another one, in which the named stacks have all their layers.
    """

    subject: Subject
    bound: Bound
    full: Callable[[], Any] | None
    reduction: Reduction
    less: Callable[[frozenset[str]], Reduction] | None = None


def draft(checkpoint: Checkpoint, options: ExportOptions, report: Progress) -> Draft:
    """Bind a checkpoint and choose the model to trace.

    Raises:
        CheckpointError: it can't be read, or its tensors don't fit.
        UnsupportedError: there is no class for it and the task.
    """
    subject = subject_of(checkpoint, options)
    report("bind the weights", None)
    bound = bind(checkpoint, subject.model_class, subject.config, options)

    def build(config: PreTrainedConfig) -> Any:
        return like_full(build_fake(subject.model_class, config, dtype_of(options)), bound.model)

    def full() -> Any:
        return build(bound.model.config)

    def less(whole: frozenset[str]) -> Reduction:
        return reduce(bound.model, build, whole)

    try:
        reduction = reduce(bound.model, build) if options.stamping else Reduction(full(), notes=("--no-stamping",))
    except Exception as error:
        logger.info("%s can't be built without weights: %s", subject.model_class.__name__, error)
        note = f"traced with its weights in memory: it can't be built without ({type(error).__name__}: {error})"
        loaded = load_model(checkpoint, subject.model_class, options)
        return Draft(subject, bound, None, Reduction(loaded, notes=(note,)))
    return Draft(subject, bound, full, reduction, less)


Known = tuple[TracedGraph, ...] | None
"""Graphs of the model to trace that were traced before."""


def make(
    checkpoint: Checkpoint, drafted: Draft, choices: tuple[Known, ExportOptions], report: Progress
) -> tuple[Blueprint, tuple[ir.Model, ...]]:
    """Trace every graph of a model, and prove that it can be given all its layers.

    Args:
        checkpoint: where the weights are, should they be needed.
        drafted: see `Draft`.
        choices: the graphs where they were traced before, and the options.
        report: called with the stage.

    Returns:
        The blueprint, and its graphs with all their layers: proving makes them.

    Raises:
        UnsupportedError: the model can't be described for the task.
        TraceError: a graph can't be captured.
    """
    known, options = choices
    validated_tasks = _graphs(checkpoint, drafted, (known, options), report)
    subject = drafted.subject
    blueprint = Blueprint(
        subject.task,
        type(drafted.bound.model).__name__,
        checkpoint.model_type or drafted.bound.model.config.model_type,
        tuple(traced for traced, _, _ in validated_tasks),
        tuple(depth for _, depth, _ in validated_tasks),
        drafted.bound.binding,
        cached=known is not None,
    )
    return blueprint, tuple(graph for _, _, graph in validated_tasks)


ValidatedTasks = tuple[TracedGraph, Depth, "ir.Model"]
"""A graph as it was traced, how it gets all its layers, and the graph that has them."""


def _graphs(
    checkpoint: Checkpoint, drafted: Draft, choices: tuple[Known, ExportOptions], report: Progress
) -> list[ValidatedTasks]:
    options = choices[1]
    try:
        return _graphs_of(drafted, choices, report)
    except Exception as error:
        wants_values = isinstance(error, TraceError) or (isinstance(error, UnsupportedError) and error.__cause__)
        if drafted.full is None or (isinstance(error, OnnxportError) and not wants_values):
            raise
        reason = f"traced with its weights in memory: {' '.join(str(error).split())[:300]}"
    report("load the weights", None)
    loaded = load_model(checkpoint, drafted.subject.model_class, options)
    whole = replace(drafted, full=None, reduction=Reduction(loaded, notes=(reason,)))
    return _graphs_of(whole, (None, options), report)


def _graphs_of(drafted: Draft, choices: tuple[Known, ExportOptions], report: Progress) -> list[ValidatedTasks]:
    known, options = choices
    try:
        described = () if known else _describe(drafted.reduction.model, drafted.subject, options)
    except Exception as error:
        if drafted.full is None or not drafted.reduction.stacks:
            raise
        whole = Reduction(drafted.full(), notes=(f"traced at full depth: with few layers, {error}",))
        return _graphs_of(replace(drafted, reduction=whole), choices, report)
    parts: tuple[TracedGraph | Component, ...] = known or described
    validated_tasks = []
    for index, part in enumerate(parts):
        report(f"trace {part.name}", index / len(parts))
        try:
            traced = part if isinstance(part, TracedGraph) else _trace_few(part, drafted.reduction, options)
            depth = Depth(layers_of(drafted.reduction.stacks, traced), "; ".join(drafted.reduction.notes))
            graph = at_full_depth(traced, depth)
            _check_shapes(graph, traced.prefix, drafted.bound.model)
        except StampError as error:
            report(f"trace {part.name} with more layers", index / len(parts))
            traced, depth, graph = _with_more_layers(part.name, drafted, error, options)
        validated_tasks.append((traced, depth, graph))
    return validated_tasks


def _with_more_layers(name: str, drafted: Draft, error: StampError, options: ExportOptions) -> ValidatedTasks:
    """Trace a component again: with all layers of the stacks that couldn't be stamped, or else of all stacks."""
    whole: frozenset[str] = frozenset()
    while drafted.less is not None and error.stacks - whole:
        whole |= error.stacks
        less = drafted.less(whole)
        if not less.stacks:
            break
        try:
            part = _part(name, less.model, drafted, options)
            traced = _trace_few(part, less, options)
            depth = Depth(layers_of(less.stacks, traced), f"traced at full depth: {error}", as_drafted=False)
            graph = at_full_depth(traced, depth)
            _check_shapes(graph, traced.prefix, drafted.bound.model)
        except StampError as other:
            error = other
        else:
            return traced, depth, graph
    assert drafted.full is not None, "layers are stamped in models without weights"
    full = drafted.full()
    traced = trace_component(_part(name, full, drafted, options), full, options)
    depth = Depth(note=f"traced at full depth: {error}")
    return traced, depth, at_full_depth(traced, depth)


def _part(name: str, model: Any, drafted: Draft, options: ExportOptions) -> Component:
    return next(part for part in _describe(model, drafted.subject, options) if part.name == name)


def _check_shapes(graph: ir.Model, prefix: str, model: Any) -> None:
    """Compare the parameters of a graph with those of the model.

    Raises:
        StampError: one has another shape: a layer isn't like the one that it was copied from.
    """
    shapes = {name: tuple(value.shape) for name, value in model.state_dict(keep_vars=True).items()}
    for name, value in graph.graph.initializers.items():
        tensor = value.const_value
        if not isinstance(tensor, ParameterTensor):
            continue
        found, wanted = tuple(tensor.shape.numpy()), shapes.get(f"{prefix}{name}")
        if wanted is not None and found != wanted:
            raise StampError(f"{prefix}{name} is {list(wanted)}, and {list(found)} in the layer that was traced")


def _trace_few(component: Component, reduction: Reduction, options: ExportOptions) -> TracedGraph:
    """Trace a component with few layers.

    Raises:
        StampError: code depends on the layer index, or needs all layers.
    """
    with watched_layer_indices(reduction.model, reduction.stacks) as seen:
        try:
            traced = trace_component(component, reduction.model, options)
        except Exception as error:
            if not seen.locations and reduction.stacks:
                raise StampError(f"it can't be traced with few layers ({' '.join(str(error).split())})") from error
            if not seen.locations:
                raise
    if seen.locations:
        reason = f"code depends on the layer index ({seen.locations[0]})"
        raise StampError(f"{', '.join(sorted(seen.stacks))}: {reason}", frozenset(seen.stacks))
    return traced


def _describe(model: Any, subject: Subject, options: ExportOptions) -> tuple[Component, ...]:
    with quiet_engine(), patched(fake_patches()):
        return describe(model, subject.task, subject.preprocessor, options)


def trace_component(component: Component, whole: Any, options: ExportOptions) -> TracedGraph:
    """Trace one graph of a model.

    Args:
        component: the description and the module.
        whole: the model that the module belongs to.
        options: opset.
    """
    signature = signature_of(component.config).today()
    examples = Examples(component.config, signature, component.preprocessor)
    with quiet_engine(), patched(fake_patches()):
        layout, sizes = trace_examples(component.model, examples)
    layout.flat = {name: tensor.to(component.model.device) for name, tensor in layout.flat.items()}
    graph = trace(component.model, component.config, layout, signature, opset=options.opset)
    prefix = next(name for name, module in whole.named_modules() if module is component.model)
    inputs = {str(value.name): value for value in graph.graph.inputs}
    fixed = tuple(
        f"{name}: {today_label(label)} = {inputs[name].shape[axis]}"  # type: ignore[index]
        for name, axes in component.config.inputs.items()
        for axis, label in axes.items()
        if name in inputs and isinstance(inputs[name].shape[axis], int)  # type: ignore[index]
    )
    return TracedGraph(
        component.name, graph, f"{prefix}." if prefix else "", sizes, component.config.atol_for_validation, fixed
    )


def layers_of(stacks: tuple[TracedStack, ...], traced: TracedGraph) -> tuple[Layers, ...]:
    """Return the runs of layers in a graph, from the stacks of the whole model; a decoder's has none of the encoder's.

    Lists that lie beside each other, are shortened alike and take turns in the graph hold parts of the same layers.
    """
    runs: dict[tuple[Any, ...], list[str]] = {}
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
