"""The modalities that a task's graphs must take, and the names of graph inputs for each of them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from onnxport.description.tasks import PAST_SUFFIX

INPUT_NAMES = {
    "audio": re.compile(r"^((user_)?input_(features|values)|audio_(input_features|input_ids|codes|latents|features))$"),
    "image": re.compile(r"pixel_values|^(images?|image_patches|flattened_patches|inputs)$"),
    "text": re.compile(r"(^|_)input_ids$|inputs_embeds$|^inputs$"),
}
"""Modality to a pattern of its input names; Perceiver names the input of every modality `inputs`."""

MODALITIES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            *("image-classification", "object-detection", "image-segmentation", "semantic-segmentation"),
            *("depth-estimation", "masked-im", "mask-generation", "keypoint-detection", "keypoint-matching"),
            *("video-classification", "image-to-image", "normal-estimation", "pointmap-estimation"),
            *("pose-estimation", "image-matting", "table-recognition", "text-recognition"),
        ),
        ("image",),
    ),
    **dict.fromkeys(
        (
            *("automatic-speech-recognition", "audio-classification", "audio-frame-classification"),
            *("audio-xvector", "audio-tokenization", "audio-text-to-text"),
        ),
        ("audio",),
    ),
    "image-to-text": ("image",),
    "visual-question-answering": ("image", "text"),
    "zero-shot-image-classification": ("image", "text"),
    "zero-shot-object-detection": ("image", "text"),
}
"""Task to the modalities of its inputs; other tasks don't determine them."""

OTHER_INPUTS: dict[tuple[str, str], tuple[str, ...]] = {
    ("dia", "automatic-speech-recognition"): (
        "text",
    ),  # generates speech, but is registered in AutoModelForSpeechSeq2Seq
    ("evolla", "image-to-text"): ("text",),  # takes proteins, but is registered in AutoModelForImageTextToText
    **{
        ("kyutai_speech_to_text", task): ("text",)  # its processor encodes audio as token ids
        for task in ("audio-text-to-text", "automatic-speech-recognition")
    },
    ("mistral4", "image-to-text"): ("text",),  # a text decoder, but is registered in AutoModelForImageTextToText
    ("imagegpt", "image-classification"): ("text",),  # its image processor maps colours to token ids
}
"""Pairs whose model takes other modalities than those of its task."""


def missing_modalities(model_type: str, task: str, inputs: Iterable[str]) -> list[str]:
    """Return the modalities of a task for which no graph has an input.

    Args:
        model_type: as in `config.json`.
        task: a task, with or without past.
        inputs: names of the inputs of all graphs.
    """
    task_name, names = task.removesuffix(PAST_SUFFIX), list(inputs)
    required = OTHER_INPUTS.get((model_type, task_name), MODALITIES.get(task_name, ()))
    return [modality for modality in required if not any(INPUT_NAMES[modality].search(name) for name in names)]
