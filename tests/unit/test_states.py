"""Cache entries of recurrent layers become named tensors, and are converted back."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from transformers.cache_utils import (
    DynamicCache,
    DynamicLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionLayer,
)
from transformers.models.kimi_linear.modeling_kimi_linear import recurrent_kimi_delta_attention
from transformers.models.xlstm.modeling_xlstm import mlstm_recurrent_sequence_native

from onnxport.architectures.xlstm import scan_tokens
from onnxport.description._linear_attention import gated_delta_rule
from onnxport.description.cache_layout import CacheLayout

_TEXT = SimpleNamespace(model_type="any")
_MODEL = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: _TEXT))


def test_several_states_of_one_type_are_numbered() -> None:
    layer = LinearAttentionAndFullAttentionLayer(number_of_states=2)
    keys = torch.rand(2, 4, 3, 8)
    layer.update(keys, keys + 1)
    for index in range(2):
        layer.update_conv_state(torch.rand(2, 16 + index, 4), state_idx=index)
    cache = DynamicCache()
    cache.layers = [layer]
    states = CacheLayout.of(_MODEL, cache)
    assert list(states.named("inputs")) == [
        "past_key_values.0.key",
        "past_key_values.0.value",
        "past_conv.0.0",
        "past_conv.0.1",
    ]
    past = states.from_cache(cache)
    assert [tuple(tensor.shape) for tensor in past[0][2:]] == [(2, 16, 4), (2, 17, 4)]
    again = states.from_cache(states.to_cache(past))
    for before, after in zip(past[0], again[0], strict=True):
        torch.testing.assert_close(before, after)


def test_a_cache_whose_first_layer_is_recurrent_has_the_length_of_its_keys() -> None:
    cache = DynamicCache()
    cache.layers = [LinearAttentionLayer(), DynamicLayer()]
    cache.layers[0].update_conv_state(torch.rand(2, 16, 4))
    cache.layers[1].update(torch.rand(2, 4, 3, 8), torch.rand(2, 4, 3, 8))
    states = CacheLayout.of(_MODEL, cache)
    assert states.to_cache(states.from_cache(cache)).get_seq_length() == 3


def test_the_delta_rule_with_a_decay_for_each_row() -> None:
    noise = torch.Generator().manual_seed(0)
    query, key, value, decay = (torch.randn(2, 5, 3, 4, generator=noise) for _ in range(4))
    beta, first = torch.rand(2, 5, 3, generator=noise), torch.randn(2, 3, 4, 4, generator=noise)
    settings = {"initial_state": first, "output_final_state": True, "use_qk_l2norm_in_kernel": True}
    tensors = (query, key, value, -decay.abs(), beta)
    for found, expected in zip(
        gated_delta_rule(*tensors, **settings), recurrent_kimi_delta_attention(*tensors, **settings), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_xlstms_recurrence_equals_the_originals() -> None:
    noise = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 4, generator=noise) for _ in range(3))
    gates = torch.randn(2, 2, 3, 5, generator=noise)
    first = {"c_initial": (4, 4), "n_initial": (4,), "m_initial": (1,)}
    initial_states = {name: torch.randn(2, 3, *shape, generator=noise) for name, shape in first.items()}
    backend = SimpleNamespace(config=SimpleNamespace(eps=1e-6))
    for initial in ({}, initial_states):
        expected, states = mlstm_recurrent_sequence_native(
            query, key, value, *gates, **initial, return_last_states=True
        )
        found, after = scan_tokens(backend, query, key, value, *gates, **initial)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(after, tuple(states))
