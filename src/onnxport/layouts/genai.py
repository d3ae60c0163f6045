"""The layout of onnxruntime-genai 0.18: the default one, with genai_config.json beside it.

It describes the decoder's graph, its cache, and the generation settings. A graph with a concatenated cache is run as it
is; one whose attention is `GroupQueryAttention` shares one buffer of past and present. Whisper's encoder also computes
the keys and values of the decoder's cross-attention, and audio_processor_config.json describes its spectrogram. The
token embeddings of a vision model also merge the features of images, whose processing image_processor_config.json has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxport.bundles.manifest import ComponentDescription, TensorDescription
from onnxport.errors import UnsupportedError
from onnxport.layouts._chat_templates import with_chat_template
from onnxport.layouts._cross_attention import cross_name, encode_cross_attention
from onnxport.layouts._genai_vision import (
    VISION_TYPES,
    image_processor,
    image_token_id,
    vision_settings,
    vision_warnings,
)
from onnxport.layouts._image_features import merge_image_features
from onnxport.layouts._layout import Exported, Layout, Settings
from onnxport.layouts._wide_embeddings import EMBEDS, widen_embeddings

_TYPES = (
    *("chatglm", "ernie4_5", "gemma", "gemma2", "gemma3_text", "gpt2", "granite", "internlm2", "llama", "mistral"),
    *("nemotron", "olmo", "phi", "phimoe", "phi3", "qwen2", "qwen3", "smollm3"),
)
"""Model types that genai knows by name; it runs other decoders as `decoder`."""
_GENERIC_TYPE = "decoder"
_PAST, _SELF_PAST = "past_key_values.%d.key", "past_key_values.%d.decoder.key"
"""Inputs with the keys of self-attention, of a decoder and of Whisper's."""
_CROSS_KEY, _CROSS_VALUE = "past_key_values.%d.encoder.key", "past_key_values.%d.encoder.value"
_STEP_INPUTS = ("input_ids", "inputs_embeds", "attention_mask", "position_ids")
_VISION_GRAPHS = ("vision_encoder", "embed_tokens", "decoder_model_merged")
_SESSION_OPTIONS: dict[str, Any] = {"log_id": "onnxruntime-genai", "provider_options": []}
_CONTEXT = (
    "max_position_embeddings",
    "max_target_positions",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
)
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_DECODER_HEADS = ("decoder_attention_heads",)
_WIDTH = ("hidden_size", "n_embd", "d_model")
_DEFAULT_CONTEXT = 2048
_SEARCH: dict[str, Any] = {
    **{"do_sample": False, "min_length": 0, "num_beams": 1, "num_return_sequences": 1, "no_repeat_ngram_size": 0},
    **{"temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0, "length_penalty": 1.0},
    **{"diversity_penalty": 0.0, "early_stopping": True},
}
"""Generation settings that genai has, and their defaults in Transformers."""


@dataclass(frozen=True)
class _Model:
    """Hold the graphs of the first precision as genai takes them.

    Attributes:
        type: the type of model in genai.
        decoder: the decoder.
        others: the graphs beside it.
        settings: the part of `genai_config.json` that describes them.
        past: name of an input of the decoder with the keys of self-attention, by layer.
    """

    type: str
    decoder: ComponentDescription
    others: tuple[ComponentDescription, ...] = ()
    settings: Settings = field(default_factory=dict)
    past: str = _PAST


def _model(exported: Exported) -> _Model:
    """Return the graphs of the first precision.

    Raises:
        UnsupportedError: genai takes no model of such graphs.
    """
    components = exported.placed or exported.manifest.components
    graphs = {item.name: item for item in components if item.dtype == exported.manifest.dtypes[0]}
    encoder, decoder = graphs.get("encoder_model"), graphs.get("decoder_model_merged")
    if exported.model_type == "whisper" and encoder is not None and decoder is not None:
        return _Model("whisper", decoder, (encoder,), {"encoder": _encoder_settings(encoder, exported)}, _SELF_PAST)
    if exported.model_type in VISION_TYPES and set(graphs) == set(_VISION_GRAPHS):
        vision, embedding, decoder = (graphs[name] for name in _VISION_GRAPHS)
        settings = vision_settings(vision, embedding, exported)
        return _Model(VISION_TYPES[exported.model_type].name, decoder, (vision, embedding), settings)
    if len(graphs) > 1:
        raise UnsupportedError(
            f"the layout genai takes decoders of text in one graph, and several graphs of whisper, "
            f"{', '.join(VISION_TYPES)} alone; the export has {', '.join(graphs)} of {exported.model_type}"
        )
    (decoder,) = graphs.values()
    _check_decoder(decoder)
    return _Model(exported.model_type if exported.model_type in _TYPES else _GENERIC_TYPE, decoder)


def _check_decoder(component: ComponentDescription) -> None:
    """Check that a graph is a decoder that genai can run alone.

    Raises:
        UnsupportedError: it takes further inputs, or has no cache of keys and values.
    """
    others = [value.name for value in component.inputs if value.name not in _STEP_INPUTS and not _is_cache(value)]
    if others or not any(map(_is_cache, component.inputs)):
        reason = f"it takes {', '.join(others)}" if others else "it has no cache; export it with --task text-generation"
        raise UnsupportedError(
            f"the layout genai takes decoders with a cache of keys and values, and {component.file} isn't one: {reason}"
        )


def _exchange(exported: Exported, target: Path) -> tuple[ComponentDescription, ...]:
    """Let graphs pass each other what genai does: the features of images, or keys and values of cross-attention."""
    if _has_vision(exported):
        components = widen_embeddings(exported.placed, target)
        return merge_image_features(components, target, image_token_id(exported.config))
    return encode_cross_attention(exported.placed, target)


def _has_vision(exported: Exported) -> bool:
    return _model(exported).type in [one.name for one in VISION_TYPES.values()]


def _is_cache(value: TensorDescription) -> bool:
    return value.name.startswith("past_key_values.") and value.name.endswith((".key", ".value"))


def _genai_config(settings: Settings, exported: Exported) -> Settings:
    """Return the content of genai_config.json."""
    found = _model(exported)
    decoder = found.decoder
    generation = {**exported.text_config, **exported.config, **exported.read("generation_config.json")}
    context = _first(exported.text_config, _CONTEXT) or _DEFAULT_CONTEXT
    eos = generation.get("eos_token_id")
    first_eos = eos[0] if isinstance(eos, list) and eos else eos
    ids = {
        "bos_token_id": generation.get("bos_token_id"),
        "eos_token_id": eos,
        "pad_token_id": generation.get("pad_token_id", first_eos) or first_eos,
        "decoder_start_token_id": generation.get("decoder_start_token_id"),
    }
    model = {
        "type": found.type,
        "vocab_size": decoder.outputs[0].axes[-1],
        "context_length": context,
        **{name: value for name, value in ids.items() if value is not None},
        **found.settings,
        "decoder": _decoder_settings(decoder, exported, found.past),
    }
    return {"model": model, "search": _search(generation, context, shared=decoder.shares_cache)}


def _decoder_settings(component: ComponentDescription, exported: Exported, past: str) -> dict[str, Any]:
    """Describe the decoder.

    Args:
        component: its graph.
        exported: the export.
        past: name of an input with the cache of self-attention, `past_key_values.%d.key`.
    """
    config = exported.text_config
    keys = [value for value in component.inputs if re.fullmatch(past.replace("%d", r"\d+"), value.name)]
    present = past.replace("past_key_values", "present")
    cross = past == _SELF_PAST
    qk = [value.name for value in component.outputs if value.name.startswith("cross_attentions.")]
    return {
        "session_options": _SESSION_OPTIONS,
        "filename": component.file,
        "head_size": keys[0].axes[-1],
        "hidden_size": next((one.axes[-1] for one in component.inputs if one.name == EMBEDS), _first(config, _WIDTH)),
        "num_attention_heads": _first(config, _DECODER_HEADS if cross else _HEADS),
        "num_hidden_layers": len(keys),
        "num_key_value_heads": keys[0].axes[1],
        "inputs": {
            **{value.name: value.name for value in component.inputs if value.name in _STEP_INPUTS},
            "past_key_names": past,
            "past_value_names": past.replace(".key", ".value"),
            **({"cross_past_key_names": _CROSS_KEY, "cross_past_value_names": _CROSS_VALUE} if cross else {}),
        },
        "outputs": {
            "logits": component.outputs[0].name,
            "present_key_names": present,
            "present_value_names": present.replace(".key", ".value"),
            **({"output_cross_qk_names": "cross_attentions.%d"} if qk else {}),
        },
    }


def _encoder_settings(component: ComponentDescription, exported: Exported) -> dict[str, Any]:
    """Describe Whisper's encoder, whose graph gets the outputs of cross-attention."""
    heads = exported.config["encoder_attention_heads"]
    return {
        "session_options": _SESSION_OPTIONS,
        "filename": component.file,
        "head_size": exported.config["d_model"] // heads,
        "hidden_size": exported.config["d_model"],
        "num_attention_heads": heads,
        "num_hidden_layers": exported.config["encoder_layers"],
        "inputs": {"audio_features": component.inputs[0].name},
        "outputs": {
            "encoder_hidden_states": component.outputs[0].name,
            "cross_present_key_names": cross_name("%d", "key"),
            "cross_present_value_names": cross_name("%d", "value"),
        },
    }


def _processors(exported: Exported) -> dict[str, str]:
    """Return the files with the operations of onnxruntime-extensions on a file of audio or an image."""
    return image_processor(exported) if _has_vision(exported) else _audio_processor(exported)


def _audio_processor(exported: Exported) -> dict[str, str]:
    """Return audio_processor_config.json for Whisper."""
    settings = exported.read("preprocessor_config.json")
    if exported.model_type != "whisper" or "n_fft" not in settings:
        return {}
    frames = {name: settings[name] for name in ("n_fft", "hop_length")}
    spectrogram = {**frames, "chunk_size": settings.get("chunk_length", 30), "n_mel": settings["feature_size"]}
    operations = [
        {"name": "audio_decoder", "type": "AudioDecoder"},
        {"name": "STFT", "type": "STFTNorm", "attrs": {**frames, "frame_length": settings["n_fft"]}},
        {"name": "log_mel_spectrogram", "type": "LogMelSpectrum", "attrs": spectrogram},
    ]
    content = {"feature_extraction": {"sequence": [{"operation": operation} for operation in operations]}}
    return {"audio_processor_config.json": json.dumps(content, indent=2) + "\n"}


def _search(generation: Settings, context: int, *, shared: bool) -> dict[str, Any]:
    """Return the generation settings; without sampling, the most probable token."""
    found = {name: generation[name] for name in _SEARCH if generation.get(name) is not None}
    search = {**_SEARCH, **found, "max_length": context, "past_present_share_buffer": shared}
    return search if search["do_sample"] else {**search, "top_k": 1}


def _first(settings: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((settings[name] for name in names if settings.get(name) is not None), None)


def _check(exported: Exported) -> Iterator[str]:
    """Yield what genai doesn't use.

    Raises:
        UnsupportedError: it can't run the export.
    """
    model = _model(exported)
    named = (*model.others, model.decoder)
    if _has_vision(exported):
        yield from vision_warnings(exported)
    others = [item.file for item in exported.manifest.components if item not in named]
    if others:
        files = " and ".join(item.file for item in named)
        yield f"genai_config.json names {files} alone, and not {', '.join(others)}; choose one with --dtype"


LAYOUT = Layout(
    name="genai",
    client="onnxruntime-genai 0.18",
    files={"*": "{name}"},
    texts=_processors,
    exchange=_exchange,
    edits={"genai_config.json": _genai_config, "tokenizer_config.json": with_chat_template},
    check=_check,
)
