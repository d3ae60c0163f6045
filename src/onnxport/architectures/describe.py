"""Which task a checkpoint is for, which class loads it, and the description of each graph that it becomes."""

from __future__ import annotations

import difflib
import inspect
import logging
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from onnxport.architectures import bark
from onnxport.architectures import lfm2_vl as lfm2
from onnxport.architectures import llava_next as anyres
from onnxport.architectures import phi4_multimodal as phi4
from onnxport.architectures import qwen2_audio as audios
from onnxport.architectures import qwen_omni as windowed
from onnxport.architectures import voxtral_realtime as realtime
from onnxport.configs.model_types import MODEL_TYPES, load_config_class
from onnxport.configs.plain_tokenizer import plain_tokenizer
from onnxport.description import packed_patches as grids
from onnxport.description.cache_layout import CACHE_NAMES
from onnxport.description.components import MODALITY_ENCODERS
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dual_encoder import SplitEncoderOnnxConfig, split_encoders_of
from onnxport.description.encoder_decoder import (
    CrossAttentionDecoderOnnxConfig,
    DecoderOnnxConfig,
    EncoderOnnxConfig,
    InnerEncoderOnnxConfig,
)
from onnxport.description.image_patches import ImagePatchesEncoderOnnxConfig
from onnxport.description.modalities import accepts_modality, needed_modality, takes_modality
from onnxport.description.multimodal import (
    EmbeddingOnnxConfig,
    EmbedsDecoderOnnxConfig,
    ImageSizesEncoderOnnxConfig,
    ModalityEncoderOnnxConfig,
    TiledImageEncoderOnnxConfig,
    has_audio,
    language_model,
    method_of,
)
from onnxport.description.sentence_embedding import SentenceEmbeddingOnnxConfig
from onnxport.description.tasks import PAST_SUFFIX, SENTENCE_SIMILARITY, TASKS, Task, canonical_task
from onnxport.description.user_config import load_user_config
from onnxport.errors import CorruptCheckpointError, UnsupportedError, UntrustedCodeError
from onnxport.options import GraphOptions

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from onnxport.configs import OnnxConfig


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Component:
    """Name one graph of an export.

    Attributes:
        name: file name without suffix, `model` for a single graph.
        model: the module that becomes the graph.
        config: description of the graph.
        preprocessor: what makes its example inputs.
    """

    name: str
    model: Any
    config: OnnxConfig
    preprocessor: Any


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


def _named(architecture: str) -> Any:
    """Return the class of Transformers with a name, or the part of it that takes and generates text; None for none."""
    import transformers

    known = getattr(transformers, architecture, None)
    return None if known is None else generation_class(known)


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
    if not has_forward and model_class.__name__ != bark.MODEL_CLASS:
        raise UnsupportedError(f"{model_class.__name__} has no forward: `generate` runs its parts one after another")
    return model_class


def generation_class(model_class: type) -> type:
    """Return what reads and writes texts of a model that has no forward as a whole: Qwen's Omni models also speak."""
    import transformers

    name = _WRITERS.get(model_class.__name__)
    return model_class if name is None else cast("type", getattr(transformers, name))


_WRITERS = {
    f"{name}ForConditionalGeneration": f"{name}ThinkerForConditionalGeneration"
    for name in ("Qwen2_5Omni", "Qwen3OmniMoe")
}


def text_only(task: Task, chosen: type) -> Task:
    """Return the task of texts for a class that Transformers lists among those of pictures, but takes none (Mistral 4).

    Args:
        task: what the class was chosen for.
        chosen: a class of models.
    """
    names = inspect.signature(chosen.forward).parameters  # type: ignore[attr-defined]
    if task.name not in _MULTIMODAL_TASKS or accepts_modality(chosen) or "input_ids" not in names:
        return task
    return canonical_task("text-generation").past(task.with_past)


def _decodes_modalities(model: Any, task: Task) -> bool:
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

    try:
        found: type = get_class_from_dynamic_module(place, str(directory), local_files_only=True)
    except Exception as error:  # code of the checkpoint raises whatever it likes
        reason = " ".join(str(error).split())[:300]
        raise CorruptCheckpointError(
            f"{directory}: {place}, which config.json names under auto_map, can't be loaded "
            f"({type(error).__name__}: {reason}); correct that code, or install what it imports"
        ) from error
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


def describe(model: Any, task: Task, preprocessor: Any, options: GraphOptions | None = None) -> tuple[Component, ...]:
    """Describe every graph that a model becomes.

    Args:
        model: a loaded Transformers model.
        task: the task, with or without past.
        preprocessor: what the checkpoint ships, None for nothing.
        options: of which `description`, `last_logits` and `split_encoders` matter; the defaults without.

    Raises:
        UnsupportedError: the model can't be described for this task.
        OptionError: `description` names what isn't one.
    """
    if preprocessor is None:
        preprocessor = plain_tokenizer(model.config)
    options = options or GraphOptions()
    if options.description is not None:
        return (Component("model", model, load_user_config(options.description, model.config), preprocessor),)
    if options.split_encoders:
        return tuple(
            Component(name, model, SplitEncoderOnnxConfig(model, name, preprocessor), preprocessor)
            for name in split_encoders_of(model)
        )
    if model.config.model_type == bark.MODEL_TYPE:
        return tuple(Component(*part) for part in bark.parts_of(model, options.last_logits))
    if task.name == SENTENCE_SIMILARITY:
        return (Component("model", model, _describe_sentences(model, task, preprocessor), preprocessor),)
    components = _components(model, task, preprocessor, options)
    needed = needed_modality(type(model), task, decodes=_decodes_modalities(model, task))
    if needed is not None and not any(takes_modality(component.config) for component in components):
        raise UnsupportedError(
            f"{task.full_name} needs an input for {needed}, and the graphs of {type(model).__name__} would take text "
            f"only; {_other_ways(model)}"
        )
    return components


def _components(model: Any, task: Task, preprocessor: Any, options: GraphOptions) -> tuple[Component, ...]:
    if task.with_past and model.config.is_encoder_decoder and model.can_generate():
        return _encoder_and_decoder(model, preprocessor)
    if task.with_past and CrossAttentionDecoderOnnxConfig.fits(model):
        encoder = EncoderOnnxConfig(model.vision_model, preprocessor)
        decoder = CrossAttentionDecoderOnnxConfig(model.text_decoder, model.vision_model, encoder, preprocessor)
        return (
            Component("encoder_model", model.vision_model, encoder, preprocessor),
            Component("decoder_model_merged", model.text_decoder, decoder, preprocessor),
        )
    if task.with_past and (realtime.fits(model) or _decodes_modalities(model, task)):
        return _encoders_and_decoder(model, task, preprocessor, options.last_logits)
    if model.config.model_type == "vision-encoder-decoder":
        return _vision_encoder_decoder(model, preprocessor)
    one = _describe_one(model, task, preprocessor, options.last_logits)
    if not takes_modality(one) and _decodes_modalities(model, task):
        return _encoders_and_decoder(model, task, preprocessor, options.last_logits)
    return (Component("model", model, one, preprocessor),)


_OWN = {
    "minimax": "onnxport.architectures.minimax:MiniMaxOnnxConfig",
    "prophetnet": "onnxport.architectures.prophetnet:ProphetNetOnnxConfig",
    "recurrent_gemma": "onnxport.architectures.recurrent_gemma:RecurrentGemmaOnnxConfig",
    "rwkv": "onnxport.architectures.rwkv:RwkvOnnxConfig",
    "speecht5": "onnxport.architectures.speecht5:SpeechT5OnnxConfig",
    "xlstm": "onnxport.architectures.xlstm:XlstmOnnxConfig",
}
"""Model types that generate in a way of their own to `module:class` of their description."""
_ALWAYS_OWN = ("rwkv",)
"""Those of which parts without a head have a loop over tokens, too."""
_OWN_HALVES = {"prophetnet": "onnxport.architectures.prophetnet:ProphetNetDecoderOnnxConfig"}
"""The same for the decoder of an encoder-decoder."""


def _encoder_and_decoder(model: Any, preprocessor: Any) -> tuple[Component, ...]:
    encoder = model.get_encoder()
    if hasattr(encoder, "main_input_name"):
        says = EncoderOnnxConfig(encoder, preprocessor)
    else:
        encoder, says = model, InnerEncoderOnnxConfig(model, preprocessor)
    own = _OWN_HALVES.get(model.config.model_type)
    takes_states = load_config_class(own) if own else DecoderOnnxConfig
    return (
        Component("encoder_model", encoder, says, preprocessor),
        Component("decoder_model_merged", model, takes_states(model, says, preprocessor), preprocessor),
    )


def _encoders_and_decoder(model: Any, task: Task, preprocessor: Any, last_logits: bool) -> tuple[Component, ...]:
    """Describe the graphs of a model that reads pictures or sounds beside a text."""
    having = [
        name
        for name, part in MODALITY_ENCODERS.items()
        if method_of(model, part.method) is not None and _has(model, name)
    ]
    encoders = _ENCODERS_OF.get(model.config.model_type, having)
    if task.name == "image-to-text" and len(encoders) == len(MODALITY_ENCODERS) and not has_audio(model, preprocessor):
        logger.warning("the checkpoint has nothing that prepares sounds: the encoder of sounds is left out")
        encoders = [name for name in encoders if name != "audio_encoder"]
    if not encoders or not hasattr(model, "get_input_embeddings"):
        raise UnsupportedError(_without_encoder(model, task, preprocessor))
    takes_states, text = _decoder_class(model), language_model(model)
    return (
        *(
            Component(name, model, _describe_modality_encoder(model, name, preprocessor), preprocessor)
            for name in encoders
        ),
        Component("embed_tokens", model, EmbeddingOnnxConfig(model.config), preprocessor),
        Component(
            "decoder_model_merged", text, takes_states(text, preprocessor, last_logits, task.with_past), preprocessor
        ),
    )


def _without_encoder(model: Any, task: Task, preprocessor: Any) -> str:
    """Explain that a model can't be split into an encoder and a decoder; advise --no-past only where that works."""
    reason = f"{type(model).__name__} has no method that encodes images or audio alone"
    if not task.with_past:
        return f"{reason}, and its whole graph would take text only; {_other_ways(model)}"
    whole = _describe_one(model, task.past(False), preprocessor, False)
    remedy = "add --no-past" if takes_modality(whole) else _other_ways(model)
    return f"{reason}, so it can't be exported with past; {remedy}"


def _other_ways(model: Any) -> str:
    known = [task.name for task in supported_tasks(model.config.model_type)]
    text = next((f"for text alone, add --task {name}; " for name in _TEXT_TASKS if name in known), "")
    return f"{text}otherwise describe the inputs in an OnnxConfig of your own and add --description (docs/api.md)"


_TEXT_TASKS = ("text-generation", "text2text-generation")


def _has(model: Any, component: str) -> bool:
    """Say whether a model has an encoder that its class may have: one whose configuration is empty it hasn't."""
    field = component.replace("_encoder", "_config")
    return getattr(model.config, field, True) is not None


def _decoder_class(model: Any) -> type[EmbedsDecoderOnnxConfig]:
    config = model.config
    if realtime.fits(model):
        return realtime.RealtimeEmbedsDecoderOnnxConfig
    if config.model_type == anyres.DEEP:
        return anyres.DeepstackTextDecoderOnnxConfig
    if not hasattr(config, "vision_config") or not grids.uses_mrope(config):
        return EmbedsDecoderOnnxConfig
    return grids.DeepstackMropeDecoderOnnxConfig if grids.has_deepstack(config) else grids.MropeDecoderOnnxConfig


_ENCODERS_OF = {"qwen2_audio": ["audio_encoder"], "phi4_multimodal": ["vision_encoder", "audio_encoder"]}
"""Model type to its encoders, where it has no method for each."""


def _describe_modality_encoder(model: Any, component: str, preprocessor: Any) -> OnnxConfig:
    if model.config.model_type in ("idefics3", "smolvlm"):
        return TiledImageEncoderOnnxConfig(model.config)
    if component == "vision_encoder" and grids.takes_packed_patches(model):
        return (
            grids.DeepstackPatchEncoderOnnxConfig
            if grids.has_deepstack(model.config)
            else grids.PackedPatchEncoderOnnxConfig
        )(model)
    if model.config.model_type == anyres.DEEP:
        return anyres.DeepstackAnyresEncoderOnnxConfig(model.config)
    if model.config.model_type in anyres.MODEL_TYPES:
        return anyres.AnyresEncoderOnnxConfig(model.config)
    if component == "audio_encoder" and windowed.audio_encoder_of(model) is not None:
        return windowed.WindowedAudioEncoderOnnxConfig(model)
    if model.config.model_type in audios.MODEL_TYPES:
        return audios.Qwen2AudioEncoderOnnxConfig(model.config)
    if model.config.model_type in lfm2.MODEL_TYPES:
        return lfm2.Lfm2VlVisionOnnxConfig(model)
    if model.config.model_type in phi4.MODEL_TYPES:
        return phi4.config_for(model, component)
    if ImageSizesEncoderOnnxConfig.fits(model, component):
        return ImageSizesEncoderOnnxConfig(model, component, preprocessor)
    try:
        return ModalityEncoderOnnxConfig(model, component, preprocessor)
    except UnsupportedError:
        if not ImagePatchesEncoderOnnxConfig.fits(model, component):
            raise
        return ImagePatchesEncoderOnnxConfig(model, component, preprocessor)


def _describe_one(model: Any, task: Task, preprocessor: Any, last_logits: bool) -> OnnxConfig:
    known = MODEL_TYPES.get(model.config.model_type.replace("_", "-"))
    decoder = task.name == "text-generation" and not model.config.is_encoder_decoder
    generates = decoder or model.config.is_encoder_decoder or model.config.model_type in _ALWAYS_OWN
    if generates and model.config.model_type in _OWN:
        own = load_config_class(_OWN[model.config.model_type])
        described: OnnxConfig = own(model, preprocessor, task.with_past, last_logits)
        return described
    if grids.is_packed_patch_model(model):
        return grids.PackedPatchModelOnnxConfig(model)
    if model.config.model_type in realtime.TEXTS:
        return realtime.RealtimeTextOnnxConfig(model, preprocessor, task.with_past, last_logits)
    if windowed.audio_encoder_of(model) is model:
        return windowed.WindowedAudioEncoderOnnxConfig(model)
    task = _described_as(model, task, known.features if known is not None else ())
    if known is None or decoder or task.full_feature not in known.features:
        chooses = task.name == "multiple-choice"
        return DerivedOnnxConfig(model, preprocessor, task.with_past, last_logits, chooses)
    config_class = load_config_class(known.config)
    make = config_class.with_past if task.with_past else config_class.from_model_config
    config: OnnxConfig = make(model.config, task=task.feature)
    return config


def _described_as(model: Any, task: Task, features: tuple[str, ...]) -> Task:
    """Return the task of 4.37.2 that loads the same class, where a task has a name that 4.37.2 didn't know."""
    if task.full_feature in features:
        return task
    same = (
        other for other in map(canonical_task, features) if other.with_past == task.with_past and _loads(model, other)
    )
    return next(same, task)


def _loads(model: Any, task: Task) -> bool:
    kind, name = model.config.model_type, type(model).__name__
    return any(name in _class_names(auto_class).get(kind, ()) for auto_class in task.auto_classes)


def _describe_sentences(model: Any, task: Task, preprocessor: Any) -> OnnxConfig:
    if task.with_past:
        raise UnsupportedError(f"{task.name} has no past: leave {PAST_SUFFIX} out")
    if type(model).__name__.endswith(_ENCODER):
        return SentenceEmbeddingOnnxConfig(DerivedOnnxConfig(model, preprocessor))
    return SentenceEmbeddingOnnxConfig(_describe_one(model, canonical_task("feature-extraction"), preprocessor, False))


def _vision_encoder_decoder(model: Any, preprocessor: Any) -> tuple[Component, ...]:
    known = load_config_class(MODEL_TYPES["vision-encoder-decoder"].config)(model.config)
    encoder = known.get_encoder_config(model.config.encoder)
    decoder = known.get_decoder_config(model.config.encoder, model.config.decoder, feature="causal-lm")
    image_processor = getattr(preprocessor, "image_processor", preprocessor)
    tokenizer = getattr(preprocessor, "tokenizer", None) or plain_tokenizer(model.config.decoder)
    return (
        Component("encoder_model", model.encoder, encoder, image_processor),
        Component("decoder_model", model.decoder, decoder, tokenizer),
    )
