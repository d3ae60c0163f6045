"""Signatures: correct labels, and sizes that match them."""

from __future__ import annotations

import pytest
from transformers import BartConfig, BloomConfig, CLIPConfig, DetrConfig, GPT2Config

from onnxport.configs.model_types import load_config_class
from onnxport.description.signature import Signature, axis_size, signature_of, solve
from onnxport.errors import UnsupportedError


def test_the_label_of_a_past_input() -> None:
    signature = signature_of(load_config_class("GPT2OnnxConfig").with_past(GPT2Config(n_layer=1))).today()
    assert signature.inputs["past_key_values.0.key"] == {0: "batch_size", 2: "past_sequence_length"}
    assert signature.inputs["attention_mask"] == {0: "batch_size", 1: "past_sequence_length + sequence_length"}
    assert signature.outputs["present.0.key"] == {0: "batch_size", 2: "past_sequence_length + sequence_length"}


def test_the_mask_label_of_a_single_decoder() -> None:
    config = load_config_class("BartOnnxConfig").with_past(BartConfig(decoder_layers=1), task="causal-lm")
    assert signature_of(config).inputs["attention_mask"][1] == "past_sequence + encoder_sequence"


def test_the_cross_attention_cache_has_the_masks_label() -> None:
    inputs = signature_of(load_config_class("T5OnnxConfig").with_past(_t5())).inputs
    assert inputs["attention_mask"][1] == inputs["past_key_values.0.encoder.key"][2] == inputs["input_ids"][1]
    assert inputs["decoder_input_ids"][1] == "decoder_sequence"
    assert inputs["decoder_attention_mask"][1] == "past_decoder_sequence + decoder_sequence"


def _t5() -> object:
    from transformers import T5Config

    return T5Config(num_layers=1)


def test_a_label_beyond_the_axes_of_an_input_is_an_error() -> None:
    with pytest.raises(UnsupportedError, match=r"labels axis 2 of mask, whose shape is \(2, 8\)"):
        solve(Signature({"mask": {0: "b", 2: "s"}}, {}), {"mask": (2, 8)})


def test_sizes_are_solved_and_applied() -> None:
    signature = Signature({"a": {0: "b", 1: "s"}, "m": {1: "p + s"}}, {})
    sizes = solve(signature, {"a": (2, 8), "m": (2, 18)})
    assert sizes == {"b": 2, "s": 8, "p": 10}
    assert axis_size("p + s", 18, sizes, {"p": 0, "s": 11}) == 11
    assert axis_size("unknown", 5, sizes, {"p": 0}) == 5


def test_a_first_axis_may_be_a_multiple_of_its_symbol() -> None:
    signature = Signature({"codes": {0: "b"}, "mask": {0: "b"}}, {})
    sizes = solve(signature, {"codes": (8, 3), "mask": (2, 3)})
    assert sizes == {"b": 2}
    assert axis_size("b", 8, sizes, {"b": 3}) == 12


def test_blooms_axis_of_batch_and_heads() -> None:
    config = load_config_class("BloomOnnxConfig").with_past(BloomConfig(n_layer=1, n_head=4))
    label = signature_of(config).inputs["past_key_values.0.key"][0]
    assert axis_size(label, 8, {"batch": 2}, {"batch": 3}) == 12


def test_a_pixel_mask_has_the_images_labels() -> None:
    config = load_config_class("DetrOnnxConfig")(DetrConfig(), task="object-detection")
    assert config.inputs["pixel_mask"] == {0: "batch"}
    assert signature_of(config).inputs["pixel_mask"] == {0: "batch", 1: "height", 2: "width"}


def test_dual_encoders_have_separate_batch_labels() -> None:
    found = signature_of(load_config_class("CLIPOnnxConfig")(CLIPConfig())).today()
    assert found.inputs["input_ids"][0] == found.outputs["logits_per_text"][0] == "batch_size"
    assert found.inputs["pixel_values"][0] == found.outputs["logits_per_image"][0] == "image_batch_size"
