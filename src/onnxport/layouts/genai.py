"""The layout of onnxruntime-genai 0.18: the default one, with genai_config.json beside it.

It describes the decoder's graph, its cache, and the generation settings. A graph with a concatenated cache is run as it
is; one whose attention is `GroupQueryAttention` shares one buffer of past and present. Whisper's encoder also computes
the keys and values of the decoder's cross-attention, and audio_processor_config.json describes its spectrogram.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from onnxport.bundles.manifest import ComponentDescription, TensorDescription
from onnxport.errors import UnsupportedError
from onnxport.layouts._chat_templates import with_chat_template
from onnxport.layouts._cross_attention import cross_name
from onnxport.layouts._layout import Exported, Layout, Settings

_TYPES = (
    *("chatglm", "ernie4_5", "gemma", "gemma2", "gemma3_text", "gpt2", "granite", "internlm2", "llama", "mistral"),
    *("nemotron", "olmo", "phi", "phimoe", "phi3", "qwen2", "qwen3", "smollm3"),
)
"""Model types that genai knows by name; it runs other decoders as `decoder`."""
_GENERIC_TYPE = "decoder"
_PAST, _SELF_PAST = "past_key_values.%d.key", "past_key_values.%d.decoder.key"
"""Inputs with the keys of self-attention, of a decoder and of Whisper's."""
_CROSS_KEY, _CROSS_VALUE = "past_key_values.%d.encoder.key", "past_key_values.%d.encoder.value"
_STEP_INPUTS = ("input_ids", "attention_mask", "position_ids")
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


def _decoder(exported: Exported) -> ComponentDescription:
    """Return the decoder of the first precision.

    Raises:
        UnsupportedError: the export isn't one decoder with a cache of keys and values.
    """
    first = _first_precision(exported)
    if len(first) > 1:
        raise UnsupportedError(
            f"the layout genai takes Whisper, and decoders of text in one graph, and the export has {len(first)}: "
            f"{', '.join(item.file for item in first)}"
        )
    component = first[0]
    others = [value.name for value in component.inputs if value.name not in _STEP_INPUTS and not _is_cache(value)]
    if others or not any(map(_is_cache, component.inputs)):
        reason = f"it takes {', '.join(others)}" if others else "it has no cache; export it with --task text-generation"
        raise UnsupportedError(
            f"the layout genai takes decoders with a cache of keys and values, and {component.file} isn't one: {reason}"
        )
    return component


def _first_precision(exported: Exported) -> tuple[ComponentDescription, ...]:
    return exported.manifest.of_dtype(exported.manifest.dtypes[0]).components


def _whisper(exported: Exported) -> tuple[ComponentDescription, ComponentDescription] | None:
    """Return the encoder and the decoder of the first precision; None if the export isn't Whisper's with a cache."""
    graphs = {item.name: item for item in _first_precision(exported)}
    encoder, decoder = graphs.get("encoder_model"), graphs.get("decoder_model_merged")
    if exported.model_type != "whisper" or encoder is None or decoder is None:
        return None
    return encoder, decoder


def _is_cache(value: TensorDescription) -> bool:
    return value.name.startswith("past_key_values.") and value.name.endswith((".key", ".value"))


def _genai_config(settings: Settings, exported: Exported) -> Settings:
    """Return the content of genai_config.json."""
    whisper = _whisper(exported)
    decoder = _decoder(exported) if whisper is None else whisper[1]
    generation = {**exported.config, **exported.read("generation_config.json")}
    context = _first(exported.text_config, _CONTEXT) or _DEFAULT_CONTEXT
    eos = generation.get("eos_token_id")
    first_eos = eos[0] if isinstance(eos, list) and eos else eos
    model_type = exported.model_type if exported.model_type in (*_TYPES, "whisper") else _GENERIC_TYPE
    ids = {
        "bos_token_id": generation.get("bos_token_id"),
        "eos_token_id": eos,
        "pad_token_id": generation.get("pad_token_id", first_eos) or first_eos,
        **({} if whisper is None else {"decoder_start_token_id": generation.get("decoder_start_token_id")}),
    }
    model = {
        "type": model_type,
        "vocab_size": decoder.outputs[0].axes[-1],
        "context_length": context,
        **{name: value for name, value in ids.items() if value is not None},
        **({} if whisper is None else {"encoder": _encoder_settings(whisper[0], exported)}),
        "decoder": _decoder_settings(decoder, exported, past=_PAST if whisper is None else _SELF_PAST),
    }
    layers = sum(_is_cache(value) and value.name.endswith(".key") for value in decoder.inputs)
    return {"model": model, "search": _search(generation, context, shared=_shares_buffer(decoder, layers))}


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
        "hidden_size": _first(config, _WIDTH),
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


def _audio_processor(exported: Exported) -> dict[str, str]:
    """Return audio_processor_config.json for Whisper: the operations of onnxruntime-extensions on a file of audio."""
    settings = exported.read("preprocessor_config.json")
    if _whisper(exported) is None or "n_fft" not in settings:
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


def _shares_buffer(component: ComponentDescription, layers: int) -> bool:
    """Return whether every layer's attention writes into a buffer that is longer than the cache."""
    return component.fused.get("GroupQueryAttention", 0) == layers


def _first(settings: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((settings[name] for name in names if settings.get(name) is not None), None)


def _check(exported: Exported) -> Iterator[str]:
    """Yield what genai doesn't use.

    Raises:
        UnsupportedError: it can't run the export.
    """
    named = _whisper(exported) or (_decoder(exported),)
    others = [item.file for item in exported.manifest.components if item not in named]
    if others:
        files = " and ".join(item.file for item in named)
        yield f"genai_config.json names {files} alone, and not {', '.join(others)}; choose one with --dtype"


LAYOUT = Layout(
    name="genai",
    client="onnxruntime-genai 0.18",
    files={"*": "{name}"},
    texts=_audio_processor,
    encodes_cross_attention=True,
    edits={"genai_config.json": _genai_config, "tokenizer_config.json": with_chat_template},
    check=_check,
)
