"""The parameters of a model's forward, and why some of them aren't inputs of a graph.

Transformers documents the shape of nearly every tensor that a forward takes, in one form (`auto_docstring` completes
the docstrings since 4.53): `input_ids (torch.LongTensor of shape (batch_size, sequence_length), *optional*)`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

from onnxport._transformers_api import is_cache
from onnxport.description.axes import is_cached
from onnxport.description.dummy_inputs import has_placeholders
from onnxport.description.modalities import needed_modality
from onnxport.description.tasks import MODULE_TASKS, PAST_SUFFIX, TEXT_TASKS, Task
from onnxport.description.unread_parameters import is_unread

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Kind = Literal["tensor", "cache", "collection", "flag", "other"]
"""What a parameter is: a tensor, a cache, a collection of tensors, a bool, int, float or str, or anything else."""
NOT_DESCRIBED = "not described yet: the graph computes with forward's default"
"""Reason for a parameter that can change an output, and that no rule leaves out."""

NO_TOKEN_TYPES = "generation has no token types"
"""Reason for the token types that some tokenizers make, for a decoder that generates."""

NO_TYPE_EMBEDDINGS = "the model has no embeddings of several token types"
"""Reason for the token types of a model with at most one; some, such as XLM, would add word embeddings of them."""

UNUSED = "the model doesn't use it with its configuration"
"""Reason for a parameter whose values no operator takes."""

OPTION = "an option of forward: the graph has its value "
"""Beginning of the reason for a flag, before its value."""

OTHER_NAME = "another name of "
"""Beginning of the reason for a synonym, before the input's name."""

OTHER_MASK = "another form of attention_mask"
"""Reason for lengths and masks that forward converts to the mask."""

RETURNED = "forward returns it unchanged"
"""Reason for a parameter that is an output."""

_UNREAD = "forward doesn't read it"
_DOCUMENTED_AS_UNUSED = "the model doesn't use it, as its documentation says"
_IMAGE_SIZE = "the size of pixel_values"
_FEATURE_LENGTHS = "the sums of feature_attention_mask"
_MROPE_TYPES = "position_ids are computed from it"
_NO_TYPED_ATTENTION = "the attention of this configuration doesn't depend on it"
WITHOUT_EFFECT = frozenset(
    (UNUSED, _UNREAD, RETURNED, _DOCUMENTED_AS_UNUSED, _IMAGE_SIZE, _FEATURE_LENGTHS, _MROPE_TYPES, _NO_TYPED_ATTENTION)
)
"""Reasons of parameters that change no output, whatever their value: the model doesn't use them, or has them."""


@dataclass(frozen=True)
class ForwardParameter:
    """Describe a parameter of a forward.

    Attributes:
        name: its name.
        kind: what it is, by its annotation or, without one, its documentation.
        shape: the documented axes, such as `("batch_size", "sequence_length")`; empty if there are none.
        dtype: element type of a tensor: `int64`, `float32` or `bool`; empty if neither its annotation nor its
            documentation has it.
        default: its default; `inspect.Parameter.empty` if it has none.
        is_ignored: whether its documentation says that the model doesn't use it.
    """

    name: str
    kind: Kind
    shape: tuple[str, ...]
    dtype: str
    default: object
    is_ignored: bool = False


@cache
def forward_parameters(model_class: type[PreTrainedModel]) -> Mapping[str, ForwardParameter]:
    """Return the parameters of a model's forward by name, without `self`, `*args` and `**kwargs`.

    Args:
        model_class: a model class of Transformers, or of a checkpoint's code.
    """
    documented = _documentation(inspect.getdoc(model_class.forward) or "")
    parameters = [p for p in inspect.signature(model_class.forward).parameters.values() if p.name != "self"]
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return {p.name: _describe(p, documented.get(p.name, _Documentation())) for p in named}


@dataclass(frozen=True)
class _Documentation:
    """Hold the type of a parameter and its description, as a docstring has them."""

    type: str = ""
    text: str = ""


def _documentation(docstring: str) -> dict[str, _Documentation]:
    found = {}
    for match in _DOCUMENTED.finditer(docstring):
        body = re.match(rf"(?:\n(?:{match[1]}[ \t]+.*|[ \t]*(?=\n|$)))*", docstring[match.end() :])
        found[match[2]] = _Documentation(match[3], " ".join(body[0].split()) if body else "")
    return found


_DOCUMENTED = re.compile(r"^([ \t]*)(\w+) \((.+)\):?[ \t]*$", re.M)
"""Indentation, name and type of a parameter in a docstring of Transformers."""
_SHAPE = re.compile(r"\bshape `{0,2}[(\[](.*?)[)\]]`{0,2}(?:\W|$)")
_IGNORED = re.compile(r"\bit is not used\b|\bDummy input for now\b")
_COLLECTION = re.compile(r"\b(list|tuple|dict|List|Tuple|Dict|Sequence|Mapping|Iterable|\w*Output\w*)\b")
_TENSOR = re.compile(r"(torch\.)?\w*Tensor")
_FLAG = re.compile(r"\b(bool|int|float|str)\b")


def _describe(parameter: inspect.Parameter, documentation: _Documentation) -> ForwardParameter:
    annotation = parameter.annotation
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    kind = _kind_of(documentation.type if annotation is parameter.empty else text, parameter.default)
    if is_cache(parameter):
        kind = "cache"
    shape = _SHAPE.search(documentation.type) or _SHAPE.search(documentation.text)
    axes = tuple(axis.strip() for axis in shape[1].split(",") if axis.strip()) if shape else ()
    types = f"{text} {documentation.type}"
    return ForwardParameter(
        parameter.name,
        kind,
        tuple(_SYNONYMS.get(axis, axis) for axis in axes),
        next((dtype for name, dtype in _DTYPES.items() if name in types), ""),
        parameter.default,
        is_ignored=_IGNORED.search(documentation.text) is not None,
    )


_SYNONYMS = {"seq_length": "sequence_length", "seq_len": "sequence_length", "batch": "batch_size"}
"""Name of an axis in some docstrings to its name in most."""
_DTYPES = {"BoolTensor": "bool", "LongTensor": "int64", "IntTensor": "int64", "FloatTensor": "float32"}
"""Type of a tensor in an annotation or docstring to its element type in a graph."""


def _kind_of(text: str, default: object) -> Kind:
    if "Cache" in text:
        return "cache"
    if isinstance(default, bool | int | float | str) or text.startswith("int | "):
        return "flag"  # `logits_to_keep: int | torch.Tensor = 0`, `num_delay_tokens: int | torch.Tensor = None`
    is_tensor = any(_TENSOR.fullmatch(part.strip()) for part in text.split("|"))
    if not is_tensor and _COLLECTION.search(text):
        return "collection"
    if "Tensor" in text:
        return "tensor"
    return "flag" if _FLAG.search(text) else "other"


def left_out(
    model: PreTrainedModel, task: Task, inputs: Collection[str], unused: Collection[str] = ()
) -> dict[str, str]:
    """Return the parameters of a forward that aren't inputs of any graph, each with the reason.

    Args:
        model: the exported model.
        task: the task.
        inputs: names of the inputs of all graphs.
        unused: names of parameters whose values the model doesn't use.

    Returns:
        Parameter name to reason; `NOT_DESCRIBED` if the parameter can change an output, and no rule leaves it out.
    """
    parameters = forward_parameters(type(model))  # type: ignore[arg-type]  # classes are hashable
    has_cache = any(map(is_cached, inputs))
    missing = [p for p in parameters.values() if p.name not in inputs and not (has_cache and p.kind == "cache")]
    reasons = {p.name: _reason(p, model, inputs, task) for p in missing}
    unread = (
        p.name for p in missing if reasons[p.name] == NOT_DESCRIBED and is_unread(type(model).forward, p.name, model)
    )
    reasons |= dict.fromkeys(unread, _UNREAD)
    return reasons | {name: UNUSED for name in unused if reasons.get(name) == NOT_DESCRIBED}


_TRAINING = re.compile(
    r"(\w+_)?(labels?|targets|target_values)|(start|end)_positions|labels_mask|mask_time_indices"
    r"|sampled_negative_indices|is_impossible|cls_index|future_(values|observed_mask)|bool_masked_pos|perm_mask"
    r"|target_mapping|ans|actions|text_inputs|\w+_loss_mask"
)
"""Labels, and masks and permutations of pretraining."""
_PRECOMPUTED = re.compile(
    r"(\w+_)?(inputs_embeds|outputs|past_key_values|cache|image_embeds|image_embeddings|vision_embeds|audio_embeds|text_embeds)"
    r"|image_hidden_states|(encoder|query)_embeds|patch_lengths|per_layer_inputs|conditional_embeddings|(image_encoder|perceiver)_embeddings|question_lengths|audio_(codes|scales)"
)
_ENCODER_STATES = re.compile(r"encoder_(hidden_states|attention_mask)|cross_attention_\w+|memory_mask")
_DECODER_TOKENS = re.compile(r"decoder_(input_ids|attention_mask)")
_MASKED = {"input_ids", "input_values", "input_features", "inputs", "inputs_embeds"}
_OTHER_MASKS = re.compile(r"lengths|input_mask")
_POSITIONS = re.compile(r"(decoder_)?position_ids")
_OTHER_MODALITIES = re.compile(
    r"(pixel|image|images|video|videos|audio|input_features|feature|mm|spatial|aspect|num_frames|num_local)(_\w+)?|grid_thw"
)
_AUDIO = re.compile(r"audio(_\w+)?|input_(features|values)(_mask)?|feature_attention_mask")
_IMAGES = re.compile(r"(pixel_values|(image|video)_position_ids|num_frames_per_video)(_\w+)?")
_VIDEOS = re.compile(r"(\w+_)?videos?(_\w+)?|num_frames_per_video|second_per_grid_ts")


def _reason(parameter: ForwardParameter, model: PreTrainedModel, inputs: Collection[str], task: Task) -> str:
    name = parameter.name
    has_decoder_graph = "encoder_hidden_states" in inputs
    rules = (
        (parameter.kind == "cache" and task.name in MODULE_TASKS, "a cache: a sequence is computed in one run"),
        (parameter.kind == "cache", f"a cache: {task.name}{PAST_SUFFIX} has it"),
        (parameter.is_ignored, _DOCUMENTED_AS_UNUSED),
        (name == "mems", "a cache of earlier segments: a graph computes one segment"),
        (name == "sample", "noise for training, which the graph doesn't add"),
        (parameter.kind == "flag", f"{OPTION}{parameter.default!r}"),
        (_TRAINING.fullmatch(name), "for training"),
        (_PRECOMPUTED.fullmatch(name), "computed from the other inputs"),
        (_ENCODER_STATES.fullmatch(name), "the export has no encoder that computes it"),
        (has_decoder_graph and name == "decoder_input_ids", "input_ids of the decoder's graph"),
        (has_decoder_graph and name == "decoder_attention_mask", "generated tokens have no padding"),
        (has_decoder_graph and name in ("input_values", "padding_mask"), "the export has no encoder of audio"),
        (
            _DECODER_TOKENS.fullmatch(name) and "decoder_input_ids" not in inputs,
            "the model makes the decoder's tokens itself",
        ),
        (_OTHER_MASKS.fullmatch(name) and "attention_mask" in inputs, OTHER_MASK),
        (_POSITIONS.fullmatch(name), "counted from the other inputs"),
        (
            name == "attention_mask" and (_MASKED.isdisjoint(inputs) or _takes_patches(model, inputs, task)),
            "it would mask patches of images or spectrograms, of which preprocessors pad none",
        ),
        (
            name == "attention_mask" and getattr(_encoder_config(model), "feat_extract_norm", "") == "group",
            "Transformers advises against it for this feature encoder, whose norm includes padding",
        ),
        (name == "token_type_ids" and task.name == "text-generation", NO_TOKEN_TYPES),
        (name == "token_type_ids" and _token_types(model) < 2, NO_TYPE_EMBEDDINGS),
        (task.name in TEXT_TASKS and _OTHER_MODALITIES.fullmatch(name), "the task takes text only"),
        *_modality_rules(name, model, inputs),
        (parameter.kind in ("collection", "other"), "not a tensor"),
    )
    return next((reason for applies, reason in rules if applies), NOT_DESCRIBED)


def _modality_rules(name: str, model: PreTrainedModel, inputs: Collection[str]) -> tuple[tuple[object, str], ...]:
    """Return the rules about images, audio and videos: whether each applies to a parameter, and the reason."""
    return (
        (
            name in ("pixel_values_images", "image_patches") and "pixel_values" in inputs,
            "pixel_values of the encoder's graph",
        ),
        (name in ("input_ids", "pixel_values") and "inputs" in inputs, f"{OTHER_NAME}inputs"),
        *_synonym_rules(name, model, inputs),
        (name == "input_ids" and "inputs_embeds" in inputs, "the model takes inputs_embeds instead"),
        (name == "image_sizes" and "pixel_values" in inputs, _IMAGE_SIZE),
        (name == "mm_token_type_ids" and "position_ids" in inputs, _MROPE_TYPES),
        (
            name == "mm_token_type_ids" and has_placeholders(model.config),
            _NO_TYPED_ATTENTION,
        ),
        (name == "conditional_pixel_values" and "input_ids" in inputs, "an image instead of the text"),
        (
            _AUDIO.fullmatch(name) and getattr(model.config, "audio_config", model.config) is None,
            "the configuration has no audio encoder",
        ),
        (
            _IMAGES.fullmatch(name) and getattr(model.config, "vision_config", model.config) is None,
            "the configuration has no vision encoder",
        ),
        (name == "audio_feature_lengths" and "feature_attention_mask" in inputs, _FEATURE_LENGTHS),
        (
            name == "image_attention_mask" and "pixel_values" in inputs,
            "it would mask patches of images, of which preprocessors pad none",
        ),
        (name in ("attention_similarity", "target_embedding"), "for personalization with a reference image (PerSAM)"),
        (name == "flip_pairs", "for averaging with the mirrored image"),
        (_VIDEOS.fullmatch(name) and "pixel_values" in inputs, "for videos instead of images"),
    )


def _synonym_rules(name: str, model: PreTrainedModel, inputs: Collection[str]) -> tuple[tuple[object, str], ...]:
    """Return the rules of a forward whose encoder takes samples or a spectrogram, both also by the name `inputs`."""
    names = ("inputs", "input_values", "input_features")
    parameters = forward_parameters(type(model))  # type: ignore[arg-type]  # classes are hashable
    known = next((known for known in names[1:] if known in inputs), None)
    has_all = known is not None and all(one in parameters for one in names)
    return ((has_all and name in names, f"{OTHER_NAME}{known}"),)


def _encoder_config(model: PreTrainedModel) -> PreTrainedConfig:
    """Return the configuration of a model's encoder, if that is a model of its own, else the model's."""
    return getattr(model.config, "encoder", model.config)


def _takes_patches(model: PreTrainedModel, inputs: Collection[str], task: Task) -> bool:
    """Return whether the inputs are patches or pixels: of Perceiver's `inputs`, the task tells."""
    if "inputs" in inputs:
        return needed_modality(type(model), task, decodes=False) == "images"
    return hasattr(model.config, "patch_size") and "input_ids" not in inputs


def _token_types(model: PreTrainedModel) -> int:
    """Return the number of token types of which a model has embeddings.

    GPT-2, XLM and CTRL have none: they take `token_type_ids` as further token ids, whose word embeddings they add.
    """
    named = (len(weight) for name, weight in model.named_parameters() if _TOKEN_TYPE_EMBEDDINGS.search(name))
    return max(named, default=0)


_TOKEN_TYPE_EMBEDDINGS = re.compile(r"(token_type|segment|seg)_embed\w*(\.weight)?$")
