"""The long length at which graphs are validated is beyond twice what a model branches on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    IBertConfig,
    IBertModel,
    LongT5Config,
    MistralConfig,
    RobertaConfig,
    RobertaModel,
)

from onnxport.description.lengths import long_length, positions_of, window_of


def test_thresholds_and_positions_determine_it() -> None:
    assert long_length(LongT5Config(local_radius=127), 1000) == 257
    assert long_length(BertConfig(max_position_embeddings=64), 1000) == 64
    assert long_length(MistralConfig(sliding_window=300, max_position_embeddings=2048), 1000) == 601


def test_a_large_model_is_run_on_fewer_tokens() -> None:
    config = MistralConfig(sliding_window=1000, max_position_embeddings=4096)
    assert long_length(config, 1000) == 2001
    assert long_length(config, 10**9) == 128


def test_positions_of_sub_configurations_count() -> None:
    assert positions_of(BertConfig(max_position_embeddings=64)) == [64]


@pytest.mark.parametrize(
    ("model_class", "config_class", "error", "message"),
    [
        (RobertaModel, RobertaConfig, RuntimeError, "out of bounds"),
        (IBertModel, IBertConfig, IndexError, "out of range"),
    ],
)
def test_positions_of_roberta_start_after_the_padding_index(
    model_class: Any, config_class: Any, error: type[Exception], message: str
) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = model_class(config_class(vocab_size=16, max_position_embeddings=12, pad_token_id=1, **sizes))
    assert (window_of(model, 512), window_of(model, 6)) == (10, 6)
    model(torch.full((1, 10), 5))
    with pytest.raises(error, match=message):
        model(torch.full((1, 11), 5))
