"""The pipelines of Transformers over exported directories."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import transformers

from onnxport.errors import UnsupportedError
from onnxport.runtime.models import OnnxModel

_PARTS = {
    "tokenizer": "AutoTokenizer",
    "image_processor": "AutoImageProcessor",
    "feature_extractor": "AutoFeatureExtractor",
    "processor": "AutoProcessor",
}
"""What a pipeline takes besides a model, to the class that loads it."""


def make_pipeline(task: str, model: OnnxModel, arguments: dict[str, Any]) -> Any:
    """Return a pipeline.

    Args:
        task: a task of Transformers' pipelines.
        model: the model.
        arguments: further arguments of the pipeline; what it needs and isn't among them is loaded from the directory.

    Raises:
        UnsupportedError: there is no such pipeline.
    """
    from transformers.pipelines import PIPELINE_REGISTRY

    try:
        PIPELINE_REGISTRY.check_task(task)
    except KeyError as error:
        known = ", ".join(sorted(PIPELINE_REGISTRY.get_supported_tasks()))
        raise UnsupportedError(f"Transformers has no pipeline for {task!r}; it has {known}") from error
    parts = {name: _part(auto, model) for name, auto in _PARTS.items() if name not in arguments}
    with _without_complaints():
        return transformers.pipeline(task, model=model, **{**parts, **arguments})


def _part(auto_class: str, model: OnnxModel) -> Any:
    """Load a preprocessor, None where the directory has none."""
    with contextlib.suppress(Exception):  # each class fails in its own way on what isn't there
        return getattr(transformers, auto_class).from_pretrained(model.directory.path, local_files_only=True)
    return None


@contextlib.contextmanager
def _without_complaints() -> Any:
    """Keep the pipelines from logging that a model isn't one of Transformers' classes."""
    logger = logging.getLogger("transformers.pipelines.base")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
