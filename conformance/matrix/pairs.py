"""List the (model type, task) pairs: those of Transformers' Auto classes, with and without past.

Pairs that only the predecessors had, such as models without a head with past, are included.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from conformance.matrix.predecessors import GONE, predecessors
from onnxport.architectures.classes import TRANSDUCERS, class_named, takes_cache
from onnxport.description.tasks import PAST_SUFFIX, SENTENCE_SIMILARITY, TASKS, Task, canonical_task

Pair = tuple[str, str]

GENERATING = (
    "text-generation",
    "text2text-generation",
    "image-to-text",
    "automatic-speech-recognition",
    "audio-text-to-text",
)
"""Tasks whose models may return a KV cache, which makes a separate pair with past."""

FAMILIES = {
    "text": "fill-mask text-generation text2text-generation text-classification token-classification "
    "question-answering multiple-choice next-sentence-prediction text-encoding table-question-answering",
    "vision": "image-classification object-detection image-segmentation semantic-segmentation depth-estimation "
    "masked-im mask-generation keypoint-detection keypoint-matching video-classification image-to-image "
    "normal-estimation pointmap-estimation pose-estimation image-matting table-recognition text-recognition backbone",
    "audio": "automatic-speech-recognition audio-classification audio-frame-classification audio-xvector "
    "text-to-audio audio-tokenization",
    "multimodal": "image-to-text audio-text-to-text zero-shot-image-classification zero-shot-object-detection "
    "visual-question-answering document-question-answering",
    "time series": "time-series-prediction",
    "bare models": "feature-extraction",
}
"""Family of tasks to the names of the tasks."""


def family(task: str) -> str:
    """Return the family of a task."""
    name = task.removesuffix(PAST_SUFFIX)
    return next((key for key, names in FAMILIES.items() if name in names.split()), "other")


@cache
def pairs() -> tuple[Pair, ...]:
    """Return all (model type, task) pairs in the order of the tasks, each followed by the pair with past.

    Pairs that only the predecessors had come last.
    """
    found: list[Pair] = []
    for task in TASKS:
        if task.name == SENTENCE_SIMILARITY:  # it depends on the modules in the directory, not on the model class
            continue
        for model_type, name in classes(task).items():
            found.append((model_type, task.name))
            if task.name in GENERATING and _generates_with_cache(task, name):
                found.append((model_type, task.name + PAST_SUFFIX))
    theirs = [pair for named in predecessors().values() for pair in named if pair not in GONE]
    return tuple(dict.fromkeys([*found, *theirs]))


def classes(task: Task) -> dict[str, str]:
    """Map model types to the name of a task's class, if Transformers has that class.

    The Auto class of audio-text-to-text has all multimodal models; those that are in image-to-text, too, are omitted.
    """
    import transformers

    from onnxport.architectures.classes import class_names

    known = set(dir(transformers))
    found: dict[str, str] = {}
    for auto_class in task.auto_classes:
        for model_type, names in class_names(auto_class).items():
            if names[0] in known:
                found.setdefault(model_type, names[0])
    if task.name == "audio-text-to-text":
        images = classes(canonical_task("image-to-text"))
        found = {model_type: name for model_type, name in found.items() if images.get(model_type) != name}
    return found


@cache
def model_class(model_type: str, task: str) -> Any:
    """Return the model class of a pair.

    Raises:
        ImportError: it needs a package that isn't installed.
    """
    return class_named(classes(canonical_task(task.removesuffix(PAST_SUFFIX)))[model_type], model_type)


def _generates_with_cache(task: Task, class_name: str) -> bool:
    """Return whether a class generates with a cache.

    The forward of a text decoder has a parameter for the cache; a model that contains a decoder may pass it through
    **kwargs.
    """
    import transformers

    if TRANSDUCERS.search(class_name):
        return False
    try:
        model = getattr(transformers, class_name)
        generates = bool(model.can_generate())
    except (ImportError, AttributeError):
        return False
    is_decoder = task.name == "text-generation"
    return generates and (not is_decoder or takes_cache(model))


def chosen(tasks: str | None = None, types: str | None = None) -> list[Pair]:
    """Return the pairs of comma-separated tasks and model types; None for all.

    Raises:
        ValueError: a task or a model type has no pair.
    """
    found = list(pairs())
    for text, index in ((types, 0), (tasks, 1)):
        if text is None:
            continue
        names = {item.strip() for item in text.split(",")}
        unknown = sorted(names - {pair[index] for pair in pairs()})
        if unknown:
            raise ValueError(f"no pair of the matrix has {', '.join(unknown)}")
        found = [pair for pair in found if pair[index] in names]
    return found
