"""The length of a sequence beyond what a model branches on, at which graphs are validated and, if need be, traced."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_THRESHOLDS = re.compile(r"window|block|chunk|bucket|max_distance|radius|original_max_position|segment|stride|span")
"""Configuration fields with a length at which a model's attention or positions change."""
_POSITIONS = ("max_position_embeddings", "n_positions", "max_source_positions", "max_target_positions", "max_seq_len")
_USUAL = 128
_LARGE_MODEL = 50_000_000
_LIMIT, _LIMIT_OF_LARGE_MODEL = 4096, 512


def long_length(config: PreTrainedConfig, parameters: int) -> int:
    """Return a length beyond twice every threshold of a model, but not beyond its positions.

    Args:
        config: its configuration.
        parameters: number of its parameters; a large model is run on at most 512 tokens, others on 4096.
    """
    thresholds = [value for name, value in _integers(config.to_dict()) if _THRESHOLDS.search(name)]
    limit = min([_LIMIT_OF_LARGE_MODEL if parameters > _LARGE_MODEL else _LIMIT, *positions_of(config)])
    return min(max([_USUAL, *(2 * value + 1 for value in thresholds if value <= limit)]), limit)


def positions_of(config: PreTrainedConfig) -> list[int]:
    """Return the numbers of positions that a configuration and its sub-configurations have."""
    return positions_in(config.to_dict())


def window_of(model: PreTrainedModel, limit: int) -> int:
    """Return how many tokens a model reads at once.

    Models in the manner of RoBERTa count positions from the padding index on: their embeddings have that many more.

    Args:
        model: the model.
        limit: the number that is wanted.
    """
    after_padding: list[int] = [
        len(module.weight) - module.padding_idx - 1  # I-BERT's embeddings have no num_embeddings
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    return min([limit, *positions_of(model.config), *after_padding])


def positions_in(values: Mapping[str, Any]) -> list[int]:
    """Return the numbers of positions in the contents of a `config.json`."""
    return [value for name, value in _integers(values) if name in _POSITIONS and value > 1]


def _integers(values: object, name: str = "") -> Iterator[tuple[str, int]]:
    """Yield the integers in a configuration, also in lists and sub-configurations, each with the name of its field."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _integers(value, str(key))
    elif isinstance(values, list):
        for value in values:
            yield from _integers(value, name)
    elif isinstance(values, int) and not isinstance(values, bool):
        yield name, values
