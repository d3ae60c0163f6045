"""The layout of transformers.js 4.3: graphs in `onnx/`, and all that its tokenizers, processors and sessions read.

It loads the precision that its options name, or that of the device. Caches and sessions follow from the model type in
`config.json`, so that it loads the model types that it knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from onnxport.bundles.manifest import ComponentDescription
from onnxport.layouts._chat_templates import with_chat_template
from onnxport.layouts._cross_attention import recompute_cross_attention
from onnxport.layouts._joined_encoder import ENCODER, join_encoder
from onnxport.layouts._layout import Exported, Layout, Settings
from onnxport.layouts._split_states import split_states
from onnxport.layouts._transformers_js_classes import ENCODER_INPUTS, SESSIONS
from onnxport.layouts._wide_embeddings import EMBEDDING, widen_embeddings

_FLAT_TYPES = ("qwen2_vl",)
"""Model types whose text configuration transformers.js looks for at the top level of `config.json`."""
_FLAT_KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
_WASM = ("q8", "int8", "uint8", "q4", "fp32")
"""Precisions for WASM, the preferred one first: its kernels multiply 8-bit integers faster than blocks of 4 bits."""
_WEBGPU = ("q4", "q4f16", "fp16", "fp32")
"""Precisions of decoders for WebGPU: not every GPU has 16-bit floats."""
_HALVES = {"text_model", "vision_model", "audio_model"}
"""Graphs of dual encoders that have classes of their own, such as `CLIPTextModelWithProjection`."""
_GRAPHS = {name: {"model": graphs[0]} for name, graphs in SESSIONS.items() if len(graphs) == 1 and graphs != ("model",)}
"""Class of a part of a model to the name of its graph: that of the same part beside the others."""
_SPLIT = {
    name
    for name, graphs in SESSIONS.items()
    if {EMBEDDING, "encoder_model"} <= set(graphs) or (len(graphs) > 1 and name.endswith("Model"))
}
"""Classes of models without a head whose encoder is a graph of its own, and of encoder-decoders with images."""
_GENERATING = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_OTHER_CACHES = ("GlmMoeDsaForCausalLM", "MBartForCausalLM", "TrOCRForCausalLM")
"""Classes whose caches transformers.js names otherwise: without keys of the indexer, and decoders that it takes for
those of encoder-decoders."""
_AS_MULTIMODAL = ("Gemma3nForCausalLM", "Gemma4ForCausalLM", "Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM")
"""Classes of text models that transformers.js loads as one graph, and runs with those of the multimodal model."""
_IMAGES_TO_TEXT = "vision-encoder-decoder"
_OWN_CACHE_ALONE = ("gpt2",)
"""Model types of decoders of images whose cache has no cross-attention in transformers.js."""
_DECODERS_OF_IMAGES = (
    *_OWN_CACHE_ALONE,
    "trocr",
    "bart",
    "mbart",
    "marian",
    "m2m_100",
    "blenderbot",
    "blenderbot-small",
)
"""Model types of decoders of images whose cache transformers.js knows."""
_LAYER_TYPES = {"linear_attention": "mamba", "full_attention": "attention"}
"""Types of layers, as configurations of Transformers 5 name them, to the names that transformers.js knows."""
_MAMBA_TYPES = ("granitemoehybrid", "falcon_h1", "nemotron_h")
_SAM_TYPES = ("sam", "sam2", "edgetam", "sam3_tracker")
_UNTYPED = ("paligemma", "gemma3n")
"""Model types whose types of tokens are 0 for generation, also of an image's."""
_WITHOUT_MASKS = ("moonshine", "cohere_asr")
"""Model types of speech whose samples or frames have no mask in transformers.js."""
_OLMO_HYBRID = "olmo_hybrid"
_MULTIMODAL_ENCODER = "EmbeddingGemma2Model"
"""Class that loads encoders of images and audio beside `model`, and embeds all of them."""
_SPEECH_TO_TEXT = "SpeechT5ForSpeechToText"
_TEXT_TO_SPEECH = "SpeechT5ForTextToSpeech"
"""Class that passes its encoder token ids alone, and its vocoder the frames of all steps as one axis."""
_DEFAULT, _DEFAULT_OF_WASM = "fp32", "q8"
"""What transformers.js loads unless `config.json` names another precision."""
_MAX_DATA_BYTES = 2_000_000_000
"""Limit of a file of external data: browsers hold each in one ArrayBuffer."""


def _config(config: Settings, exported: Exported) -> Settings:
    """Add the settings of transformers.js: files of external data, and the precision for each device."""
    flat = {}
    if exported.model_type in _FLAT_TYPES:
        flat = {name: exported.text_config[name] for name in _FLAT_KEYS if name in exported.text_config}
    own = {**config.get("transformers.js_config", {}), **_precisions(exported)}
    chunks = {PurePosixPath(item.file).name: len(item.external_data) for item in exported.placed if item.external_data}
    if chunks:
        own["use_external_data_format"] = chunks
    return {**flat, **config, **_cache_settings(config), **({"transformers.js_config": own} if own else {})}


def _cache_settings(config: Settings) -> Settings:
    """Return settings with which transformers.js names the tensors of the cache as the graph does (`getCacheNames`).

    With `multi_query`, keys and values would be one tensor; of ZAYA, only each `cca_time1`-th layer would have a cache.
    """
    settings: dict[str, Any] = {"multi_query": False} if config.get("multi_query") else {}
    if config.get("model_type") == "zaya":
        settings["cca_time1"] = 1
    if config.get("model_type") in _MAMBA_TYPES:
        listed = {name: config[name] for name in ("layer_types", "layers_block_type") if config.get(name)}
        settings |= {name: [_LAYER_TYPES.get(kind, kind) for kind in types] for name, types in listed.items()}
    return settings


def _precisions(exported: Exported) -> dict[str, Any]:
    """Return the default precision, and those of the devices, where they aren't transformers.js's own."""
    names = exported.manifest.dtypes
    default = _DEFAULT if _DEFAULT in names else names[0]
    settings: dict[str, Any] = {} if default == _DEFAULT else {"dtype": default}
    wasm = next((name for name in _WASM if name in names), default)
    devices = {} if wasm == _DEFAULT_OF_WASM and not settings else {"wasm": {"dtype": wasm}}
    webgpu = next((name for name in _WEBGPU if name in names), default)
    if _generates(exported) and webgpu != default:
        devices["webgpu"] = {"dtype": webgpu}
    return {**settings, **({"device_config": devices} if devices else {})}


def _generates(exported: Exported) -> bool:
    inputs = (value.name for item in exported.manifest.components for value in item.inputs)
    return any(name.startswith("past_") for name in inputs)


def _preprocessor_config(settings: Settings, exported: Exported) -> Settings:
    """Name the processor's class, which transformers.js reads from this file."""
    processor = exported.read("processor_config.json").get("processor_class")
    return {**settings, "processor_class": processor} if settings and processor else settings


def _exchange(exported: Exported, target: Path) -> tuple[ComponentDescription, ...]:
    """Carry what decoders of images take beside embeddings, which transformers.js doesn't pass, within embeddings.

    A multimodal encoder is one graph of token ids and features. A decoder of images that has only a decoder's cache
    there computes its cross-attention in each step.
    """
    if exported.architecture == _MULTIMODAL_ENCODER:
        ids = {f"{name}_features": exported.config[f"{name}_token_id"] for name in ("image", "video", "audio")}
        return join_encoder(exported.placed, target, ids)
    if exported.model_type == _IMAGES_TO_TEXT and exported.text_config.get("model_type") in _OWN_CACHE_ALONE:
        return recompute_cross_attention(exported.placed, target)
    if exported.model_type == _OLMO_HYBRID:
        return split_states(exported.placed, target, _olmo_hybrid_channels(exported.config))
    has_embeds = any(item.name == EMBEDDING for item in exported.placed)
    return widen_embeddings(exported.placed, target) if has_embeds else exported.placed


def _olmo_hybrid_channels(config: Settings) -> dict[str, int]:
    """Return the channels of the convolution of queries, keys and values, with the defaults of `OlmoHybridConfig`."""
    heads = int(config.get("linear_num_key_heads") or config["num_attention_heads"])
    size = int(config.get("linear_key_head_dim") or int(0.75 * config["hidden_size"] / heads))
    value_heads = int(config.get("linear_num_value_heads") or config["num_attention_heads"])
    value_size = int(config.get("linear_value_head_dim") or 2 * size)
    return {"query": heads * size, "key": heads * size, "value": value_heads * value_size}


def _check(exported: Exported) -> Iterator[str]:
    """Yield what transformers.js can't load."""
    architecture, sessions = exported.architecture, SESSIONS.get(exported.architecture)
    renamed = _GRAPHS.get(architecture, {})
    components = {renamed.get(item.name, item.name) for item in exported.manifest.components}
    if architecture == _MULTIMODAL_ENCODER:
        components = {"model", *(components - {EMBEDDING, ENCODER})}
        sessions = (
            "model",
            *(f"{name}_encoder" for name in ("vision", "audio") if exported.config.get(f"{name}_config")),
        )
    if components <= _HALVES:
        return
    if sessions is None:
        yield (
            f"transformers.js 4.3 has no class {architecture}: its AutoModel loads model.onnx as an encoder without a "
            "cache, and its other classes and pipelines don't load the export"
        )
    elif missing := [name for name in sessions if name not in components]:
        yield (
            f"transformers.js 4.3 loads {', '.join(sessions)} for {architecture}, and the export has no "
            f"{', '.join(missing)}, only {', '.join(sorted(components))}"
            + ("; export with --split-encoders" if architecture in _SPLIT else "")
        )
    elif architecture.endswith(_GENERATING) and not _generates(exported):
        yield (
            f"transformers.js 4.3 passes one token and the cache in each step of {architecture}, and the export has no "
            "cache: it generates wrong tokens; export with a cache"
        )
    elif architecture in _OTHER_CACHES:
        yield f"transformers.js 4.3 names the cache of {architecture} otherwise than the graph, and doesn't generate"
    elif architecture in _AS_MULTIMODAL:
        yield (
            f"transformers.js 4.3 runs {architecture} with the graphs of the multimodal model, which the export of a "
            "text model doesn't have, and doesn't generate"
        )
    elif exported.model_type == _IMAGES_TO_TEXT and (
        (decoder := exported.text_config.get("model_type")) not in _DECODERS_OF_IMAGES
    ):
        yield f"transformers.js 4.3 knows no cache of a decoder of the type {decoder}, and doesn't generate"
    elif architecture == _SPEECH_TO_TEXT:
        yield f"transformers.js 4.3 passes {architecture} no input_values: it loads the graphs, and can't run them"
    elif lacking := _lacking_inputs(exported):
        yield (
            f"transformers.js 4.3 doesn't pass {', '.join(lacking)} to the encoder of {architecture}: it generates for "
            "text alone"
        )


def _lacking_inputs(exported: Exported) -> list[str]:
    """Return the inputs of a vision or audio encoder that the class doesn't pass it."""
    passed = ENCODER_INPUTS.get(exported.architecture)
    encoders = [item for item in exported.manifest.components if item.name in ("vision_encoder", "audio_encoder")]
    names = dict.fromkeys(value.name for item in encoders for value in item.inputs)
    changed = LAYOUT.whole.get(exported.model_type, ())
    return [] if passed is None else [name for name in names if name not in (*passed, *changed)]


LAYOUT = Layout(
    name="transformers.js",
    client="transformers.js 4.3",
    files={"*.onnx": "onnx/{name}", "*.onnx_data*": "onnx/{name}", "*": "{name}"},
    edits={
        "config.json": _config,
        "tokenizer_config.json": with_chat_template,
        "preprocessor_config.json": _preprocessor_config,
    },
    names={
        "qwen2_vl": {"image_grid_thw": "grid_thw"},
        "voxtral": {"input_features": "audio_values"},
        "gemma4": {"image_position_ids": "pixel_position_ids"},
        "embedding_gemma2": {"image_position_ids": "pixel_position_ids"},
        _TEXT_TO_SPEECH: {"last_hidden_state": "encoder_outputs"},
        "zaya": {
            r"past_conv\.(\d+)": r"past_key_values.\1.conv_state",
            r"past_recurrent\.(\d+)": r"past_key_values.\1.shift_state",
            r"present_conv\.(\d+)": r"present.\1.conv_state",
            r"present_recurrent\.(\d+)": r"present.\1.shift_state",
        },
    },
    graphs=_GRAPHS,
    absent={
        **{name: ("input_boxes", "input_masks") for name in _SAM_TYPES},
        **dict.fromkeys(_UNTYPED, ("token_type_ids",)),
    },
    exchange=_exchange,
    whole={"granite_speech": ("input_features_mask",)},
    unmasked=dict.fromkeys(_WITHOUT_MASKS, ("attention_mask", "encoder_attention_mask")),
    token_masks={_TEXT_TO_SPEECH: ("encoder_model",)},
    unbatched={"SpeechT5HifiGan": ("spectrogram",)},
    logits_to_keep=True,
    plain_attention=True,
    check=_check,
    options={"dtype": "fp32,q8,q4,q4f16,fp16", "io_dtype": "fp32"},
    type_options={
        **{name: {"split_encoders": True} for name in _SAM_TYPES},
        "deepseek_v4": {"dtype": "fp32,q8,q4"},  # Transformers keeps layers in fp32 without casting their fp16 inputs
    },
    class_options={name: {"split_encoders": True} for name in _SPLIT},
    max_data_bytes=_MAX_DATA_BYTES,
)
