"""What the record of a model's architecture adds to the rules about its inputs and the outputs of its encoders."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._table import architecture_of
from onnxport.description.axes import PATCH_MASK, PATCHES
from onnxport.description.encoder_outputs import Interface, Modality, modalities_of
from onnxport.description.forward import left_out

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from onnxport.description.tasks import Task


def record_of(model: PreTrainedModel) -> Architecture:
    """Return the record of a model's type; one without entries if it has none."""
    return architecture_of(model.config.model_type) or Architecture((model.config.model_type,))


def describe_modalities(config: PreTrainedConfig, graphs: Mapping[str, Interface]) -> tuple[Modality, ...]:
    """Describe how the outputs of an export's encoders are merged into the inputs of its decoder.

    Args:
        config: the model's configuration.
        graphs: inputs and outputs of each component.
    """
    record = architecture_of(config.model_type)
    modalities = modalities_of(config, graphs)
    if record is None or record.modalities is None:
        return modalities
    return tuple(record.modalities(modality, config) for modality in modalities)


def describe_defaults(model: PreTrainedModel) -> dict[str, str]:
    """Return what forward takes for inputs that aren't passed, where the rules of `onnxport.load` don't say so.

    Args:
        model: the exported model.
    """
    record, side = record_of(model), getattr(model.config, "patch_size", None)
    has_mask = PATCH_MASK in inspect.signature(type(model).forward).parameters
    patches = {PATCH_MASK: f"{PATCHES}{side}"} if has_mask and isinstance(side, int) else {}
    return patches if record.defaults is None else patches | dict(record.defaults(type(model).__name__))


def describe_left_out(
    model: PreTrainedModel, task: Task, inputs: Collection[str], unused: Collection[str]
) -> dict[str, str]:
    """Return the parameters of a model's forward that aren't inputs of any graph, each with the reason.

    Args:
        model: the exported model.
        task: the task.
        inputs: names of the inputs of all graphs.
        unused: names of parameters whose values the model doesn't use.
    """
    reasons = left_out(model, task, inputs, unused)
    return reasons | {name: reason for name, reason in record_of(model).left_out.items() if name in reasons}
