"""The pipelines of Transformers over exported directories."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import transformers
from transformers import pipelines

from onnxport.description.tasks import PAST_SUFFIX, canonical_task
from onnxport.errors import CheckpointNotFoundError, UnsupportedError
from onnxport.loading.preprocessors import check_audio_tokenizer
from onnxport.runtime.models import OnnxModel

_PARTS = {
    "tokenizer": "AutoTokenizer",
    "image_processor": "AutoImageProcessor",
    "feature_extractor": "AutoFeatureExtractor",
    "processor": "AutoProcessor",
}
"""What a pipeline takes besides a model, to the class that loads it."""
_RENAMED = {"image-to-text": "image-text-to-text", "audio-text-to-text": "any-to-any"}
"""Tasks that Transformers' pipelines have under another name now."""


def make_pipeline(task: str, model: OnnxModel, arguments: dict[str, Any]) -> Any:
    """Return a pipeline.

    Args:
        task: a task of Transformers' pipelines.
        model: the model.
        arguments: further arguments of the pipeline; what it needs and isn't among them is loaded from the directory.

    Raises:
        UnsupportedError: there is no such pipeline, or the directory was exported for another task.
        CheckpointNotFoundError: the directory lacks a tokenizer or processor.
    """
    task = _RENAMED.get(task, task)
    try:
        _, known, _ = pipelines.check_task(task)
    except KeyError as error:
        having = ", ".join(sorted(pipelines.PIPELINE_REGISTRY.get_supported_tasks()))
        raise UnsupportedError(f"Transformers has no pipeline for {task!r}; it has {having}") from error
    _check_fits(task, model, known["pt"])
    needed = getattr(pipelines, known["impl"].rpartition(".")[2])
    if needed._pipeline_calls_generate and model.config.is_encoder_decoder and not model.can_generate():
        raise UnsupportedError(
            f"{model.directory.path} was exported without a cache and doesn't generate, which a pipeline for {task} "
            f"needs; export it with --task {model.directory.task}{PAST_SUFFIX}"
        )
    parts = {
        name: _part(name, task, model, needed=bool(getattr(needed, f"_load_{name}")))
        for name in _PARTS
        if name not in arguments and getattr(needed, f"_load_{name}") is not False
    }
    trusts = bool(arguments.pop("trust_remote_code", False))
    return transformers.pipeline(
        task, model=_named(model), device=model.device, trust_remote_code=trusts, **parts, **arguments
    )


def _check_fits(task: str, model: OnnxModel, auto_classes: tuple[Any, ...]) -> None:
    """Raise unless the directory's graph computes what a class that the pipeline loads computes."""
    exported = canonical_task(model.directory.manifest.task)
    if set(exported.auto_classes) & {auto.__name__ for auto in auto_classes}:
        return
    for auto in auto_classes:  # one class may serve several tasks
        found = auto._model_mapping.get(type(model.config), ())
        if model.architecture in [kind.__name__ for kind in (found if isinstance(found, tuple) else (found,))]:
            return
    fitting = ", ".join(
        sorted(name for name in pipelines.PIPELINE_REGISTRY.get_supported_tasks() if _is(name, exported))
    )
    has = f"pipelines for it: {fitting}" if fitting else "Transformers has no pipeline for that"
    raise UnsupportedError(
        f"{model.directory.path} was exported for {exported.full_name} ({model.architecture}), which a pipeline for "
        f"{task} can't use; {has}"
    )


def _is(name: str, exported: Any) -> bool:
    _, known, _ = pipelines.check_task(name)
    return bool(set(exported.auto_classes) & {auto.__name__ for auto in known["pt"]})


def _part(name: str, task: str, model: OnnxModel, *, needed: bool) -> Any:
    """Load a preprocessor, None where the directory has none and the pipeline does without."""
    path = model.directory.path
    loaded, reason = _loaded(_PARTS[name], path)
    if loaded is None and needed:
        raise CheckpointNotFoundError(
            f"{path} has no {name.replace('_', ' ')}, which a pipeline for {task} needs ({reason}); "
            f"save the checkpoint's own there, or pass {name}="
        )
    return loaded


def _loaded(auto_class: str, path: Path) -> tuple[Any, str]:
    """Load a preprocessor; return it, or None and why."""
    check_audio_tokenizer(path)
    try:
        loaded = getattr(transformers, auto_class).from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # noqa: BLE001  each class fails in its own way on what isn't there
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if auto_class == "AutoProcessor" and not isinstance(loaded, transformers.ProcessorMixin):
        return None, f"there is a {type(loaded).__name__}, which is only a part of one"
    # Without any vocabulary, Transformers 5 makes a tokenizer that knows only its special tokens.
    names = sorted(set((getattr(loaded, "vocab_files_names", None) or {}).values()))
    if names and not any((path / name).is_file() for name in names):
        return None, f"no {' or '.join(names)}"
    return loaded, ""


def _named(model: OnnxModel) -> OnnxModel:
    """Return a copy whose class has the name of the original's, by which pipelines distinguish models.

    The copy shares the sessions; the caller's model keeps its class.
    """
    named = copy.copy(model)
    named.__class__ = type(model.architecture, (type(model),), {"__module__": __name__})
    return named
