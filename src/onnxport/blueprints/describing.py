"""Describe the model of a draft. Tracing and validation reuse the description."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxport._needs import (
    MoreLayersNeededError,
    WeightsNeededError,
    needs_weights,
    translating_missing_values,
    with_few_layers,
)
from onnxport.architectures._recorded import describe_defaults, describe_left_out
from onnxport.architectures.describe import describe
from onnxport.blueprints.draft import Draft
from onnxport.blueprints.subject import Subject
from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.description.arguments import Layout
from onnxport.description.axes import is_cached
from onnxport.description.components import Component
from onnxport.description.delegating import DelegatingOnnxConfig
from onnxport.description.depth import NotExtendableError
from onnxport.description.description import Description, GraphDescription, Runnable, described_by, input_specs
from onnxport.description.documented_inputs import CompletedOnnxConfig
from onnxport.description.positions import adds_tokens, counted_positions, end_token, reread_length
from onnxport.description.signature import sizes_of
from onnxport.description.tolerances import default_tolerance
from onnxport.errors import OptionError, UnsupportedError
from onnxport.options import ExportOptions, GraphOptions, Progress
from onnxport.tracing._capture import default_opset
from onnxport.tracing.originals import RefusedSizesError, trace_examples, try_sizes
from onnxport.tracing.scope import without_values

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.configs import OnnxConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Described:
    """Hold a description and the draft that it describes.

    Attributes:
        draft: its model has the described layers.
        description: see `Description`; it has the code to run the model.
    """

    draft: Draft
    description: Description

    def extended(self, draft: Draft, options: GraphOptions) -> Described:
        """Return the description of a draft with more layers, or with weights.

        If the cache layout of few layers doesn't determine that of all (for instance, if layers share a cache), the
        deeper model is described again.

        Args:
            draft: another draft of the same model.
            options: the options of the export.
        """
        shallow, deep = self.draft.reduction.model, draft.reduction.model
        try:
            return Described(draft, self.description.at_depth(shallow, deep, self.draft.layers_beyond(draft)))
        except NotExtendableError as error:
            logger.info("%s is described again: %s", type(deep).__name__, error)
            with without_values(deep):
                return Described(draft, describe_model(deep, draft.subject, options))


def describe_draft(draft: Draft, checkpoint: Checkpoint, options: ExportOptions, report: Progress) -> Described:
    """Describe the model of a draft; if it can't be run with few layers or without weights, the draft gets them.

    Args:
        draft: its model is run.
        checkpoint: the checkpoint, whose weights are loaded if they are needed.
        options: the options of the export.
        report: called with the stage.

    Raises:
        UnsupportedError: the model can't be described for the task.
        OptionError: `description` isn't a file with a description.
    """
    report("describe the model", None)
    try:
        if draft.reduction.stacks:
            try:
                with without_values(draft.reduction.model), with_few_layers():
                    model = draft.reduction.model
                    return Described(draft, describe_model(model, draft.subject, options.graph, is_reduced=True))
            except MoreLayersNeededError as error:
                draft = draft.at_full_depth(f"with few layers, {error}")
        if draft.build is None:
            with without_values(draft.reduction.model):
                return Described(draft, describe_model(draft.reduction.model, draft.subject, options.graph))
        with without_values(draft.reduction.model), translating_missing_values():
            return Described(draft, describe_model(draft.reduction.model, draft.subject, options.graph))
    except WeightsNeededError as error:
        reason = str(error)
    report("load the weights", None)
    loaded = draft.with_weights(checkpoint, reason, options.checkpoint)
    with without_values(loaded.reduction.model):
        return Described(loaded, describe_model(loaded.reduction.model, loaded.subject, options.graph))


def describe_model(
    model: PreTrainedModel, subject: Subject, options: GraphOptions, *, is_reduced: bool = False
) -> Description:
    """Describe every graph of a model's export, by running it.

    An inferred task becomes the task without past if the model can only be exported for that.

    Args:
        model: its parameters may be fake.
        subject: task and preprocessor.
        options: `description`, `last_logits`, `split_encoders`, `fix`, `opset` and `dtype`.
        is_reduced: whether the model has few layers, with which it may fail.

    Raises:
        UnsupportedError: the model can't be described for the task.
        OptionError: `description` isn't a file with a description, or `fix` names an unknown axis or a size that the
            model refuses.
    """
    try:
        components = describe(model, subject.task, subject.preprocessor, options)
    except UnsupportedError as error:
        if _may_run_later(error, is_reduced) or not (subject.is_inferred and subject.task.with_past):
            raise
        subject = replace(subject, task=subject.task.past(False))
        try:
            components = describe(model, subject.task, subject.preprocessor, options)
        except UnsupportedError as other:
            failure = other if _may_run_later(other, is_reduced) else error
            raise failure from failure.__cause__
        logger.warning("%s is exported without past: %s", type(model).__name__, error)
    graphs = tuple(_describe_graph(component, model, options) for component in components)
    _check_axes(graphs, options)
    return _description(model, subject, graphs, options)


def _check_axes(graphs: tuple[GraphDescription, ...], options: GraphOptions) -> None:
    """Check that every axis that the options fix is one of a graph's inputs."""
    known = {symbol: None for graph in graphs for symbol in graph.sizes}
    unknown = [axis for axis in options.fix or () if axis not in known]
    if unknown:
        raise OptionError(
            f"--fix names {', '.join(unknown)}, which no input has as an axis; the axes are {', '.join(known)}"
        )


def _may_run_later(error: UnsupportedError, is_reduced: bool) -> bool:
    """Return whether a model that failed may run with more layers, or with its weights."""
    return error.__cause__ is not None and (is_reduced or needs_weights(error))


def description_of(draft: Draft, graphs: tuple[GraphDescription, ...], options: GraphOptions) -> Description:
    """Return the description of a draft, from the descriptions of its graphs."""
    subject = draft.subject
    has_past = subject.task.with_past and any(is_cached(spec.name) for graph in graphs for spec in graph.inputs)
    if subject.is_inferred and not has_past:  # see `describe_model`
        subject = replace(subject, task=subject.task.past(False))
    return _description(draft.bound.model, subject, graphs, options)


def _description(
    model: PreTrainedModel, subject: Subject, graphs: tuple[GraphDescription, ...], options: GraphOptions
) -> Description:
    inputs = {spec.name for graph in graphs for spec in graph.inputs}
    exported = graphs[0].module_of(model) if len(graphs) == 1 else model  # the encoder of an encoder-decoder
    return Description(
        subject.config.model_type,
        type(model).__name__,
        subject.task.full_name,
        options.dtype,
        graphs,
        left_out=describe_left_out(exported, subject.task, inputs, {name for graph in graphs for name in graph.unused}),
        positions=counted_positions(model),
        defaults=describe_defaults(exported),
        reread_length=reread_length(model),
        adds_tokens=adds_tokens(model),
        end_token=end_token(model),
    )


def _describe_graph(component: Component, model: PreTrainedModel, options: GraphOptions) -> GraphDescription:
    runnable = Runnable(component.config, component.preprocessor)
    layout, sizes = trace_examples(component.model, runnable.examples)
    fixed = {symbol: size for symbol, size in (options.fix or {}).items() if symbol in sizes}
    if fixed:
        layout, sizes = _at_fixed_sizes(component, runnable, layout, sizes | fixed)
    prefix = next(name for name, module in model.named_modules() if module is component.model)
    tolerance = default_tolerance(component.config.atol_for_validation, options.dtype)
    return GraphDescription(
        name=component.name,
        prefix=f"{prefix}." if prefix else "",
        described_by=described_by(component.config),
        opset=options.opset or default_opset(),
        atol=tolerance.atol,
        rtol=tolerance.rtol,
        inputs=input_specs(runnable, layout, str(component.model.dtype).removeprefix("torch."), fixed),
        sizes=sizes,
        unused=_unused(component.config),
        cache=runnable.cache,
        fixed_sizes=fixed,
        runnable=runnable,
    )


def _unused(config: OnnxConfig) -> tuple[str, ...]:
    """Return the parameters that the description of a graph knows to be unused."""
    while isinstance(config, DelegatingOnnxConfig) and not isinstance(config, CompletedOnnxConfig):
        config = config.trunk
    return config.unused if isinstance(config, CompletedOnnxConfig) else ()


def _at_fixed_sizes(
    component: Component, runnable: Runnable, default: Layout, sizes: dict[str, int]
) -> tuple[Layout, dict[str, int]]:
    """Make the inputs to trace with at the sizes that the options fix.

    Args:
        component: the component.
        runnable: makes its inputs.
        default: its inputs at other sizes.
        sizes: symbol to size.

    Raises:
        OptionError: the model runs at other sizes, and not at these, or these make another size 1.
    """
    examples = runnable.examples
    layout = runnable.layout(sizes)
    made = sizes_of(examples.signature.for_inputs(layout.flat), layout.flat)
    for symbol in sizes:
        if made.get(symbol) == 1 < sizes[symbol]:  # the trace would fix it
            raise OptionError(f"--fix: {symbol} follows from what is fixed: add {symbol}=1")
    try:
        try_sizes(component.model, examples, layout)
    except RefusedSizesError as error:
        try:
            try_sizes(component.model, examples, default)
        except RefusedSizesError:  # for another reason, with which the description continues or fails
            return layout, sizes
        text = ", ".join(f"{symbol}={size}" for symbol, size in sizes.items())
        raise OptionError(f"--fix: {type(component.model).__name__} doesn't run with {text} ({error})") from error
    return layout, sizes


def with_code(description: Description, model: PreTrainedModel, subject: Subject, options: GraphOptions) -> Description:
    """Return the description of a cache entry with the code to run a model, which is described again to get it.

    Args:
        description: the cached description; its sizes are unchanged.
        model: the model at full depth.
        subject: its preprocessor makes the inputs.
        options: the options of the export.
    """
    components = describe(model, description.canonical_task, subject.preprocessor, options)
    graphs = zip(description.graphs, components, strict=True)
    return replace(
        description,
        graphs=tuple(replace(g, runnable=Runnable(c.config, c.preprocessor)) for g, c in graphs),
    )
