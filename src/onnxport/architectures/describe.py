"""Describe each graph that a model is exported to."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, cast

from onnxport.architectures._recorded import record_of
from onnxport.architectures._table import architecture_of
from onnxport.architectures.classes import (
    ENCODER_SUFFIX,
    FROM_ENCODERS,
    MULTIMODAL_TASKS,
    class_named,
    class_names,
    infer_task,
    model_class,
    supported_tasks,
)
from onnxport.configs.model_types import MODEL_TYPES, load_config_class
from onnxport.description.cache_layout import WITHOUT_PAST
from onnxport.description.codec import codec, is_codec
from onnxport.description.completion import completed
from onnxport.description.component_types import (
    can_be_split,
    cross_attention,
    encoder_alone,
    encoder_decoder,
    generates_from_encoder,
    multimodal,
    takes_decoder_tokens,
)
from onnxport.description.components import Component
from onnxport.description.default_preprocessor import ImageDefaults, complete_preprocessor
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dual_encoder import SplitEncoderOnnxConfig, split_encoders_of
from onnxport.description.dummy_inputs import has_placeholders
from onnxport.description.encoder_decoder import CrossAttentionDecoderOnnxConfig
from onnxport.description.forward import forward_parameters
from onnxport.description.image_text_encoder import ImageTextEncoderOnnxConfig, split_image_text
from onnxport.description.image_text_model import ImageTextModelOnnxConfig
from onnxport.description.modalities import accepts_modality, needed_modality, takes_modality
from onnxport.description.packed_patches import PackedPatchModelOnnxConfig, is_packed_patch_model
from onnxport.description.requested_outputs import with_outputs
from onnxport.description.sentence_embedding import SentenceEmbeddingOnnxConfig
from onnxport.description.sentence_modules import HEAD, SentenceModel
from onnxport.description.tasks import (
    ARCHITECTURE,
    MODULE_TASKS,
    PAST_SUFFIX,
    TEXT_ENCODING,
    TEXT_TASKS,
    Task,
    canonical_task,
)
from onnxport.description.token_embeddings import with_embeds
from onnxport.description.user_config import load_user_config
from onnxport.errors import UnsupportedError
from onnxport.options import GraphOptions

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from onnxport.configs import OnnxConfig
    from onnxport.description.preprocessor import Preprocessor

__all__ = [
    "class_named",
    "describe",
    "has_own_encoder",
    "image_defaults",
    "infer_task",
    "model_class",
    "supported_tasks",
]
"""What other rooms use of a model type: its classes and tasks, too, which are in `classes`."""


def describe(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor | None, options: GraphOptions | None = None
) -> tuple[Component, ...]:
    """Describe every graph that a model is exported to, by its architecture's record or by inspecting the model.

    Args:
        model: a loaded Transformers model.
        task: the task, with or without past.
        preprocessor: the checkpoint's preprocessor; None if it has none.
        options: graph options, of which `description`, `last_logits`, `split_encoders`, `outputs` and `inputs_embeds`
            are used; None for the defaults.

    Raises:
        UnsupportedError: the model can't be described for this task, or doesn't take `inputs_embeds`.
        OptionError: `description` doesn't name a description, or `outputs` one that the model doesn't return.
    """
    preprocessor = complete_preprocessor(model, preprocessor, image_defaults(model.config))
    options = options or GraphOptions()
    components = _components_with(model, task, preprocessor, options)
    components = with_outputs(components, options.outputs) if options.outputs else components
    return with_embeds(components, task) if options.inputs_embeds else components


def _components_with(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor, options: GraphOptions
) -> tuple[Component, ...]:
    if options.description is not None:
        return (Component("model", model, load_user_config(options.description, model.config), preprocessor),)
    split = record_of(model).split
    if options.split_encoders and split is not None:
        return split(model, preprocessor)
    if options.split_encoders and is_codec(type(model)):
        return codec(model, preprocessor, excluded=record_of(model).left_out)
    is_split = options.split_encoders and has_own_encoder(type(model), task)
    if is_split and task.with_past and not model.can_generate():
        return encoder_decoder(model, preprocessor, excluded=record_of(model).left_out)
    if is_split and task.with_past and ImageTextEncoderOnnxConfig.fits(model):
        return split_image_text(model, *encoder_decoder(model, preprocessor))
    if options.split_encoders and not is_split:
        return tuple(
            Component(name, model, SplitEncoderOnnxConfig(model, name, preprocessor), preprocessor)
            for name in split_encoders_of(model)
        )
    if task.name in MODULE_TASKS:
        return (Component("model", model, _describe_sentences(model, task, preprocessor), preprocessor),)
    components = _components(model, task, preprocessor, options.last_logits)
    needed = needed_modality(type(model), task, decodes=_decodes_modalities(model, task))
    if needed is not None and not any(takes_modality(component.config) for component in components):
        raise UnsupportedError(
            f"{task.full_name} needs an input for {needed}, and the graphs of {type(model).__name__} would take text "
            f"only; {_alternatives(model)}"
        )
    return components


def _components(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor, last_logits: bool
) -> tuple[Component, ...]:
    record = record_of(model)
    described = None if record.components is None else record.components(model, task, preprocessor, last_logits)
    if described is not None:
        return described
    if _is_half(model, task):
        return (encoder_alone(model, preprocessor, excluded=record.left_out),)
    if generates_from_encoder(model, task):
        return encoder_decoder(model, preprocessor, excluded=record.left_out)
    if task.with_past and CrossAttentionDecoderOnnxConfig.fits(model):
        return cross_attention(model, preprocessor)
    if not task.with_past or not _decodes_modalities(model, task):
        config = _describe_single(model, task, preprocessor, last_logits)
        config = completed(model, config, preprocessor, task, record.left_out)
        if takes_modality(config) or not _decodes_modalities(model, task):
            return (Component("model", model, config, preprocessor),)
    if not can_be_split(model, record.encoders):
        raise UnsupportedError(_without_encoder(model, task, preprocessor))
    return multimodal(model, task, preprocessor, last_logits, encoders=record.encoders, decoder=record.decoder)


def _decodes_modalities(model: PreTrainedModel, task: Task) -> bool:
    """Return whether a model is a decoder whose placeholder tokens are replaced by the embeddings of an encoder."""
    if task.name in MULTIMODAL_TASKS:
        return not model.config.is_encoder_decoder
    if model.config.is_encoder_decoder or not accepts_modality(type(model)):
        return False
    if not can_be_split(model, record_of(model).encoders):
        return False
    return task.name in (*FROM_ENCODERS, ARCHITECTURE) if model.can_generate() else has_placeholders(model.config)


def has_own_encoder(model_class: type, task: Task) -> bool:
    """Return whether an export with past has the encoder of an encoder-decoder as a graph of its own.

    Args:
        model_class: a model class; without a head, the export has these graphs for `--split-encoders` alone.
        task: its task.
    """
    return task.name in ("feature-extraction", *FROM_ENCODERS) and takes_decoder_tokens(model_class)


def _is_half(model: PreTrainedModel, task: Task) -> bool:
    """Return whether only the encoder of a model is exported."""
    return task.name == TEXT_ENCODING and takes_decoder_tokens(type(model))


def _without_encoder(model: PreTrainedModel, task: Task, preprocessor: Preprocessor) -> str:
    """Explain that an encoder can't be split off; suggest the task without past only if that works."""
    reason = f"{type(model).__name__} has no method that encodes images or audio alone"
    if not task.with_past:
        return f"{reason}, and a single graph would take text only; {_alternatives(model)}"
    single = _describe_single(model, task.past(False), preprocessor, False)
    remedy = WITHOUT_PAST if takes_modality(single) else _alternatives(model)
    return f"{reason}, so it can't be exported with past; {remedy}"


def _alternatives(model: PreTrainedModel) -> str:
    supported = [task.name for task in supported_tasks(model.config)]
    text = next((f"for text alone, add --task {name}; " for name in _TEXT_TASKS if name in supported), "")
    return f"{text}otherwise describe the inputs in a custom OnnxConfig and add --description (docs/api.md)"


_TEXT_TASKS = ("text-generation", "text2text-generation")


def image_defaults(config: PreTrainedConfig) -> ImageDefaults:
    """Return what the record of a model type says about its images."""
    record = architecture_of(config.model_type)
    if record is None:
        return ImageDefaults()
    return ImageDefaults(record.image_size and record.image_size(config), record.image_processor)


def _describe_single(model: PreTrainedModel, task: Task, preprocessor: Preprocessor, last_logits: bool) -> OnnxConfig:
    """Describe a single graph: by the record, else as 4.37.2 did, else by inspecting the model."""
    record = record_of(model)
    if record.model is not None:
        described = record.model(model, task, preprocessor, last_logits)
        if described is not None:
            return described
    if is_packed_patch_model(model):
        return PackedPatchModelOnnxConfig(model)
    if task.name not in TEXT_TASKS and ImageTextModelOnnxConfig.fits(model):
        return ImageTextModelOnnxConfig(model, preprocessor)
    known = MODEL_TYPES.get(model.config.model_type.replace("_", "-"))
    decodes = task.name == "text-generation" and not model.config.is_encoder_decoder
    task = _task_of_4_37(model, task, known.features if known is not None else ())
    if known is None or decodes or task.full_feature not in known.features:
        is_multiple_choice = task.name == "multiple-choice" or _has_choices(model)
        return DerivedOnnxConfig(model, preprocessor, task.with_past, last_logits, is_multiple_choice)
    config_class = load_config_class(known.config)
    make = config_class.with_past if task.with_past else config_class.from_model_config
    config: OnnxConfig = make(model.config, task=task.feature)
    return config


def _has_choices(model: PreTrainedModel) -> bool:
    """Return whether a class takes several texts for each example; not all such classes are listed for that task."""
    tokens = forward_parameters(type(model)).get("input_ids")  # type: ignore[arg-type]  # classes are hashable
    return tokens is not None and "num_choices" in tokens.shape


def _task_of_4_37(model: PreTrainedModel, task: Task, features: tuple[str, ...]) -> Task:
    """Return the task of 4.37.2 that loads the same class if 4.37.2 doesn't know the name of the task."""
    if task.full_feature in features:
        return task
    same = (
        other for other in map(canonical_task, features) if other.with_past == task.with_past and _loads(model, other)
    )
    return next(same, task)


def _loads(model: PreTrainedModel, task: Task) -> bool:
    model_type, name = model.config.model_type, type(model).__name__
    return any(name in class_names(auto_class).get(model_type, ()) for auto_class in task.auto_classes)


def _describe_sentences(model: PreTrainedModel, task: Task, preprocessor: Preprocessor) -> OnnxConfig:
    if task.with_past:
        raise UnsupportedError(f"{task.name} has no past: leave {PAST_SUFFIX} out")
    described = cast("SentenceModel", getattr(model, HEAD).described)
    if not described.task:
        from onnxport.description.static_embedding import StaticEmbeddingOnnxConfig

        return SentenceEmbeddingOnnxConfig(StaticEmbeddingOnnxConfig(model.config), described)
    if type(model).__name__.endswith(ENCODER_SUFFIX):
        return SentenceEmbeddingOnnxConfig(DerivedOnnxConfig(model, preprocessor), described)
    parameters = inspect.signature(type(model).forward).parameters
    last_logits = described.task == "text-generation" and "logits_to_keep" in parameters
    config = _describe_single(model, canonical_task(described.task), preprocessor, last_logits)
    return SentenceEmbeddingOnnxConfig(config, described)
