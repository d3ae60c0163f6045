"""Describe what an export would make of a checkpoint: the same steps, with parameters that have no values.

Headers of safetensors files are read, tensors aren't. Only a model that wants values is loaded, and a note says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.architectures.describe import describe
from onnxport.binding.bind import bind
from onnxport.blueprints.make import Subject, subject_of
from onnxport.checkpoint.checkpoint import Checkpoint, open_checkpoint
from onnxport.description.axes import symbols_of, today_label
from onnxport.description.components import Component
from onnxport.description.examples import Examples
from onnxport.description.sentence_embedding import SentenceEmbeddingOnnxConfig
from onnxport.description.signature import signature_of
from onnxport.descriptions.description import Description, GraphDescription, Tensor
from onnxport.descriptions.probe import Probe, probe
from onnxport.errors import OnnxportError, UnsupportedError
from onnxport.loading.load import dtype_of, load_model
from onnxport.options import ExportOptions
from onnxport.patching.scope import exclusive
from onnxport.tracing._capture import default_opset
from onnxport.tracing.fake import build_fake, like_full
from onnxport.tracing.scope import quiet_engine, without_values
from onnxport.validation.tolerances import tolerance_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HAND_WRITTEN = ("onnxport.architectures.", "onnxport.configs.")


@exclusive()
def describe_checkpoint(model: str | Path, options: ExportOptions | None = None) -> Description:
    """Say what an export would make, without making it.

    Args:
        model: local directory, GGUF file, or repository on the hub.
        options: those that would be given to `export`.

    Raises:
        CheckpointError: the checkpoint can't be read.
        UnsupportedError: its model type or the task isn't supported.
    """
    options = options or ExportOptions()
    checkpoint = open_checkpoint(model, options)
    subject = subject_of(checkpoint, options)
    notes: tuple[str, ...] = ()
    try:
        with quiet_engine():
            whole, notes = _fake(checkpoint, subject, options)
        with without_values(whole):
            graphs = _graphs(whole, subject, options)
    except Exception as error:  # constructors and forwards raise whatever they like where they want values
        if isinstance(error, OnnxportError) and not (isinstance(error, UnsupportedError) and error.__cause__):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        notes = (f"described with its weights in memory: it can't be without ({reason})",)
        with quiet_engine():
            whole = load_model(checkpoint, subject.model_class, options)
            graphs = _graphs(whole, subject, options)
    return Description(
        checkpoint.name,
        checkpoint.model_type or whole.config.model_type,
        type(whole).__name__,
        subject.task.full_name,
        options.dtype,
        graphs,
        notes,
    )


def _fake(checkpoint: Checkpoint, subject: Subject, options: ExportOptions) -> tuple[PreTrainedModel, tuple[str, ...]]:
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


def _graphs(whole: Any, subject: Subject, options: ExportOptions) -> tuple[GraphDescription, ...]:
    components = describe(whole, subject.task, subject.preprocessor, options)
    return tuple(_graph(component, options) for component in components)


def _graph(component: Component, options: ExportOptions) -> GraphDescription:
    config = component.config
    examples = Examples(config, signature_of(config), component.preprocessor)
    found = probe(component.model, examples)
    inputs, fixed = _inputs(found, examples, str(component.model.dtype).removeprefix("torch."))
    tolerance = tolerance_of(config.atol_for_validation, options)
    kind = type(config.trunk if isinstance(config, SentenceEmbeddingOnnxConfig) else config)
    return GraphDescription(
        name=component.name,
        file=f"{component.name}.onnx",
        source="hand-written" if kind.__module__.startswith(_HAND_WRITTEN) else "derived",
        described_by=f"{kind.__module__}.{kind.__qualname__}",
        opset=options.opset or default_opset(),
        atol=tolerance.atol,
        rtol=tolerance.rtol,
        inputs=inputs,
        outputs=_outputs(found, examples),
        fixed_axes=fixed,
        config=config,
    )


def _inputs(found: Probe, examples: Examples, dtype: str) -> tuple[tuple[Tensor, ...], tuple[str, ...]]:
    """Describe the inputs, and the axes of theirs that the model doesn't let vary."""
    tensors, fixed = [], []
    for name, axes in examples.signature.for_inputs(found.layout.flat).inputs.items():
        tensor = found.layout.flat[name]
        free = {axis: label for axis, label in axes.items() if not set(symbols_of(label)) & set(found.fixed)}
        fixed += [f"{name}: {today_label(axes[i])} = {tensor.shape[i]}" for i in axes if i not in free]
        kind = dtype if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")
        tensors.append(Tensor.of(name, kind, tuple(tensor.shape), free))
    return tuple(tensors), tuple(fixed)


def _outputs(found: Probe, examples: Examples) -> tuple[Tensor, ...]:
    declared = examples.signature.outputs
    return tuple(
        Tensor.of(name, dtype, shape, _preferred(found.labels[name], declared.get(name, {})))
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
