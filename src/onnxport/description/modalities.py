"""The tasks that require an image or audio input; whether a model and its graphs have one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from onnxport.description.tasks import Task

if TYPE_CHECKING:
    from onnxport.configs import OnnxConfig

_IMAGE_TASKS = (
    *("image-classification", "object-detection", "image-segmentation", "semantic-segmentation", "depth-estimation"),
    *("masked-im", "mask-generation", "keypoint-detection", "keypoint-matching", "video-classification"),
    *("image-to-image", "normal-estimation", "pointmap-estimation", "pose-estimation", "image-matting"),
    *("table-recognition", "text-recognition", "visual-question-answering", "zero-shot-image-classification"),
    "zero-shot-object-detection",
)
_AUDIO_TASKS = ("audio-classification", "audio-frame-classification", "audio-xvector", "audio-tokenization")
_REQUIRED_MODALITIES = {
    **dict.fromkeys(_IMAGE_TASKS, "images"),
    **dict.fromkeys(_AUDIO_TASKS, "audio"),
    "image-to-text": "images",
    "audio-text-to-text": "images or audio",
    "automatic-speech-recognition": "audio",
}
"""Task to the modalities of which at least one graph has to take one, besides text."""
_MODALITY_INPUTS = (
    *("pixel_values", "image_pixel_values", "image_patches", "flattened_patches", "input_features", "input_values"),
    *("audio_input_", "protein_input_ids"),
)
"""Prefixes of inputs with images, audio or another modality themselves, not their masks or sizes."""

_ANY_MODALITY = "inputs"
"""Perceiver's name of the input of every modality."""


def accepts_modality(model_class: type) -> bool:
    """Return whether the forward of a class takes images, audio or another modality besides text.

    Transformers also registers classes without one for such tasks: Mistral 4, which takes text only; Dia, which
    generates audio from text; Kyutai's speech-to-text, which takes audio as token ids.
    """
    forward: Callable[..., object] = model_class.forward  # type: ignore[attr-defined]
    return _has_modality(inspect.signature(forward).parameters)


def needed_modality(model_class: type, task: Task, *, decodes: bool) -> str | None:
    """Return the modalities that a task requires besides text; None if it requires none.

    Args:
        model_class: the class of the model that is exported.
        task: the task of the export.
        decodes: whether the model is a decoder that takes an encoder's embeddings. Transformers registers some of them
            as AutoModelForSeq2SeqLM, whose task implies no modality.
    """
    if not accepts_modality(model_class):
        return None
    return _REQUIRED_MODALITIES.get(task.name) or ("images or audio" if decodes else None)


def takes_modality(config: OnnxConfig) -> bool:
    """Return whether a graph takes images, audio or another modality besides text.

    Args:
        config: the description of one graph.
    """
    return _has_modality(config.inputs)


def _has_modality(names: Iterable[str]) -> bool:
    return any(
        name == _ANY_MODALITY or (name.startswith(_MODALITY_INPUTS) and not name.endswith("_mask")) for name in names
    )
