"""The long length at which graphs are validated is beyond twice what a model branches on."""

from __future__ import annotations

from transformers import BertConfig, LongT5Config, MistralConfig

from onnxport.description.lengths import long_length, positions_of


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
