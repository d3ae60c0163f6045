"""Which task a checkpoint is for, which class loads it, and the description of each graph that it becomes."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from onnxport._foreign_errors import translating
from onnxport.architectures._architecture import Architecture
from onnxport.architectures._table import architecture_of
from onnxport.configs.model_types import MODEL_TYPES, load_config_class
from onnxport.configs.plain_tokenizer import plain_tokenizer
from onnxport.description.cache_layout import CACHE_NAMES
from onnxport.description.component_types import (
    can_be_split,
    cross_attention,
    encoder_decoder,
    generates_from_encoder,
    multimodal,
)
from onnxport.description.components import MODALITY_ENCODERS, Component
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dual_encoder import SplitEncoderOnnxConfig, split_encoders_of
from onnxport.description.encoder_decoder import CrossAttentionDecoderOnnxConfig
from onnxport.description.encoder_outputs import Interface, Modality, modalities_of
from onnxport.description.modalities import accepts_modality, needed_modality, takes_modality
from onnxport.description.multimodal import method_of
from onnxport.description.packed_patches import PackedPatchModelOnnxConfig, is_packed_patch_model
from onnxport.description.sentence_embedding import SentenceEmbeddingOnnxConfig
from onnxport.description.tasks import PAST_SUFFIX, SENTENCE_SIMILARITY, TASKS, Task, canonical_task
from onnxport.description.user_config import load_user_config
from onnxport.errors import CorruptCheckpointError, UnsupportedError, UntrustedCodeError
from onnxport.options import GraphOptions

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from onnxport.configs import OnnxConfig
    from onnxport.description.preprocessor import Preprocessor


_INFERRED = tuple(task for task in TASKS if task.name != SENTENCE_SIMILARITY)
"""Tasks that a class is for; only the modules of a directory make a model one for the other."""


def supported_tasks(model_type: str) -> list[Task]:
    """List the tasks for which Transformers has a class of this model type, heads first."""
    return [task for task in _INFERRED if any(model_type in _class_names(name) for name in task.auto_classes)]


def infer_task(config: PreTrainedConfig, *, code: Path | None = None) -> Task:
    """Find the task that a checkpoint was trained for.

    Args:
        config: the model's configuration, whose `architectures` names the class.
        code: directory of the checkpoint where its own code may run, None where it may not.

    Returns:
        The task; with the cache for decoders that generate.

    Raises:
        UnsupportedError: `architectures` is missing or names a class that no task has.
        UntrustedCodeError: it names a class that is code of the checkpoint, which may not run.
    """
    architectures = list(config.architectures or ())
    for architecture in architectures:
        fitting = [
            task
            for task in _INFERRED
            if any(architecture in _classes_for(config, name, code) for name in task.auto_classes)
        ]
        if fitting:
            task = _preferred(config, fitting, architecture)
            return task.past(_generates(config, task, architecture))
    if any(architecture.endswith("ForPreTraining") for architecture in architectures):
        return supported_tasks(config.model_type)[0]
    own = [name for name in architectures if name in {_class_name(place) for place in _code(config).values()}]
    if own and code is None:
        raise UntrustedCodeError(_untrusted(own[0]))
    known = ", ".join(task.name for task in supported_tasks(config.model_type)) or "none"
    named = ", ".join(architectures) or "nothing"
    raise UnsupportedError(
        f"the task can't be inferred: config.json names {named} as its architecture; "
        f"choose one with --task (supported for {config.model_type}: {known})"
    )


def _preferred(config: PreTrainedConfig, fitting: list[Task], architecture: str) -> Task:
    """Choose one of the tasks that Transformers registers a class for.

    An encoder-decoder generates from what its encoder takes before it is anything else: BART, mBART and MVP are
    registered as AutoModelForMaskedLM, too. A decoder that takes images or audio isn't one of text alone.
    """
    names = _FROM_ENCODERS if config.is_encoder_decoder else _MULTIMODAL_TASKS
    known = _named(architecture)
    if names is _MULTIMODAL_TASKS and known is not None and not accepts_modality(known):
        return fitting[0]
    return next((task for task in fitting if task.name in names), fitting[0])


def _generates(config: PreTrainedConfig, task: Task, architecture: str) -> bool:
    """Return whether a class generates token by token, with a cache of the tokens before."""
    if config.is_encoder_decoder:
        return task.name in _FROM_ENCODERS and not architecture.endswith("ForCTC")
    if task.name in (*_MULTIMODAL_TASKS, "text2text-generation"):  # Audio Flamingo 3 is registered for the latter alone
        return _can_generate(architecture)
    return task.name == "text-generation" and _takes_cache(architecture)


def _can_generate(architecture: str) -> bool:
    """Return whether a class has `generate`; PI0's hasn't. One that isn't Transformers' own is taken to have it."""
    known = _named(architecture)
    return known is None or bool(known.can_generate())


def _named(architecture: str) -> type[PreTrainedModel] | None:
    """Return the class of Transformers with a name, or the part of it that takes and generates text; None for none."""
    import transformers

    known = getattr(transformers, architecture, None)
    return None if known is None else cast("type[PreTrainedModel]", generation_class(known))


def _takes_cache(architecture: str) -> bool:
    """Say whether a class takes a cache or a state; GPT's doesn't. One that isn't Transformers' own is taken to."""
    import transformers

    known = getattr(transformers, architecture, None)
    names = {*CACHE_NAMES, "state"}
    return known is None or not names.isdisjoint(inspect.signature(known.forward).parameters)


_MULTIMODAL_TASKS = ("image-to-text", "audio-text-to-text")
_FROM_ENCODERS = ("text2text-generation", "automatic-speech-recognition", "image-to-text")


def model_class(config: PreTrainedConfig, task: Task, *, code: Path | None = None) -> type:
    """Return the class that loads a model for a task: the checkpoint's own where it fits, else Transformers' choice.

    Args:
        config: the model's configuration.
        task: what the model is for.
        code: directory of the checkpoint where its own code may run, None where it may not; code comes first.

    Raises:
        UnsupportedError: Transformers has no such class for the model type, or none that can be run as a whole.
        UntrustedCodeError: the only class is code of the checkpoint, which may not run.
        CorruptCheckpointError: the checkpoint's code can't be loaded.
    """
    own_code = _code(config)
    for name in _auto_classes(config, task):
        if code is not None and name in own_code:
            return _load_code(own_code[name], code)
        if fitting := _fitting(config, name):
            own = [architecture for architecture in config.architectures or () if architecture in fitting]
            found = class_named([*own, *fitting][0], config.model_type)
            return _with_forward(generation_class(found) if task.name in _MULTIMODAL_TASKS else found)
    for name in task.auto_classes:
        if name in own_code:
            raise UntrustedCodeError(_untrusted(_class_name(own_code[name])))
    known = [other.name for other in supported_tasks(config.model_type)]
    near = difflib.get_close_matches(task.name, known, n=1)
    hint = f"the nearest is {near[0]!r}; " if near else ""
    raise UnsupportedError(
        f"{config.model_type} doesn't support task {task.name!r}: {hint}supported are {', '.join(known) or 'none'}"
    )


def class_named(name: str, model_type: str) -> type:
    """Return a class of Transformers; the package doesn't name all that its Auto classes load."""
    import transformers
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    found = getattr(transformers, name, None)
    if found is None:
        module = model_type_to_module_name(model_type)
        found = getattr(import_module(f"transformers.models.{module}.modeling_{module}"), name)
    return cast("type", found)


def _with_forward(model_class: type) -> type:
    """Return a class of which a graph can be made.

    Raises:
        UnsupportedError: what it computes is in no one method.
    """
    has_forward = getattr(getattr(model_class, "forward", None), "__name__", "") != "_forward_unimplemented"
    record = _record_of_class(model_class)
    if not has_forward and (record is None or record.components is None):
        raise UnsupportedError(f"{model_class.__name__} has no forward: `generate` runs its parts one after another")
    return model_class


def generation_class(model_class: type) -> type:
    """Return the class that generates text, of one that has no forward as a whole (Qwen's Omni models)."""
    import transformers

    record = _record_of_class(model_class)
    name = None if record is None else record.generation_classes.get(model_class.__name__)
    return model_class if name is None else cast("type", getattr(transformers, name))


def _record_of_class(model_class: type) -> Architecture | None:
    """Return the record of the model type that a class is for; None where it names none, as a checkpoint's own may."""
    config_class = getattr(model_class, "config_class", None)
    return None if config_class is None else architecture_of(config_class.model_type)


def text_only(task: Task, chosen: type) -> Task:
    """Return the task of texts for a class that Transformers lists among those of images, but takes none (Mistral 4).

    Args:
        task: what the class was chosen for.
        chosen: a class of models.
    """
    names = inspect.signature(chosen.forward).parameters  # type: ignore[attr-defined]
    if task.name not in _MULTIMODAL_TASKS or accepts_modality(chosen) or "input_ids" not in names:
        return task
    return canonical_task("text-generation").past(task.with_past)


def _decodes_modalities(model: PreTrainedModel, task: Task) -> bool:
    """Return whether a model is a decoder that takes an encoder's embeddings in place of placeholder tokens."""
    if task.name in _MULTIMODAL_TASKS:
        return not model.config.is_encoder_decoder
    has_encoder = any(method_of(model, part.method) is not None for part in MODALITY_ENCODERS.values())
    is_decoder = not model.config.is_encoder_decoder and model.can_generate()
    return task.name in _FROM_ENCODERS and is_decoder and has_encoder


def _auto_classes(config: PreTrainedConfig, task: Task) -> tuple[str, ...]:
    """Name a task's Auto classes; embeddings are made by the encoder alone where that is a class of its own (T5)."""
    halves = _class_names("AutoModelForTextEncoding").get(config.model_type, ())
    is_half = task.name == SENTENCE_SIMILARITY and any(name.endswith(_ENCODER) for name in halves)
    return task.auto_classes[::-1] if is_half else task.auto_classes


_ENCODER = "EncoderModel"


def _code(config: PreTrainedConfig) -> dict[str, str]:
    """Map Auto classes to the checkpoint's own classes, each as `module.Class`."""
    declared = getattr(config, "auto_map", None)
    return {key: value for key, value in (declared or {}).items() if isinstance(value, str)}


def _class_name(place: str) -> str:
    return place.rsplit(".", 1)[-1]


def _classes_for(config: PreTrainedConfig, auto_class: str, code: Path | None) -> tuple[str, ...]:
    """Name the classes that an Auto class may load for a configuration, those of trusted code among them."""
    places = _code(config)
    own = (_class_name(places[auto_class]),) if code is not None and auto_class in places else ()
    return (*own, *_fitting(config, auto_class))


def _fitting(config: PreTrainedConfig, auto_class: str) -> tuple[str, ...]:
    """Name the classes that an Auto class loads for a configuration.

    It knows some classes by the type of a whole model alone whose text they write (`Emu3ForCausalLM`): a checkpoint of
    such a class says so.
    """
    import transformers

    names = _class_names(auto_class)
    if config.model_type in names:
        return names[config.model_type]
    known = {name for found in names.values() for name in found}.intersection(config.architectures or ())
    return tuple(name for name in sorted(known) if getattr(transformers, name).config_class is type(config))


def _load_code(place: str, directory: Path) -> type:
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    def incorrect(error: Exception) -> CorruptCheckpointError:
        reason = " ".join(str(error).split())[:300]
        return CorruptCheckpointError(
            f"{directory}: {place}, which config.json names under auto_map, can't be loaded "
            f"({type(error).__name__}: {reason}); correct that code, or install what it imports"
        )

    with translating(incorrect):
        found: type = get_class_from_dynamic_module(place, str(directory), local_files_only=True)
    return found


def _untrusted(name: str) -> str:
    return (
        f"the model class {name} is code of the checkpoint (auto_map in config.json), which would run on this machine; "
        f"read that code, and pass --trust-remote-code (trust_remote_code=True) if you trust it"
    )


_MORE_CLASSES = {
    ("AutoModelForCausalLM", "flaubert"): "FlaubertWithLMHeadModel",
    ("AutoModelForTimeSeriesPrediction", "patchtst"): "PatchTSTForPrediction",
    ("AutoModelForTimeSeriesPrediction", "patchtsmixer"): "PatchTSMixerForPrediction",
    ("AutoModel", "colpali"): "ColPaliForRetrieval",
    ("AutoModel", "siglip_text_model"): "SiglipTextModel",
    ("AutoModel", "siglip2_text_model"): "Siglip2TextModel",
}
"""Classes that Transformers' Auto class doesn't know: (Auto class, model type) to class.

Features of 4.37.2 and tasks of optimum-onnx 0.1.0 need them; neighbours of theirs are of the same kind.
"""


def _class_names(auto_class: str) -> dict[str, tuple[str, ...]]:
    """Map model types to the names of the classes that an Auto class loads."""
    import transformers

    mapping = getattr(transformers, auto_class)._model_mapping._model_mapping
    names = {key: (value,) if isinstance(value, str) else tuple(value) for key, value in mapping.items()}
    return names | {kind: (name,) for (auto, kind), name in _MORE_CLASSES.items() if auto == auto_class}


def describe(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor | None, options: GraphOptions | None = None
) -> tuple[Component, ...]:
    """Describe every graph that a model becomes: by its architecture's record, else by its traits.

    Args:
        model: a loaded Transformers model.
        task: the task, with or without past.
        preprocessor: what the checkpoint ships, None for nothing.
        options: of which `description`, `last_logits` and `split_encoders` matter; the defaults without.

    Raises:
        UnsupportedError: the model can't be described for this task.
        OptionError: `description` names what isn't one.
    """
    preprocessor = cast("Preprocessor", plain_tokenizer(model.config)) if preprocessor is None else preprocessor
    options = options or GraphOptions()
    if options.description is not None:
        return (Component("model", model, load_user_config(options.description, model.config), preprocessor),)
    if options.split_encoders:
        return tuple(
            Component(name, model, SplitEncoderOnnxConfig(model, name, preprocessor), preprocessor)
            for name in split_encoders_of(model)
        )
    if task.name == SENTENCE_SIMILARITY:
        return (Component("model", model, _describe_sentences(model, task, preprocessor), preprocessor),)
    components = _components(model, task, preprocessor, options.last_logits)
    needed = needed_modality(type(model), task, decodes=_decodes_modalities(model, task))
    if needed is not None and not any(takes_modality(component.config) for component in components):
        raise UnsupportedError(
            f"{task.full_name} needs an input for {needed}, and the graphs of {type(model).__name__} would take text "
            f"only; {_other_ways(model)}"
        )
    return components


def _components(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor, last_logits: bool
) -> tuple[Component, ...]:
    record = _record_of(model)
    found = None if record.components is None else record.components(model, task, preprocessor, last_logits)
    if found is not None:
        return found
    if generates_from_encoder(model, task):
        return encoder_decoder(model, preprocessor)
    if task.with_past and CrossAttentionDecoderOnnxConfig.fits(model):
        return cross_attention(model, preprocessor)
    if not task.with_past or not _decodes_modalities(model, task):
        one = _describe_one(model, task, preprocessor, last_logits)
        if takes_modality(one) or not _decodes_modalities(model, task):
            return (Component("model", model, one, preprocessor),)
    if not can_be_split(model, record.encoders):
        raise UnsupportedError(_without_encoder(model, task, preprocessor))
    return multimodal(model, task, preprocessor, last_logits, encoders=record.encoders, decoder=record.decoder)


def _without_encoder(model: PreTrainedModel, task: Task, preprocessor: Preprocessor) -> str:
    """Explain that a model can't be split into an encoder and a decoder; advise --no-past only where that works."""
    reason = f"{type(model).__name__} has no method that encodes images or audio alone"
    if not task.with_past:
        return f"{reason}, and its whole graph would take text only; {_other_ways(model)}"
    whole = _describe_one(model, task.past(False), preprocessor, False)
    remedy = "add --no-past" if takes_modality(whole) else _other_ways(model)
    return f"{reason}, so it can't be exported with past; {remedy}"


def _other_ways(model: PreTrainedModel) -> str:
    known = [task.name for task in supported_tasks(model.config.model_type)]
    text = next((f"for text alone, add --task {name}; " for name in _TEXT_TASKS if name in known), "")
    return f"{text}otherwise describe the inputs in an OnnxConfig of your own and add --description (docs/api.md)"


_TEXT_TASKS = ("text-generation", "text2text-generation")


def describe_modalities(config: PreTrainedConfig, graphs: Mapping[str, Interface]) -> tuple[Modality, ...]:
    """Describe how what the encoders of an export return gets into its decoder.

    Args:
        config: the model's configuration.
        graphs: component name to its inputs and outputs.
    """
    record = architecture_of(config.model_type)
    found = modalities_of(config, graphs)
    if record is None or record.modalities is None:
        return found
    return tuple(record.modalities(modality, config) for modality in found)


def _record_of(model: PreTrainedModel) -> Architecture:
    return architecture_of(model.config.model_type) or Architecture((model.config.model_type,))


def _describe_one(model: PreTrainedModel, task: Task, preprocessor: Preprocessor, last_logits: bool) -> OnnxConfig:
    """Describe a single graph: by the record, else as 4.37.2 did, else by looking at the model."""
    record = _record_of(model)
    if record.model is not None:
        described = record.model(model, task, preprocessor, last_logits)
        if described is not None:
            return described
    if is_packed_patch_model(model):
        return PackedPatchModelOnnxConfig(model)
    known = MODEL_TYPES.get(model.config.model_type.replace("_", "-"))
    decodes = task.name == "text-generation" and not model.config.is_encoder_decoder
    task = _described_as(model, task, known.features if known is not None else ())
    if known is None or decodes or task.full_feature not in known.features:
        chooses = task.name == "multiple-choice"
        return DerivedOnnxConfig(model, preprocessor, task.with_past, last_logits, chooses)
    config_class = load_config_class(known.config)
    make = config_class.with_past if task.with_past else config_class.from_model_config
    config: OnnxConfig = make(model.config, task=task.feature)
    return config


def _described_as(model: PreTrainedModel, task: Task, features: tuple[str, ...]) -> Task:
    """Return the task of 4.37.2 that loads the same class, where a task has a name that 4.37.2 didn't know."""
    if task.full_feature in features:
        return task
    same = (
        other for other in map(canonical_task, features) if other.with_past == task.with_past and _loads(model, other)
    )
    return next(same, task)


def _loads(model: PreTrainedModel, task: Task) -> bool:
    kind, name = model.config.model_type, type(model).__name__
    return any(name in _class_names(auto_class).get(kind, ()) for auto_class in task.auto_classes)


def _describe_sentences(model: PreTrainedModel, task: Task, preprocessor: Preprocessor) -> OnnxConfig:
    if task.with_past:
        raise UnsupportedError(f"{task.name} has no past: leave {PAST_SUFFIX} out")
    if type(model).__name__.endswith(_ENCODER):
        return SentenceEmbeddingOnnxConfig(DerivedOnnxConfig(model, preprocessor))
    return SentenceEmbeddingOnnxConfig(_describe_one(model, canonical_task("feature-extraction"), preprocessor, False))
