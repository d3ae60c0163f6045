"""Which inputs a model requires, and which of a processor's parts make them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from onnxport.description.dummy_inputs import (
    dummy_input,
    has_placeholders,
    is_vision_language_action,
    takes_frames,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_AUDIO_INPUTS = ("input_values", "input_features")
_TRAJECTORY = ("states", "actions", "rewards", "returns_to_go", "timesteps")
_RANDOM_INPUTS = ("noise", "noise_sequence")
"""Parameters for which a forward samples random values if they are None."""
_SPEECHT5_INPUTS = ("decoder_input_values", "speaker_embeddings")
_EXPORTED_OPTIONALS = (
    *("input_points", "input_labels", "global_attention_mask", "image_embeds_position_mask"),
    *("image_attention_mask", "timestep", *_TRAJECTORY, *_RANDOM_INPUTS, *_SPEECHT5_INPUTS),
)
"""Parameters that are optional in a forward, but that a user needs as inputs of the graph."""

_FORWARDED_BY_RETRIEVERS = ("vlm", "token_type_ids")


def required_dummies(model: PreTrainedModel, parameters: Mapping[str, inspect.Parameter], decodes: bool) -> list[str]:
    """Return the dummy inputs that a model requires in its first forward, in the order in which they are made."""
    config = model.config
    added = [name for name, parameter in parameters.items() if dummy_input(name) and _is_required(name, parameter)]
    if decodes and (model.can_generate() or "labels" not in parameters):
        added.append("decoder_input_ids")
    if "decoder_input_ids" in parameters and hasattr(config, "canvas_length"):  # a canvas of random tokens
        added.append("decoder_input_ids")
    if hasattr(config, "type_vocab_sizes"):  # one id per type vocabulary, which tokenizers don't return
        added.append("token_type_ids")
    added += forwarded_parameters(model)
    is_vla = is_vision_language_action(config)
    if is_vla:  # actions are labels
        added = [*(name for name in added if name != "actions"), "pixel_attention_mask"]
    if "noise" in added and not (is_vla or hasattr(config, "norm_pix_loss")):  # neither a VLA nor a masked autoencoder
        added.remove("noise")
    if "pixel_values" in added:
        added.remove("pixel_values")
    is_idefics = "perceiver_embeddings" in parameters  # several images per prompt
    if "image_attention_mask" in added and not is_idefics:  # FLAVA's is a different mask
        added.remove("image_attention_mask")
    replaced = takes_frames(config) or is_vla or is_idefics or "pixel_position_ids" in parameters
    first = ["pixel_values"] if replaced and "pixel_values" in parameters else []  # the shapes of masks depend on it
    return first + added


def forwarded_parameters(model: PreTrainedModel) -> list[str]:
    """Return parameters that a model accepts through **kwargs and forwards to an inner model.

    A retriever forwards token types (ColPali), PI0.5 the embeddings of its timestep to the action expert.
    """
    outer = inspect.signature(type(model).forward).parameters
    part, forwarded = (
        ("dit", "timestep_embeds") if is_vision_language_action(model.config) else _FORWARDED_BY_RETRIEVERS
    )
    inner = getattr(model, part, None)
    if inner is None or all(parameter.kind is not parameter.VAR_KEYWORD for parameter in outer.values()):
        return []
    known = inspect.signature(type(inner).forward).parameters
    return [forwarded] if forwarded in known and forwarded not in outer and "input_ids" in outer else []


def _is_required(name: str, parameter: inspect.Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty or name in _EXPORTED_OPTIONALS


def subprocessors_of(
    model: PreTrainedModel, preprocessor: Any, parameters: Mapping[str, inspect.Parameter]
) -> tuple[str, ...]:
    """Return the sub-processors that make a model's inputs; empty if one is enough, which `_component` selects.

    A model that compares text with images or audio takes both. One that replaces placeholder tokens with image
    embeddings takes text only here; both go to its graphs with past.
    """
    if "input_ids" not in parameters:
        return ()
    for subprocessor, names in _modality_subprocessors(preprocessor):
        name = next((name for name in names if name in parameters), None)
        if name is None:
            continue
        required = parameters[name].default is inspect.Parameter.empty or name in model.main_input_name
        if required or not (model.can_generate() or has_placeholders(model.config)):
            return ("tokenizer", subprocessor)
    return ()


def _modality_subprocessors(preprocessor: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the sub-processors that a processor has besides a tokenizer, each with the inputs that it may make."""
    for subprocessor, names in (("image_processor", ("pixel_values",)), ("feature_extractor", _AUDIO_INPUTS)):
        if all(getattr(preprocessor, name, None) is not None for name in ("tokenizer", subprocessor)):
            yield subprocessor, names


def subprocessors_named_in(error: Exception, preprocessor: Any, parameters: list[str]) -> tuple[str, ...]:
    """Return the tokenizer and the sub-processor of the modality that an error message names; empty if it names none.

    Models that can't be run on text alone name the missing input, or fail on a `NoneType`.
    """
    words = set(re.findall(r"\w+", str(error)))
    for subprocessor, names in _modality_subprocessors(preprocessor):
        if any(not words.isdisjoint((name, "NoneType")) and name in parameters for name in names):
            return ("tokenizer", subprocessor)
    return ()


MIXED_DTYPES = re.compile(r"expected (scalar type|m1 and m2 to have the same dtype|mat1 and mat2 to have the same)")
"""PyTorch's messages of layers that get another floating-point type than that of their weights."""


def run_failure_message(model: PreTrainedModel, inputs: list[str], error: Exception) -> str:
    """Return why a model can't be run on its dummy inputs, and the remedy."""
    name, missing = type(model).__name__, re.findall(r"'(\w+)'", str(error)) if "missing" in str(error) else []
    sessions = [parameter for parameter in missing if parameter.endswith("session")]
    if sessions:
        return (
            f"{name} keeps its state between calls in an object ({', '.join(sessions)}), which can't be a graph input; "
            "choose a task whose model processes one image at a time, such as mask-generation"
        )
    message = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if MIXED_DTYPES.search(message):
        return f"{name} can't be run in this dtype, also in PyTorch ({message}); export with --dtype fp32"
    reason = f"can't be run on {' and '.join(inputs)} alone ({message})"
    if missing:
        reason = f"requires {' and '.join(missing)}, for which there are no dummy inputs"
    return (
        f"{name} {reason}; describe its inputs in a custom OnnxConfig "
        "(docs/api.md; onnxport describe --python prints that of a similar model to start from)"
    )
