"""Make a tiny configuration of any model type: the default one, with sizes reduced by rules for field names.

All hidden sizes become one size, all head counts one count, and so on: equal sizes stay equal, and multiples stay
multiples. Exceptions to the rules are in the record of the model type (`onnxport.architectures`).
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from onnxport.architectures._architecture import Tiny
from onnxport.architectures._table import architecture_of

WIDTH, HEADS, HEAD, INNER, LAYERS, VOCABULARY = 32, 4, 8, 64, 4, 128
EXPERTS, LENGTH, IMAGE = 4, 512, 64

_UNCHANGED = re.compile(
    r"(^|_)(kernel|stride|seed|theta|temperature|scale|loss|cost|coefficient|rate|dropout|eps|std|factor|buckets|"
    r"num_channels|in_chans|insert_layer_id|prompt_types|segment_types|type_vocab_size|sampling_rate|num_buckets|"
    r"num_mel_bins|mel_bins|feature_projection_input_dim|model_in_dim|spec_size|input_feat_per_channel|input_feat_size|num_feat_extract_layers|max_bucket_distance|train_num_points|ratio)(_|$)"
)
_RULES: tuple[tuple[str, int], ...] = (
    (r"(^|_)vocab(_size|$)|^num_embeddings$|^ngram_vocab_size_base$", VOCABULARY),
    (r"^(mamba_n_heads|mamba_num_heads|n_mamba_heads)$", 8),
    (r"(^|_)embeds?_hidden_size$", WIDTH),
    (r"^pos_emb_(height|width)$", 16),
    (r"num_pos_feats$", WIDTH // 2),
    (r"^rotary_dim$", HEAD // 2),
    (r"^upsample_groups$|_out_channel$", WIDTH),
    (r"groups$", 8),
    (r"^d_latents$", WIDTH),
    (r"^(linear_num_key_heads|index_n_heads)$", 2),
    (r"head_dim$|^d_kv$|^d_head$|^dim_head$|qk_(nope|rope)_head_dim$|_d_head$|^mamba_headdim$|^kv_channels$", HEAD),
    (r"^qk_head_dim$", 2 * HEAD),
    (r"^head_hidden_size$", WIDTH),
    (r"(num_key_value_heads|num_kv_heads|kv_heads)$", 2),
    (r"(^|_)(n_heads?|num_heads|heads|num_attention_heads|self_attention_heads|cross_attention_heads)(_|$)", HEADS),
    (r"lora_rank$|laurel_rank$|dt_rank$|time_step_rank$|adapter_rank$", HEAD),
    (r"experts_per_tok(en)?$|^(moe_k|moe_top_?k|top_k_experts|num_experts_per_tok)$", 2),
    (r"(^|_)(num_experts|routed_experts|local_experts)$|^num_hash(es)?$", EXPERTS),
    # At least the number of example tokens: runtimes break ties differently.
    (r"^(index_topk|indexer_budget)$", LENGTH),
    (r"^(n_group|num_expert_group)$", 2),
    (r"^topk_group$", 1),
    (
        r"(intermediate|ffn|d_ff|dff|mlp_dim|n_inner|feedforward_dim|dim_feedforward|moe_hidden_size|d_inner)(_|$)",
        INNER,
    ),
    (r"(^|_)(layers?|depth|n_layers?|num_blocks)$", LAYERS),
    (r"(state_size|d_state|state_dim)$", HEAD),
    (r"(max_position_embeddings|n_positions|n_ctx|max_seq_len|max_target_positions|max_length)$", LENGTH),
    (r"(^|_)(num_queries|num_query_tokens|num_denoising|num_detection_tokens|num_proposals|num_latents|n_latents)$", 8),
    (r"sliding_window|window_size_per|local_attention|attention_chunk_size", 4 * LENGTH),
    (r"(^|_)(image_size|crop_size|pretrain_image_size|max_image_size|resolution|img_size)$", IMAGE),
    (
        r"patch|window|kernel|block|chunk|crop|_len(gth)?$|length|position|max_|min_|scale|bins|bucket|num_|_id$|_index$",
        0,
    ),
    (r"size|dim|width|_features$|d_model|n_embd|embed|units|hidden|planes|rel$", WIDTH),
)
"""Patterns of field names to the maximum value, 0 for no limit; the first match applies."""

_KEY_VALUE_HEADS = re.compile(r"(num_key_value_heads|num_kv_heads|kv_heads)$")
_LAYER_INDICES = re.compile(
    r"out_indices|out_features|_indexes$|vision_feature_layer$|feature_layers?$|hook_ids|layer_indices"
)
_IDS = re.compile(r"(_token_id|_token_index|_token_ids|_bos_id|_eos_id|_start_id|_end_id|suppress_tokens|mask_index)$")
_TEXT_CONFIGS = ("text_config", "decoder", "thinker_config")
_WIDTHS = re.compile(r"size|dim|channel|width|filters")


_REQUIRED = {
    **{"head_dim": HEAD, "num_key_value_heads": 2, "num_local_experts": EXPERTS, "num_experts": EXPERTS},
    **{"num_experts_per_tok": 2, "top_k_experts": 2, "moe_intermediate_size": WIDTH},
}
"""Values of fields that some configuration classes leave at None although their models require them."""


def tiny_of(model_type: str) -> Tiny:
    """Return the exceptions to the rules for a model type."""
    record = architecture_of(model_type)
    return Tiny() if record is None else record.tiny


def tiny_config(model_type: str, task: str = "") -> Any:
    """Return a tiny configuration of a model type.

    Args:
        model_type: as in `config.json`.
        task: task of the model; text-generation sets `is_decoder`.

    Raises:
        Exception: any error of the configuration's class for these values.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[model_type]
    tiny = tiny_of(model_type)
    config = _shrunk(config_class(**tiny.base), tiny.fields)
    if task == "text-generation" and not config.is_encoder_decoder and "is_decoder" in _fields(config):
        config.is_decoder = True
    for name, value in tiny.tasks.get(task, {}).items():
        if isinstance(value, dict):
            getattr(config, name).update(value)
        else:
            setattr(config, name, value)
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = getattr(config, "pad_token_id", None) or 0
    return config


def _shrunk(config: Any, changes: Mapping[str, Any]) -> Any:
    """Return a tiny copy of a configuration and its sub-configurations."""
    config_class = type(config)
    try:
        default = config_class()
    except Exception:  # the class requires arguments: then all values are passed
        default = None
    values: dict[str, Any] = {}
    for name, written_default in _fields(config).items():
        value = _value(config, name, written_default)
        if name in changes and not _nests(changes[name]):
            values[name] = changes[name]
            continue
        default_value = _value(default, name, written_default)
        is_computed = _is_computed(written_default, value, _layers_of(config))
        if is_computed and default is not None and not _differs(value, default_value):
            continue  # the class computes it from other fields
        new = _small(name, value, config, changes)
        if default is None or _differs(new, default_value):
            values[name] = new
    values |= {name: new for name, new in changes.items() if name not in values and not _nests(new)}
    fields = _fields(config)
    values |= {name: new for name, new in _REQUIRED.items() if name in fields and _value(config, name, 0) is None}
    _move_token_ids(values, config)
    tiny = _with_all_layer_types(config_class(**values), config, values)
    _divide_mrope_section(tiny)
    return tiny


def _divide_mrope_section(config: Any) -> None:
    """Set `mrope_section` of a model with multimodal RoPE: the rotary dimensions of time, height and width."""
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict) or not _source_names(type(config), "mrope_section"):
        return
    for part in (rope, *rope.values()):
        if isinstance(part, dict) and "rope_theta" in part:
            share = part.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1.0
            count = int((getattr(config, "head_dim", None) or HEAD) * share) // 2
            part["mrope_section"] = [count // 4, count // 4, count - 2 * (count // 4)]


@cache
def _source_names(config_class: Any, word: str) -> bool:
    """Return whether the modeling file of a configuration contains a word."""
    name = config_class.__module__.replace(".configuration_", ".modeling_")
    file = Path(inspect.getfile(config_class)).with_name(f"{name.rpartition('.')[2]}.py")
    return file.is_file() and word in file.read_text(encoding="utf-8")


def _with_all_layer_types(tiny: Any, config: Any, values: dict[str, Any]) -> Any:
    """Return the tiny configuration, rebuilt with all layer types of the large one if it lacks some."""
    large, small = (getattr(one, "layer_types", None) for one in (config, tiny))
    is_list = (
        "layer_types" in _fields(config)
        and isinstance(large, list)
        and isinstance(small, list)
        and isinstance((large or [0])[0], str)
    )
    if not is_list or "layer_types" in values or set(large) == set(small):
        return tiny
    return type(config)(**values, layer_types=_few_layer_types(large)[: len(small)])


def _fields(config: Any) -> dict[str, Any]:
    """Return the field names of a configuration, with the defaults in the class definition."""
    if dataclasses.is_dataclass(config):
        found = {field.name: field.default for field in dataclasses.fields(config) if field.init}
    else:
        found = dict(config.to_dict())
    if hasattr(config, "out_features"):
        found |= {"out_features": None}
        found.pop("out_indices", None)
    omitted = ("transformers_version", "id2label", "label2id", "architectures", "model_type", "dtype", "torch_dtype")
    return {name: default for name, default in found.items() if name not in omitted and not name.startswith("_")}


def _value(config: Any, name: str, default: Any) -> Any:
    """Return a field's value, or the default if each layer has another value."""
    try:
        value = getattr(config, name, default)
    except Exception:  # a value that differs between layers
        value = default
    return None if value is dataclasses.MISSING else value


def _is_computed(written_default: Any, value: Any, layers: int) -> bool:
    """Return whether a class computes a field that has no default; lists of stage widths don't count."""
    if written_default is not None or value is None or hasattr(value, "to_dict"):
        return False
    widths = isinstance(value, list) and len(value) != layers and all(isinstance(item, int) for item in value)
    return not widths


def _nests(value: Any) -> bool:
    return isinstance(value, dict) and "..." in value


def _small(name: str, value: Any, config: Any, changes: Mapping[str, Any]) -> Any:
    """Return the tiny value of a field."""
    from transformers import PreTrainedConfig

    if isinstance(value, PreTrainedConfig):
        inner = {key: new for key, new in changes.get(name, {}).items() if key != "..."}
        return _shrunk(value, {**tiny_of(value.model_type).fields, **inner})
    if isinstance(value, dict):
        return {key: _small(str(key), inner, config, {}) for key, inner in value.items()}
    if isinstance(value, bool) or not isinstance(value, int | list | tuple):
        return value
    layers = _layers_of(config)
    if name.startswith("stem") and hasattr(config, "block_configs"):
        return value  # its blocks are listed with all their sizes, which don't shrink
    if isinstance(value, int):
        if _KEY_VALUE_HEADS.search(name) and value >= (_value(config, "num_attention_heads", 0) or 0):
            return min(value, HEADS)
        return _move_layer_index(value, layers) if _LAYER_INDICES.search(name) else _small_number(name, value)
    return _small_list(name, list(value), layers)


def _small_number(name: str, value: int) -> int:
    if value <= 1 or _UNCHANGED.search(name):
        return value
    if name == "num_filters":
        return _scaled([value])[0]
    for pattern, limit in _RULES:
        if re.search(pattern, name):
            return min(value, limit) if limit else value
    return _scaled([value])[0] if re.search(r"channel|filters", name) else value


def _small_list(name: str, values: list[Any], layers: int) -> list[Any]:
    integers = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    if name == "depths" or name.endswith(("num_blocks", "block_repeats", "numb_of_layers")):
        return [min(value, 2) if isinstance(value, int) else value for value in values]
    if re.search(r"(^|_)image_size$", name) and integers and values and max(values) > IMAGE:
        factor = max(values) // IMAGE
        return [max(IMAGE // 2, value // factor // 16 * 16) for value in values]
    if _LAYER_INDICES.search(name) and layers > LAYERS:
        return _move_layer_indices(values, layers)
    if values and isinstance(values[0], str) and len(values) == layers and layers > LAYERS:
        return _few_layer_types(values)
    if len(values) == layers and layers > LAYERS:
        return values[:LAYERS]
    if "head" in name and integers:
        return [min(value, 2) for value in values]
    if integers and _WIDTHS.search(name) and not re.search(r"image|patch|kernel|window|stride|input_size|pool", name):
        return _scaled(values)
    return values


def _move_layer_indices(values: list[Any], layers: int) -> list[Any]:
    """Map layer indices, or names of stages, to the corresponding ones of a model with few layers."""
    if values and isinstance(values[0], str):
        stages = [re.fullmatch(r"stage(\d+)", value) for value in values]
        if not all(stages):
            return values
        numbers = [int(stage[1]) for stage in stages if stage]
        if max(numbers) <= LAYERS:
            return values
        return [f"stage{index + 1}" for index in _move_layer_indices([number - 1 for number in numbers], layers)]
    if not all(isinstance(value, int) for value in values):
        return values
    if max(values) < LAYERS:
        return values
    found = [_move_layer_index(value, layers) for value in values]
    has_duplicates = len(set(found)) < len(values) <= LAYERS
    return list(range(LAYERS - len(values), LAYERS)) if has_duplicates else list(dict.fromkeys(found))


def _move_layer_index(value: int, layers: int) -> int:
    if value < 0 or layers <= LAYERS:
        return max(value, -LAYERS)
    return max(0, min((value + 1) * LAYERS // layers, LAYERS) - 1)


def _scaled(values: list[Any]) -> list[Any]:
    """Divide widths by eight, so that equal widths stay equal and multiples stay multiples."""
    return [value if value < 16 else max(8, value // 8 // 8 * 8) for value in values]


def _few_layer_types(values: list[str]) -> list[str]:
    """Return the types of the first layers; the last of them are replaced by the types that they lack."""
    first = values[:LAYERS]
    missing = [layer_type for layer_type in dict.fromkeys(values) if layer_type not in first]
    return first[: LAYERS - len(missing)] + missing if missing and len(missing) < LAYERS else first


def _layers_of(config: Any) -> int:
    for name in ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "depth"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return 0


def _differs(new: Any, old: Any) -> bool:
    if hasattr(new, "to_dict") and hasattr(old, "to_dict"):
        return bool(type(new) is not type(old) or new.to_dict() != old.to_dict())
    return bool(new != old)


def _move_token_ids(values: dict[str, Any], config: Any) -> None:
    """Replace token ids outside of the tiny vocabulary."""
    configs = [config, *(_value(config, name, None) for name in _TEXT_CONFIGS)]
    sizes = [size for one in configs if isinstance(size := getattr(one, "vocab_size", None), int)]
    limit = min([VOCABULARY, *sizes])
    for name, default in _fields(config).items():
        if not _IDS.search(name):
            continue
        value = values[name] if name in values else _value(config, name, default)
        if name == "pad_token_id" and value is None and sizes:
            values[name] = 1  # a classifier needs it to find the last token of each sequence in a batch
        if isinstance(value, int) and not isinstance(value, bool) and value >= limit:
            values[name] = _smaller_token_id(value, limit)
        elif isinstance(value, list) and any(isinstance(item, int) and item >= limit for item in value):
            values[name] = [_smaller_token_id(item, limit) if item >= limit else item for item in value]


def _smaller_token_id(value: int, limit: int) -> int:
    """Return a token id less than `limit`, the same for equal ids; adjacent ids stay distinct."""
    return limit - 1 - value % max(limit // 2, 1)
