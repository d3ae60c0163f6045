"""Determine a checkpoint's task and model class."""

from __future__ import annotations

import difflib
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from onnxport._foreign_errors import translating
from onnxport._transformers_api import cache_parameter, model_class_named
from onnxport.architectures._architecture import Architecture
from onnxport.architectures._table import architecture_of
from onnxport.description.modalities import accepts_modality
from onnxport.description.sentence_modules import SentenceModel
from onnxport.description.tasks import (
    ARCHITECTURE,
    MODULE_TASKS,
    SENTENCE_SIMILARITY,
    TASKS,
    TEXT_ENCODING,
    Task,
    canonical_task,
)
from onnxport.errors import CorruptCheckpointError, UnsupportedError, UntrustedCodeError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


_INFERRED = tuple(task for task in TASKS if task.name not in MODULE_TASKS)
"""Tasks that can be inferred from a model class; the others are inferred from a directory's `modules.json`."""


def supported_tasks(config: PreTrainedConfig) -> list[Task]:
    """List the tasks for which Transformers has a class of a model type; tasks with a head come first.

    The encoder of every encoder-decoder of text is exported for text-encoding.
    """
    has_encoder = config.is_encoder_decoder and config.model_type in class_names("AutoModelForSeq2SeqLM")
    return [
        task
        for task in _INFERRED
        if any(config.model_type in class_names(name) for name in task.auto_classes)
        or (task.name == TEXT_ENCODING and has_encoder)
    ]


def infer_task(config: PreTrainedConfig, *, code: Path | None = None) -> Task:
    """Infer the task that a checkpoint was trained for.

    Args:
        config: the model's configuration, whose `architectures` names the class.
        code: directory of the checkpoint if its remote code is trusted; None if it isn't.

    Returns:
        The task, with past for decoders that generate.

    Raises:
        UnsupportedError: `architectures` is missing, or names a class that isn't in any task.
        UntrustedCodeError: `architectures` names a class in the checkpoint's remote code, which isn't trusted.
    """
    architectures = list(config.architectures or ())
    for architecture in architectures:
        candidates = [
            task
            for task in _INFERRED
            if any(architecture in _loadable_classes(config, name, code) for name in task.auto_classes)
        ]
        if candidates:
            task = _preferred(config, candidates, architecture)
            return task.past(_generates(config, task, architecture))
    if _unlisted_class(config) is not None:
        return canonical_task(ARCHITECTURE)
    remote_classes = {_class_name(reference) for reference in _auto_map(config).values()}
    remote = [name for name in architectures if name in remote_classes]
    if remote and code is None:
        raise UntrustedCodeError(_untrusted(remote[0]))
    known = ", ".join(task.name for task in supported_tasks(config)) or "none"
    named = ", ".join(architectures) or "nothing"
    raise UnsupportedError(
        f"the task can't be inferred: config.json names {named} as its architecture; "
        f"choose one with --task (supported for {config.model_type}: {known})"
    )


def _preferred(config: PreTrainedConfig, candidates: list[Task], architecture: str) -> Task:
    """Choose among the tasks that Transformers registers a class for.

    Prefer sequence-to-sequence tasks for an encoder-decoder: BART, mBART and MVP are also registered as
    AutoModelForMaskedLM. Prefer a multimodal task for a decoder that takes images or audio.
    """
    names = FROM_ENCODERS if config.is_encoder_decoder else MULTIMODAL_TASKS
    known_class = _known_class(architecture)
    if names is MULTIMODAL_TASKS and known_class is not None and not accepts_modality(known_class):
        return candidates[0]
    return next((task for task in candidates if task.name in names), candidates[0])


def _generates(config: PreTrainedConfig, task: Task, architecture: str) -> bool:
    """Return whether a class generates autoregressively, with a cache."""
    if task.name == "text-to-audio":
        record = architecture_of(config.model_type)
        return record is not None and architecture in record.audio_classes
    if config.is_encoder_decoder:
        return task.name in FROM_ENCODERS and not TRANSDUCERS.search(architecture)
    if task.name in (*MULTIMODAL_TASKS, "text2text-generation"):  # Audio Flamingo 3 is only registered for the latter
        return _can_generate(architecture)
    return task.name == "text-generation" and _takes_cache(architecture)


def _can_generate(architecture: str) -> bool:
    """Return whether a class supports `generate`; PI0 doesn't. A class that isn't in Transformers is assumed to."""
    known_class = _known_class(architecture)
    return known_class is None or bool(known_class.can_generate())


def _known_class(architecture: str) -> type[PreTrainedModel] | None:
    """Return the Transformers class with a name, or the class of its submodel that generates text; None if unknown."""
    found = model_class_named(architecture)
    return None if found is None else cast("type[PreTrainedModel]", generation_class(found))


def _takes_cache(architecture: str) -> bool:
    """Return whether forward has a cache or state parameter; GPT's doesn't. Remote code is assumed to have one."""
    known_class = model_class_named(architecture)
    return known_class is None or takes_cache(known_class)


def takes_cache(model_class: type[PreTrainedModel]) -> bool:
    """Return whether forward has a parameter for keys and values, or for recurrent states."""
    parameters = inspect.signature(model_class.forward).parameters
    return cache_parameter(parameters) is not None or "state" in parameters


TRANSDUCERS = re.compile(r"For(CTC|RNNT|TDT)$")
"""Classes that generate without a cache that a graph could have as input."""
MULTIMODAL_TASKS = ("image-to-text", "audio-text-to-text")
FROM_ENCODERS = ("text2text-generation", "automatic-speech-recognition", "image-to-text")


def model_class(config: PreTrainedConfig, task: Task, *, code: Path | None = None) -> type:
    """Return the class that loads a model for a task: the checkpoint's architecture if possible, else the Auto class's.

    Args:
        config: the model's configuration.
        task: the task.
        code: directory of the checkpoint if its remote code is trusted, which then takes precedence; None if it isn't.

    Raises:
        UnsupportedError: Transformers has no class of this model type for the task, or the class has no forward.
        UntrustedCodeError: the only class is in the checkpoint's remote code, which isn't trusted.
        CorruptCheckpointError: the checkpoint's code can't be loaded.
    """
    if task.name == ARCHITECTURE and (unlisted := _unlisted_class(config)) is not None:
        return unlisted
    auto_map = _auto_map(config)
    for name in _auto_classes(config, task):
        if code is not None and name in auto_map:
            return _load_code(auto_map[name], code)
        if candidates := _auto_class_candidates(config, name):
            preferred = [architecture for architecture in config.architectures or () if architecture in candidates]
            found = class_named([*preferred, *candidates][0], config.model_type)
            return _with_forward(generation_class(found) if task.name in MULTIMODAL_TASKS else found)
    for name in task.auto_classes:
        if name in auto_map:
            raise UntrustedCodeError(_untrusted(_class_name(auto_map[name])))
    known = [other.name for other in supported_tasks(config)]
    near = difflib.get_close_matches(task.name, known, n=1)
    hint = f"the nearest is {near[0]!r}; " if near else ""
    raise UnsupportedError(
        f"{config.model_type} doesn't support task {task.name!r}: {hint}supported are {', '.join(known) or 'none'}"
    )


def _unlisted_class(config: PreTrainedConfig) -> type | None:
    """Return the first class of Transformers that `architectures` names, for this configuration and with a forward.

    Auto classes list neither pretraining classes nor submodels (`BertForPreTraining`, `DPRReader`, `MarianDecoder`).
    """
    for name in config.architectures or ():
        try:
            found = class_named(name, config.model_type)
        except (AttributeError, ModuleNotFoundError):  # a class of remote code, or of another package
            continue
        if _has_forward(found) and isinstance(config, getattr(found, "config_class", None) or ()):
            return found
    return None


def class_named(name: str, model_type: str) -> type:
    """Return a Transformers class by name; the top-level package doesn't export every class that Auto classes load."""
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    found: type | None = model_class_named(name)
    if found is None:
        module = model_type_to_module_name(model_type)
        found = getattr(import_module(f"transformers.models.{module}.modeling_{module}"), name)
    return cast("type", found)


def _has_forward(model_class: type) -> bool:
    return getattr(getattr(model_class, "forward", None), "__name__", "") != "_forward_unimplemented"


def _with_forward(model_class: type) -> type:
    """Return the class if it has a forward, or a record that describes its graphs.

    Raises:
        UnsupportedError: the class has no forward.
    """
    record = _record_of_class(model_class)
    if not _has_forward(model_class) and (record is None or record.components is None):
        raise UnsupportedError(f"{model_class.__name__} has no forward: `generate` runs its submodels in sequence")
    return model_class


def generation_class(model_class: type) -> type:
    """Return the class of the submodel that generates text, for classes without a forward (Qwen's Omni models)."""
    import transformers

    record = _record_of_class(model_class)
    name = None if record is None else record.generation_classes.get(model_class.__name__)
    return model_class if name is None else cast("type", getattr(transformers, name))


def _record_of_class(model_class: type) -> Architecture | None:
    """Return the record of a class's model type; None without a `config_class`, which remote code may leave out."""
    config_class = getattr(model_class, "config_class", None)
    return None if config_class is None else architecture_of(config_class.model_type)


def text_only(task: Task, chosen: type) -> Task:
    """Return text generation for a class in a multimodal mapping that takes neither images nor audio (Mistral 4).

    Args:
        task: the task that the class was chosen for.
        chosen: a model class.
    """
    names = inspect.signature(chosen.forward).parameters  # type: ignore[attr-defined]
    if task.name not in MULTIMODAL_TASKS or accepts_modality(chosen) or "input_ids" not in names:
        return task
    return canonical_task("text-generation").past(task.with_past)


def _auto_classes(config: PreTrainedConfig, task: Task) -> tuple[str, ...]:
    """Return a task's Auto classes; sentence embeddings use the encoder alone if it has a separate class (T5).

    The encoder of an encoder-decoder without a separate class (BART) is that of the whole model.
    """
    encoders = class_names("AutoModelForTextEncoding").get(config.model_type, ())
    if task.name == TEXT_ENCODING and config.is_encoder_decoder and not encoders:
        return (*task.auto_classes, "AutoModel")
    has_encoder_class = task.name == SENTENCE_SIMILARITY and any(name.endswith(ENCODER_SUFFIX) for name in encoders)
    return task.auto_classes[::-1] if has_encoder_class else task.auto_classes


ENCODER_SUFFIX = "EncoderModel"


def _auto_map(config: PreTrainedConfig) -> dict[str, str]:
    """Map Auto classes to the classes of the checkpoint's remote code, each as `module.Class`."""
    auto_map = getattr(config, "auto_map", None)
    return {key: value for key, value in (auto_map or {}).items() if isinstance(value, str)}


def _class_name(reference: str) -> str:
    return reference.rsplit(".", 1)[-1]


def _loadable_classes(config: PreTrainedConfig, auto_class: str, code: Path | None) -> tuple[str, ...]:
    """Return the names of the classes that an Auto class may load for a configuration, including trusted code."""
    auto_map = _auto_map(config)
    remote = (_class_name(auto_map[auto_class]),) if code is not None and auto_class in auto_map else ()
    return (*remote, *_auto_class_candidates(config, auto_class))


def _auto_class_candidates(config: PreTrainedConfig, auto_class: str) -> tuple[str, ...]:
    """Return the names of the classes that an Auto class loads for a configuration.

    Some classes are registered only under the model type of the multimodal model (`Emu3ForCausalLM`); a checkpoint of
    such a class is recognized by its `architectures`.
    """
    import transformers

    names = class_names(auto_class)
    if config.model_type in names:
        return names[config.model_type]
    registered = {name for classes in names.values() for name in classes}.intersection(config.architectures or ())
    return tuple(name for name in sorted(registered) if getattr(transformers, name).config_class is type(config))


def _load_code(reference: str, directory: Path) -> type:
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    def incorrect(error: Exception) -> CorruptCheckpointError:
        reason = " ".join(str(error).split())[:300]
        return CorruptCheckpointError(
            f"{directory}: {reference}, which config.json names under auto_map, can't be loaded "
            f"({type(error).__name__}: {reason}); correct that code, or install what it imports"
        )

    with translating(incorrect):
        found: type = get_class_from_dynamic_module(reference, str(directory), local_files_only=True)
    return found


def _untrusted(name: str) -> str:
    return (
        f"the model class {name} is code of the checkpoint (auto_map in config.json), which would run on this machine; "
        f"read that code, and pass --trust-remote-code (trust_remote_code=True) if you trust it"
    )


_UNREGISTERED = {
    ("AutoModelForCausalLM", "flaubert"): "FlaubertWithLMHeadModel",
    ("AutoModelForTimeSeriesPrediction", "patchtst"): "PatchTSTForPrediction",
    ("AutoModelForTimeSeriesPrediction", "patchtsmixer"): "PatchTSMixerForPrediction",
    ("AutoModel", "colpali"): "ColPaliForRetrieval",
    ("AutoModel", "siglip_text_model"): "SiglipTextModel",
    ("AutoModel", "siglip2_text_model"): "Siglip2TextModel",
}
"""Classes that aren't in the mapping of Transformers' Auto class: (Auto class, model type) to class.

Features of 4.37.2 and tasks of optimum-onnx 0.1.0 need them, and similar classes.
"""


def class_names(auto_class: str) -> dict[str, tuple[str, ...]]:
    """Map model types to the names of the classes that an Auto class loads."""
    import transformers

    mapping = getattr(transformers, auto_class)._model_mapping._model_mapping
    names = {key: (value,) if isinstance(value, str) else tuple(value) for key, value in mapping.items()}
    return names | {model_type: (name,) for (auto, model_type), name in _UNREGISTERED.items() if auto == auto_class}


def transformer_task(described: SentenceModel) -> Task:
    """Return the task for which the transformer of a sentence-transformers model is loaded.

    Args:
        described: the model.
    """
    return canonical_task(SENTENCE_SIMILARITY if described.task == _BASE else described.task)


_BASE = "feature-extraction"
