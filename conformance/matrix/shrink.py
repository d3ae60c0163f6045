"""Make a tiny configuration of any model type: its default one, with every size shrunk by the rule of its name.

All widths become one width, all numbers of heads one number, and so on: what the default configuration holds equal, or
divisible, stays so. What no rule can know is in `exceptions.py`.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from typing import Any

from conformance.matrix.exceptions import EXCEPTIONS

WIDTH, HEADS, HEAD, INNER, LAYERS, VOCABULARY = 32, 4, 8, 64, 4, 128
EXPERTS, LENGTH, PICTURE = 4, 512, 64

_LEFT = re.compile(
    r"(^|_)(kernel|stride|seed|theta|temperature|scale|loss|cost|coefficient|rate|dropout|eps|std|factor|buckets|"
    r"num_channels|in_chans|insert_layer_id|prompt_types|segment_types|type_vocab_size|sampling_rate|num_buckets|"
    r"num_mel_bins|mel_bins|num_feat_extract_layers|max_bucket_distance|train_num_points|ratio)(_|$)"
)
_RULES: tuple[tuple[str, int], ...] = (
    (r"(^|_)vocab(_size)?$|^num_embeddings$|^ngram_vocab_size_base$", VOCABULARY),
    (r"^(linear_num_key_heads|index_n_heads)$", 2),
    (r"head_dim$|^d_kv$|^d_head$|^dim_head$|qk_(nope|rope)_head_dim$|_d_head$|^mamba_headdim$|^kv_channels$", HEAD),
    (r"^qk_head_dim$", 2 * HEAD),
    (r"^head_hidden_size$", WIDTH),
    (r"(num_key_value_heads|num_kv_heads|kv_heads)$", 2),
    (r"(^|_)(n_heads?|num_heads|heads|num_attention_heads|self_attention_heads|cross_attention_heads)(_|$)", HEADS),
    (r"lora_rank$|laurel_rank$|dt_rank$|time_step_rank$|adapter_rank$", HEAD),
    (r"experts_per_tok(en)?$|^(moe_k|moe_top_?k|top_k_experts|index_topk|num_experts_per_tok)$", 2),
    (r"(^|_)(num_experts|routed_experts|local_experts)$|^num_hash(es)?$", EXPERTS),
    (r"^(n_group|num_expert_group)$", 2),
    (r"^topk_group$", 1),
    (r"(intermediate|ffn|d_ff|dff|mlp_dim|n_inner|feedforward_dim|dim_feedforward|moe_hidden_size|d_inner)(_|$)", INNER),
    (r"(^|_)(layers?|depth|n_layers?|num_blocks)$", LAYERS),
    (r"(state_size|d_state|state_dim)$", HEAD),
    (r"(max_position_embeddings|n_positions|n_ctx|max_seq_len|max_target_positions|max_length)$", LENGTH),
    (r"(^|_)(num_queries|num_query_tokens|num_denoising|num_detection_tokens|num_proposals|num_latents|n_latents)$", 8),
    (r"sliding_window|window_size_per|local_attention|attention_chunk_size", 4 * LENGTH),
    (r"(^|_)(image_size|crop_size|pretrain_image_size|max_image_size|resolution|img_size)$", PICTURE),
    (r"patch|window|kernel|block|chunk|crop|_len(gth)?$|length|position|max_|min_|scale|bins|bucket|num_|_id$|_index$", 0),
    (r"size|dim|channels|width|filters|d_model|n_embd|embed|units|hidden|planes|rel$", WIDTH),
)
"""What a name means, the first that fits: the largest number that it may have, 0 for any."""

_PER_LAYER = re.compile(r"layer_types|block_type|layers_types|rope_layers|rope_theta|layer_type|indexer_types|layers$")
_WIDTHS = re.compile(r"size|dim|channels|width|filters")


def tiny_config(model_type: str) -> Any:
    """Return a tiny configuration of a model type.

    Raises:
        Exception: whatever the configuration's class says of the values.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[model_type]
    exception = EXCEPTIONS.get(model_type, {})
    base = config_class(**exception.get("base", {}))
    config = _shrunk(base, exception, {})
    return config


def _shrunk(config: Any, changes: dict[str, Any], ids: dict[int, int]) -> Any:
    """Return a small copy of a configuration and of those inside it."""
    config_class = type(config)
    try:
        default = config_class()
    except Exception:  # a class that needs arguments: then all are passed on
        default = None
    layers = _layers_of(config)
    values: dict[str, Any] = {}
    for name in _fields(config):
        value = getattr(config, name)
        new = changes[name] if name in changes and not _nests(changes[name]) else _small(name, value, layers, changes)
        if name in changes or default is None or _differs(new, getattr(default, name, None)):
            values[name] = new
    for name, new in changes.items():
        if name != "base" and name not in values and not _nests(new):
            values[name] = new
    _ids(values, config)
    made = config_class(**{name: value for name, value in values.items() if not _is_derived(config, name, value)})
    return made


def _fields(config: Any) -> list[str]:
    if dataclasses.is_dataclass(config):
        names = [field.name for field in dataclasses.fields(config) if field.init]
    else:
        names = list(config.to_dict())
    left = ("transformers_version", "id2label", "label2id", "architectures", "model_type", "dtype", "torch_dtype")
    return [name for name in names if name not in left and not name.startswith("_") and hasattr(config, name)]


def _nests(value: Any) -> bool:
    return isinstance(value, dict) and "..." in value


def _small(name: str, value: Any, layers: int, changes: dict[str, Any]) -> Any:
    """Return a small value for a field."""
    from transformers import PreTrainedConfig

    if isinstance(value, PreTrainedConfig):
        inner = {key: new for key, new in changes.get(name, {}).items() if key != "..."}
        own = EXCEPTIONS.get(value.model_type, {})
        return _shrunk(value, {**{k: v for k, v in own.items() if k != "base"}, **inner}, {})
    if isinstance(value, dict):
        return {key: _small(str(key), inner, layers, {}) for key, inner in value.items()}
    if isinstance(value, bool) or not isinstance(value, int | list | tuple):
        return value
    if isinstance(value, int):
        return _small_number(name, value)
    return _small_list(name, list(value), layers)


def _small_number(name: str, value: int) -> int:
    if value <= 1 or _LEFT.search(name):
        return value
    for pattern, limit in _RULES:
        if re.search(pattern, name):
            return min(value, limit) if limit else value
    return value


def _small_list(name: str, values: list[Any], layers: int) -> list[Any]:
    if name == "depths" or name.endswith(("num_blocks", "block_repeats")):
        return [min(value, 2) if isinstance(value, int) else value for value in values]
    if name == "mrope_section":
        return [2, 1, 1]
    if values and isinstance(values[0], str) and len(values) == layers and layers > LAYERS:
        return _few_kinds(values)
    if len(values) == layers and layers > LAYERS and (_PER_LAYER.search(name) or not isinstance(values[0], str)):
        return values[:LAYERS]
    if "head" in name and all(isinstance(value, int) for value in values):
        return [max(1, min(value, HEADS)) for value in values]
    if _WIDTHS.search(name) and not re.search(r"image|patch|kernel|window|stride|input_size", name):
        return _scaled(values)
    return values


def _scaled(values: list[Any]) -> list[Any]:
    """Divide widths, the ratios between them kept where that leaves the first with 16 at least."""
    numbers = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    if len(numbers) != len(values) or not numbers or min(numbers) < 8:
        return values
    factor = max(1, min(numbers) // 16)
    return [max(8, value // factor // 8 * 8) for value in values]


def _few_kinds(values: list[str]) -> list[str]:
    """Keep the first layers; the last ones give way to kinds that would be lost."""
    kept = values[:LAYERS]
    lost = [kind for kind in dict.fromkeys(values) if kind not in kept]
    return kept[: LAYERS - len(lost)] + lost if lost and len(lost) < LAYERS else kept


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


def _is_derived(config: Any, name: str, value: Any) -> bool:
    """Say whether the class works a field out from others where it isn't given."""
    return False


def _ids(values: dict[str, Any], config: Any) -> None:
    """Move token numbers that are outside the small vocabulary inside."""
    texts = [config, *(getattr(config, name, None) for name in ("text_config", "decoder", "thinker_config"))]
    sizes = [size for text in texts if isinstance(size := getattr(text, "vocab_size", None), int)]
    limit = min([VOCABULARY, *sizes])
    taken: dict[int, int] = {}
    for name in _fields(config):
        value = values.get(name, getattr(config, name, None))
        if not re.search(r"(_token_id|_token_index|_token_ids|_bos_id|_eos_id|_start_id|_end_id|suppress_tokens)$", name):
            continue
        if isinstance(value, int) and not isinstance(value, bool) and value >= limit:
            values[name] = _moved(value, limit)
        elif isinstance(value, list) and any(isinstance(item, int) and item >= limit for item in value):
            values[name] = [_moved(item, limit) if item >= limit else item for item in value]
    del taken


def _moved(value: int, limit: int) -> int:
    """Return a number below `limit`, the same for the same token: neighbours stay apart."""
    return limit - 1 - value % (limit // 2)
