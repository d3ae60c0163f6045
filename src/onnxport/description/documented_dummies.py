"""Dummy inputs of a model that can't be run without them, from the shapes in its documentation."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import TYPE_CHECKING

from onnxport.description.documented_inputs import Axis, DocumentedInput, axis_named
from onnxport.description.dummy_inputs import DummyInput, InputContext
from onnxport.description.forward import NOT_DESCRIBED, ForwardParameter, forward_parameters, left_out
from onnxport.description.tasks import canonical_task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

_LABELS = {"batch_size": "batch", "sequence_length": "sequence"}
_VIDEOS, _FRAMES = "pixel_values_videos", "num_frames"


def documented_dummies(model: PreTrainedModel, inputs: Collection[str]) -> dict[str, DummyInput]:
    """Return dummies of the required inputs that a model lacks; if it lacks none, of all that no rule leaves out.

    Some forwards require inputs that have a default: LUKE's entities.

    Args:
        model: the model.
        inputs: names of the inputs that it has.

    Returns:
        Dummies by name, of the parameters whose documentation has a shape.
    """
    parameters = forward_parameters(type(model))  # type: ignore[arg-type]  # classes are hashable
    missing = [one for one in parameters.values() if one.name not in inputs and one.kind == "tensor" and one.shape]
    required = [one for one in missing if one.default is inspect.Parameter.empty]
    reasons = left_out(model, canonical_task("feature-extraction"), inputs)
    chosen = required or [one for one in missing if reasons[one.name] == NOT_DESCRIBED]
    dummies = {one.name: _dummy(one, model.config) for one in chosen}
    return {name: dummy for name, dummy in dummies.items() if dummy is not None}


def _dummy(parameter: ForwardParameter, config: PreTrainedConfig) -> DummyInput | None:
    """Return a dummy; None if the size of an axis isn't known."""
    axes = [Axis(1, _LABELS[name]) if name in _LABELS else axis_named(name, (), config) for name in parameter.shape]
    known = [axis for axis in axes if axis is not None]
    if len(known) < len(axes):
        return None
    is_integer = parameter.name.endswith(("mask", "codes")) or "id" in parameter.name
    dtype = parameter.dtype or ("int64" if is_integer else "float32")
    labels = {index: axis.label for index, axis in enumerate(known) if axis.label and axis.label != _FRAMES}

    def make(context: InputContext) -> torch.Tensor:
        sizes = {"batch": context.batch, "sequence": context.length}
        shape = [sizes.get(axis.label, axis.size) for axis in known]
        videos = context.inputs.get(_VIDEOS)
        if parameter.shape[1:2] == (_FRAMES,) and videos is not None:  # those of the videos, which are static
            shape[1] = videos.shape[1]
        return DocumentedInput(parameter.name, dtype, tuple(shape), labels).make(context.config, context.inputs)

    return DummyInput(labels, make)
