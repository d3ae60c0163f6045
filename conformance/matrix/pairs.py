"""Which (model type, task) pairs there are: what the Auto classes of Transformers map, with and without past.

Those that the predecessors had beside these, bare models with past, are among them.
"""

from __future__ import annotations

import inspect
import re
from functools import cache
from typing import Any

from conformance.matrix.predecessors import GONE, predecessors
from onnxport.architectures.describe import class_named
from onnxport.description.tasks import PAST_SUFFIX, SENTENCE_SIMILARITY, TASKS, Task, canonical_task

Pair = tuple[str, str]

GENERATING = (
    "text-generation",
    "text2text-generation",
    "image-to-text",
    "automatic-speech-recognition",
    "audio-text-to-text",
)
"""Tasks whose models may give their key/value cache: a pair of its own."""

_TRANSDUCERS = re.compile(r"For(CTC|RNNT|TDT)$")
"""Classes that generate, and keep nothing between steps that a graph could take."""

_CACHES = {"past_key_values", "cache_params", "state"}
"""What forwards call a cache that a graph can take: keys and values, or the state of a recurrence."""

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
"""Families of tasks to the tasks' names."""


def family(task: str) -> str:
    """Return the family of a task."""
    name = task.removesuffix(PAST_SUFFIX)
    return next((key for key, names in FAMILIES.items() if name in names.split()), "other")


@cache
def pairs() -> tuple[Pair, ...]:
    """Return all (model type, task) pairs in the order of the tasks, each followed by the same with past.

    What only the predecessors had comes last.
    """
    found: list[Pair] = []
    for task in TASKS:
        if task.name == SENTENCE_SIMILARITY:  # a directory's modules make a model one for it, not its class
            continue
        for model_type, name in classes(task).items():
            found.append((model_type, task.name))
            if task.name in GENERATING and _remembers(task, name):
                found.append((model_type, task.name + PAST_SUFFIX))
    theirs = [pair for named in predecessors().values() for pair in named if pair not in GONE]
    return tuple(dict.fromkeys([*found, *theirs]))


def classes(task: Task) -> dict[str, str]:
    """Map model types to the name of the class that a task loads; one that Transformers names and hasn't isn't there.

    Audio-text-to-text has the Auto class of all models that read something beside a text: those that read pictures
    are image-to-text's already, and left out here.
    """
    import transformers

    from onnxport.architectures.describe import _class_names

    known = set(dir(transformers))
    found: dict[str, str] = {}
    for auto_class in task.auto_classes:
        for model_type, names in _class_names(auto_class).items():
            if names[0] in known:
                found.setdefault(model_type, names[0])
    if task.name == "audio-text-to-text":
        images = classes(canonical_task("image-to-text"))
        found = {model_type: name for model_type, name in found.items() if images.get(model_type) != name}
    return found


@cache
def model_class(model_type: str, task: str) -> Any:
    """Return the class of a pair.

    Raises:
        ImportError: it needs a package that isn't installed.
    """
    return class_named(classes(canonical_task(task.removesuffix(PAST_SUFFIX)))[model_type], model_type)


def _remembers(task: Task, class_name: str) -> bool:
    """Say whether a class generates step by step with a cache.

    A text's model says so by its forward; one that has such a model inside may hand the cache on without naming it.
    """
    import transformers

    if _TRANSDUCERS.search(class_name):
        return False
    try:
        model = getattr(transformers, class_name)
        generates = bool(model.can_generate())
    except (ImportError, AttributeError):
        return False
    texts_alone = task.name == "text-generation"
    return generates and not (texts_alone and _CACHES.isdisjoint(inspect.signature(model.forward).parameters))


def chosen(tasks: str | None = None, types: str | None = None) -> list[Pair]:
    """Return the pairs of comma-separated tasks and model types, all of them without.

    Raises:
        ValueError: a task or a model type has no pair.
    """
    found = list(pairs())
    for text, place in ((types, 0), (tasks, 1)):
        if text is None:
            continue
        wanted = {item.strip() for item in text.split(",")}
        lost = sorted(wanted - {pair[place] for pair in pairs()})
        if lost:
            raise ValueError(f"no pair of the matrix has {', '.join(lost)}")
        found = [pair for pair in found if pair[place] in wanted]
    return found
