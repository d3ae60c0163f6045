"""Describe the graphs that an export would create: the same steps as `export`, on a model with fake parameters.

Headers of safetensors files are read, tensors aren't. The weights are loaded only if building or running the model
requires their values; `Description.notes` then has the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport._needs import WeightsNeededError, translating_missing_values
from onnxport.binding.bind import bind
from onnxport.blueprints.describing import describe_model
from onnxport.blueprints.image_processing import find_image_processing, taking_images
from onnxport.blueprints.subject import Subject, subject_of
from onnxport.checkpoint.checkpoint import Checkpoint, open_checkpoint
from onnxport.description.axes import symbols_of, today_label
from onnxport.description.border_dtypes import border_dtype
from onnxport.description.description import Description, GraphDescription, TensorSpec, input_specs
from onnxport.description.examples import Examples
from onnxport.description.signature import signature_of
from onnxport.description.tolerances import tolerance_of
from onnxport.loading.load import dtype_of, load_model
from onnxport.options import CheckpointOptions, ExportOptions, GraphOptions
from onnxport.patching.scope import exclusive
from onnxport.tracing.fake import build_fake, like_full
from onnxport.tracing.probe import Probe, probe
from onnxport.tracing.scope import quiet_engine, without_values

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@exclusive()
def describe_checkpoint(model: str | Path, options: ExportOptions | None = None) -> Description:
    """Describe the graphs of an export without exporting.

    Args:
        model: local directory, GGUF file, or repository on the hub.
        options: the options of the export.

    Raises:
        CheckpointError: the checkpoint can't be read.
        UnsupportedError: its model type or the task isn't supported.
    """
    options = options or ExportOptions()
    checkpoint = open_checkpoint(model, options.checkpoint)
    subject = subject_of(checkpoint, options)
    notes: tuple[str, ...] = ()
    try:
        with quiet_engine(), translating_missing_values():
            full_model, notes = _build_fake_model(checkpoint, subject, options.checkpoint)
        with without_values(full_model), translating_missing_values():
            description = _describe_with_axes(full_model, subject, options)
    except WeightsNeededError as error:
        notes = (f"the weights were loaded, because the description requires their values ({error})",)
        with quiet_engine():
            full_model = load_model(checkpoint, subject.model_class, options.checkpoint)
            description = _describe_with_axes(full_model, subject, options)
    model_type = checkpoint.model_type or full_model.config.model_type
    return replace(description, model=checkpoint.name, model_type=model_type, notes=notes)


def _build_fake_model(
    checkpoint: Checkpoint, subject: Subject, options: CheckpointOptions
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """Build the model at full depth with fake parameters, adapted to the checkpoint as far as its headers allow."""
    if not checkpoint.in_parts:
        note = (
            f"{checkpoint.format} files aren't read in parts, so the weights weren't inspected; an export omits a "
            "pooler that they don't have"
        )
        return build_fake(subject.model_class, subject.config, dtype_of(options)), (note,)
    bound = bind(checkpoint, subject.model_class, subject.config, options)
    fake = build_fake(subject.model_class, bound.model.config, dtype_of(options))
    return like_full(fake, bound.model), ()


def _describe_with_axes(full_model: PreTrainedModel, subject: Subject, options: ExportOptions) -> Description:
    """Describe a model, with the dynamic and fixed axes found by running it at several sizes."""
    description = describe_model(full_model, subject, options.graph)
    description = replace(
        description, graphs=tuple(_probe_graph(graph, full_model, options) for graph in description.graphs)
    )
    if options.image_processing:
        description = taking_images(description, find_image_processing(subject, description))
    graphs = (_with_border_dtypes(graph, options.graph) for graph in description.graphs)
    return replace(description, graphs=tuple(graphs))


def _with_border_dtypes(graph: GraphDescription, options: GraphOptions) -> GraphDescription:
    """Return a description with the dtypes of the options."""
    inputs, outputs = (
        tuple(replace(one, dtype=border_dtype(one.name, one.dtype, options, is_input=is_input)) for one in specs)
        for specs, is_input in ((graph.inputs, True), (graph.outputs, False))
    )
    return replace(graph, inputs=inputs, outputs=outputs)


def _probe_graph(graph: GraphDescription, full_model: PreTrainedModel, options: ExportOptions) -> GraphDescription:
    module, code = graph.module_of(full_model), graph.code
    examples = Examples(code.config, signature_of(code.config), code.preprocessor)
    probed = probe(module, examples, code.layout(graph.sizes), graph.fixed_sizes)
    dtype = str(module.dtype).removeprefix("torch.")
    tolerance = tolerance_of(graph, options.validation)
    return replace(
        graph,
        atol=tolerance.atol,
        rtol=tolerance.rtol,
        inputs=input_specs(code, probed.layout, dtype, {**graph.fixed_sizes, **_today(probed.fixed)}),
        outputs=_output_specs(probed, examples),
        fixed_axes=_fixed_axes(probed, examples),
    )


def _today(sizes: Mapping[str, int]) -> dict[str, int]:
    return {today_label(symbol): size for symbol, size in sizes.items()}


def _fixed_axes(probed: Probe, examples: Examples) -> tuple[str, ...]:
    """List the input axes whose size the model fixes."""
    return tuple(
        f"{name}: {today_label(label)} = {probed.layout.flat[name].shape[axis]}"
        for name, axes in examples.signature.for_inputs(probed.layout.flat).inputs.items()
        for axis, label in axes.items()
        if set(symbols_of(label)) & set(probed.fixed)
    )


def _output_specs(probed: Probe, examples: Examples) -> tuple[TensorSpec, ...]:
    declared = examples.signature.outputs
    return tuple(
        TensorSpec.of(name, dtype, shape, _preferred_labels(probed.labels[name], declared.get(name, {})))
        for name, (dtype, shape) in probed.outputs.items()
    )


def _preferred_labels(labels: dict[int, str], declared: dict[int, str]) -> dict[int, str]:
    """Return axis labels, with the terms of a sum in the order of the declared label."""
    return {
        axis: declared[axis]
        if axis in declared and sorted(symbols_of(declared[axis])) == sorted(symbols_of(label))
        else label
        for axis, label in labels.items()
    }
