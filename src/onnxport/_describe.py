"""Describe what an export would make of a checkpoint: the same steps, with parameters that have no values.

Headers of safetensors files are read, tensors aren't. Only a model that needs values is loaded, and a note tells so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport._needs import WeightsNeededError, without_values
from onnxport.binding.bind import bind
from onnxport.blueprints.describing import describe_model
from onnxport.blueprints.subject import Subject, subject_of
from onnxport.checkpoint.checkpoint import Checkpoint, open_checkpoint
from onnxport.description.axes import symbols_of, today_label
from onnxport.description.description import Description, GraphDescription, TensorSpec, input_specs
from onnxport.description.examples import Examples
from onnxport.description.signature import signature_of
from onnxport.description.tolerances import tolerance_of
from onnxport.loading.load import dtype_of, load_model
from onnxport.options import CheckpointOptions, ExportOptions
from onnxport.patching.scope import exclusive
from onnxport.tracing.fake import build_fake, like_full
from onnxport.tracing.probe import Probe, probe
from onnxport.tracing.scope import quiet_engine
from onnxport.tracing.scope import without_values as running_fakes

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@exclusive()
def describe_checkpoint(model: str | Path, options: ExportOptions | None = None) -> Description:
    """Describe what an export would make, without making it.

    Args:
        model: local directory, GGUF file, or repository on the hub.
        options: those that would be given to `export`.

    Raises:
        CheckpointError: the checkpoint can't be read.
        UnsupportedError: its model type or the task isn't supported.
    """
    options = options or ExportOptions()
    checkpoint = open_checkpoint(model, options.checkpoint)
    subject = subject_of(checkpoint, options)
    notes: tuple[str, ...] = ()
    try:
        with quiet_engine(), without_values():
            whole, notes = _fake(checkpoint, subject, options.checkpoint)
        with running_fakes(whole), without_values():
            description = _probed(whole, subject, options)
    except WeightsNeededError as error:
        notes = (f"described with its weights in memory: it can't be without ({error})",)
        with quiet_engine():
            whole = load_model(checkpoint, subject.model_class, options.checkpoint)
            description = _probed(whole, subject, options)
    model_type = checkpoint.model_type or whole.config.model_type
    return replace(description, model=checkpoint.name, model_type=model_type, notes=notes)


def _fake(
    checkpoint: Checkpoint, subject: Subject, options: CheckpointOptions
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """Build the model at full depth with fake parameters, agreeing with the checkpoint where that costs no reading."""
    if not checkpoint.in_parts:
        note = (
            f"{checkpoint.format} files aren't read in parts, so nothing of the weights was looked at; a pooler that "
            "they don't have is left out of an export"
        )
        return build_fake(subject.model_class, subject.config, dtype_of(options)), (note,)
    bound = bind(checkpoint, subject.model_class, subject.config, options)
    fake = build_fake(subject.model_class, bound.model.config, dtype_of(options))
    return like_full(fake, bound.model), ()


def _probed(whole: PreTrainedModel, subject: Subject, options: ExportOptions) -> Description:
    """Describe a model, with the axes that are found by running it at several sizes."""
    description = describe_model(whole, subject, options.graph)
    return replace(description, graphs=tuple(_probed_graph(graph, whole, options) for graph in description.graphs))


def _probed_graph(graph: GraphDescription, whole: PreTrainedModel, options: ExportOptions) -> GraphDescription:
    module, code = graph.module_of(whole), graph.code
    examples = Examples(code.config, signature_of(code.config), code.preprocessor)
    found = probe(module, examples, code.layout(graph.sizes))
    dtype = str(module.dtype).removeprefix("torch.")
    tolerance = tolerance_of(graph, options.validation)
    return replace(
        graph,
        atol=tolerance.atol,
        rtol=tolerance.rtol,
        inputs=input_specs(code, found.layout, dtype, found.fixed),
        outputs=_outputs(found, examples),
        fixed_axes=_fixed_axes(found, examples),
    )


def _fixed_axes(found: Probe, examples: Examples) -> tuple[str, ...]:
    """List the axes of inputs that the model doesn't let vary."""
    return tuple(
        f"{name}: {today_label(label)} = {found.layout.flat[name].shape[axis]}"
        for name, axes in examples.signature.for_inputs(found.layout.flat).inputs.items()
        for axis, label in axes.items()
        if set(symbols_of(label)) & set(found.fixed)
    )


def _outputs(found: Probe, examples: Examples) -> tuple[TensorSpec, ...]:
    declared = examples.signature.outputs
    return tuple(
        TensorSpec.of(name, dtype, shape, _preferred(found.labels[name], declared.get(name, {})))
        for name, (dtype, shape) in found.outputs.items()
    )


def _preferred(found: dict[int, str], declared: dict[int, str]) -> dict[int, str]:
    """Write a sum in the description's own order of terms."""
    return {
        axis: declared[axis]
        if axis in declared and sorted(symbols_of(declared[axis])) == sorted(symbols_of(label))
        else label
        for axis, label in found.items()
    }
