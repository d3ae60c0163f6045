"""Which modalities a task's graphs must take, and by what names of graph inputs each is told."""

from __future__ import annotations

import re
from collections.abc import Iterable

from onnxport.description.tasks import PAST_SUFFIX

INPUT_NAMES = {
    "audio": re.compile(r"^((user_)?input_(features|values)|audio_(input_features|input_ids|codes|latents|features))$"),
    "image": re.compile(r"pixel_values|^(images?|image_patches|flattened_patches|inputs)$"),
    "text": re.compile(r"(^|_)input_ids$|inputs_embeds$|^inputs$"),
}
"""Modality to the names of inputs that carry it; Perceiver calls every modality `inputs`."""

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
"""Task to the modalities of its inputs; of the tasks that aren't listed the name says nothing about them."""

OTHER_INPUTS: dict[tuple[str, str], tuple[str, ...]] = {
    ("dia", "automatic-speech-recognition"): ("text",),  # generates speech, and is listed among SpeechSeq2Seq models
    ("evolla", "image-to-text"): ("text",),  # takes proteins, and is listed among ImageTextToText models
    ("imagegpt", "image-classification"): ("text",),  # its image processor turns colours into token ids
}
"""Pairs whose model takes other modalities than its task's name tells."""


def missing_modalities(model_type: str, task: str, inputs: Iterable[str]) -> list[str]:
    """Return the modalities of a task that none of its graphs takes.

    Args:
        model_type: as in `config.json`.
        task: a task, with or without past.
        inputs: names of the inputs of all graphs.
    """
    name, names = task.removesuffix(PAST_SUFFIX), list(inputs)
    wanted = OTHER_INPUTS.get((model_type, name), MODALITIES.get(name, ()))
    return [modality for modality in wanted if not any(INPUT_NAMES[modality].search(given) for given in names)]
