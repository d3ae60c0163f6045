"""The layout of onnxruntime-genai 0.18: the default one, with genai_config.json beside it.

It describes the decoder's graph, its cache, and the generation settings. A graph with a concatenated cache is run as it
is; one whose attention is `GroupQueryAttention` shares one buffer of past and present.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from onnxport.bundles.manifest import ComponentDescription, TensorDescription
from onnxport.errors import UnsupportedError
from onnxport.layouts._chat_templates import with_chat_template
from onnxport.layouts._layout import Exported, Layout, Settings

_TYPES = (
    *("chatglm", "ernie4_5", "gemma", "gemma2", "gemma3_text", "gpt2", "granite", "internlm2", "llama", "mistral"),
    *("nemotron", "olmo", "phi", "phimoe", "phi3", "qwen2", "qwen3", "smollm3"),
)
"""Model types that genai knows by name; it runs other decoders as `decoder`."""
_GENERIC_TYPE = "decoder"
_KEY, _VALUE = "past_key_values.%d.key", "past_key_values.%d.value"
_PRESENT_KEY, _PRESENT_VALUE = "present.%d.key", "present.%d.value"
_STEP_INPUTS = ("input_ids", "attention_mask", "position_ids")
_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
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
    first = exported.manifest.of_dtype(exported.manifest.dtypes[0]).components
    if len(first) > 1:
        raise UnsupportedError(
            f"the layout genai takes decoders of text in one graph, and the export has {len(first)}: "
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


def _is_cache(value: TensorDescription) -> bool:
    return value.name.startswith("past_key_values.") and value.name.endswith((".key", ".value"))


def _genai_config(settings: Settings, exported: Exported) -> Settings:
    """Return the content of genai_config.json."""
    component, config = _decoder(exported), exported.text_config
    generation = {**exported.config, **exported.read("generation_config.json")}
    context = _first(config, _CONTEXT) or _DEFAULT_CONTEXT
    keys = [value for value in component.inputs if _is_cache(value) and value.name.endswith(".key")]
    eos = generation.get("eos_token_id")
    first_eos = eos[0] if isinstance(eos, list) and eos else eos
    model_type = exported.model_type if exported.model_type in _TYPES else _GENERIC_TYPE
    ids = {
        "bos_token_id": generation.get("bos_token_id"),
        "eos_token_id": eos,
        "pad_token_id": generation.get("pad_token_id", first_eos) or first_eos,
    }
    model = {
        "type": model_type,
        "vocab_size": component.outputs[0].axes[-1],
        "context_length": context,
        **{name: value for name, value in ids.items() if value is not None},
        "decoder": {
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "filename": component.file,
            "head_size": keys[0].axes[-1],
            "hidden_size": _first(config, _WIDTH),
            "num_attention_heads": _first(config, _HEADS),
            "num_hidden_layers": len(keys),
            "num_key_value_heads": keys[0].axes[1],
            "inputs": {
                **{value.name: value.name for value in component.inputs if value.name in _STEP_INPUTS},
                "past_key_names": _KEY,
                "past_value_names": _VALUE,
            },
            "outputs": {
                "logits": component.outputs[0].name,
                "present_key_names": _PRESENT_KEY,
                "present_value_names": _PRESENT_VALUE,
            },
        },
    }
    return {"model": model, "search": _search(generation, context, shared=_shares_buffer(component, len(keys)))}


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
    component = _decoder(exported)
    others = [item.file for item in exported.manifest.components if item is not component]
    if others:
        yield f"genai_config.json names {component.file} alone, and not {', '.join(others)}; choose one with --dtype"


LAYOUT = Layout(
    name="genai",
    client="onnxruntime-genai 0.18",
    files={"*": "{name}"},
    edits={"genai_config.json": _genai_config, "tokenizer_config.json": with_chat_template},
    check=_check,
)
