"""The façade has the behaviour of `transformers.onnx`, as far as no model is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.version import Version
from transformers import BertConfig, GPT2Config, T5Config

from onnxport.description.arguments import flatten_outputs
from onnxport.onnx import FeaturesManager, OnnxConfig, OnnxConfigWithPast, OnnxSeq2SeqConfigWithPast, PatchingSpec
from onnxport.onnx.convert import check_onnxruntime_requirements, ensure_model_and_config_inputs_match
from onnxport.onnx.features import supported_features_mapping
from onnxport.onnx.utils import (
    ParameterFormat,
    compute_effective_axis_dimension,
    compute_serialized_parameters_size,
)


class Encoder(OnnxConfig):
    inputs = property(lambda self: {"input_ids": {0: "batch", 1: "sequence"}})


class Decoder(OnnxConfigWithPast):
    inputs = property(lambda self: {"input_ids": {0: "batch", 1: "sequence"}})


class EncoderDecoder(OnnxSeq2SeqConfigWithPast):
    inputs = property(lambda self: {"input_ids": {0: "batch", 1: "encoder_sequence"}})


def test_axis_arithmetic() -> None:
    assert compute_effective_axis_dimension(-1, 8, 2) == 6
    assert compute_effective_axis_dimension(1, 8, 2) == -1
    assert compute_serialized_parameters_size(3, ParameterFormat.Float) == 12


def test_unknown_task_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="is not a supported task"):
        Encoder(BertConfig(), task="nonsense")


def test_the_base_is_abstract() -> None:
    with pytest.raises(TypeError):
        OnnxConfig(BertConfig())  # type: ignore[abstract]


def test_external_data_from_two_gibibytes() -> None:
    assert not OnnxConfig.use_external_data_format(536_870_911)
    assert OnnxConfig.use_external_data_format(536_870_912)


def test_use_cache_follows_past() -> None:
    assert Decoder.from_model_config(GPT2Config()).values_override == {"use_cache": False}
    assert Decoder.with_past(GPT2Config()).values_override == {"use_cache": True}


def test_missing_layers_are_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="could not find the number of layers"):
        _ = Decoder(SimpleNamespace()).num_layers


def test_past_goes_into_inputs_and_outputs_only() -> None:
    config = Decoder.with_past(SimpleNamespace(num_layers=1, num_attention_heads=2))
    names: dict[str, dict[int, str]] = {}
    config.fill_with_past_key_values_(names, "inputs", inverted_values_shape=True)
    assert names["past_key_values.0.value"] == {0: "batch", 1: "past_sequence + sequence"}
    with pytest.raises(ValueError, match="direction"):
        config.fill_with_past_key_values_(names, "sideways")


def test_the_decoder_has_a_separate_number_of_layers() -> None:
    config = EncoderDecoder(T5Config(num_layers=2, num_decoder_layers=5), use_past=True)
    assert config.num_layers == (2, 5)
    names: dict[str, dict[int, str]] = {}
    config.fill_with_past_key_values_(names, "outputs")
    assert len(names) == 5 * 4


def test_collections_flatten_by_one_level() -> None:
    assert OnnxConfig.flatten_output_collection_property("x", [[1, 2], [3]]) == {"x.0": 1, "x.1": 2, "x.2": 3}
    assert Decoder(GPT2Config()).flatten_output_collection_property("present", [(1, 2)]) == {
        "present.0.key": 1,
        "present.0.value": 2,
    }


def test_a_tuple_of_tensors_isnt_iterated_over_their_batch() -> None:
    class WithStates(Encoder):
        outputs = property(lambda self: {f"hidden_states.{index}": {0: "batch"} for index in (0, 1)})

    states = (torch.zeros(2, 3), torch.ones(2, 3))
    found = flatten_outputs(WithStates(BertConfig()), {"logits": torch.zeros(2), "hidden_states": states})
    assert [found["hidden_states.0"] is states[0], found["hidden_states.1"] is states[1]] == [True, True]


def test_patches_are_restored() -> None:
    target = SimpleNamespace(value=1)
    spec = PatchingSpec(target, "value", custom_op=2)
    config = Encoder(BertConfig(), patching_specs=[spec])
    config.patch_ops()
    assert target.value == 2
    config.restore_ops()
    assert target.value == 1
    assert spec.orig_op is None


@dataclass
class Model:
    config: object

    def forward(self, input_ids: object, attention_mask: object = None) -> None: ...


def test_inputs_are_matched_in_the_order_of_forward() -> None:
    model = Model(None)
    assert ensure_model_and_config_inputs_match(model, ["attention_mask", "input_ids"]) == (
        True,
        ["input_ids", "attention_mask"],
    )
    assert not ensure_model_and_config_inputs_match(model, ["pixel_values"])[0]


def test_old_onnxruntime_is_an_import_error() -> None:
    check_onnxruntime_requirements(Version("1.4.0"))
    with pytest.raises(ImportError, match="older version"):
        check_onnxruntime_requirements(Version("999"))


def test_unknown_model_type_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="is not supported yet"):
        FeaturesManager.get_supported_features_for_model_type("nope")
    assert "masked-lm" in FeaturesManager.get_supported_features_for_model_type("big_bird")


def test_unsupported_feature_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="doesn't support feature"):
        FeaturesManager.check_supported_model_or_raise(Model(BertConfig()), "causal-lm-with-past")
    model_type, make = FeaturesManager.check_supported_model_or_raise(Model(BertConfig()), "masked-lm")
    assert model_type == "bert"
    assert make(BertConfig()).task == "masked-lm"


def test_frameworks() -> None:
    with pytest.raises(ValueError, match="pt or tf"):
        FeaturesManager.get_model_class_for_feature("default", framework="jax")
    with pytest.raises(KeyError, match="Unknown task"):
        FeaturesManager.get_model_class_for_feature("nonsense")
    assert FeaturesManager.get_model_class_for_feature("causal-lm-with-past").__name__ == "AutoModelForCausalLM"
    assert len(FeaturesManager._TASKS_TO_AUTOMODELS) == 15


@pytest.mark.parametrize(
    ("file", "framework"),
    [("model.safetensors", "pt"), ("pytorch_model.bin", "pt"), ("tf_model.h5", "tf"), ("a.gguf", "pt")],
)
def test_framework_of_a_directory(tmp_path: Path, file: str, framework: str) -> None:
    with pytest.raises(FileNotFoundError):
        FeaturesManager.determine_framework(str(tmp_path))
    (tmp_path / file).touch()
    assert FeaturesManager.determine_framework(str(tmp_path)) == framework
    assert FeaturesManager.determine_framework(str(tmp_path), "tf") == "tf"


def test_a_feature_map_needs_a_class() -> None:
    with pytest.raises(ValueError, match="must be provided"):
        supported_features_mapping("default")
    mapping = supported_features_mapping("default", onnx_config_cls="models.bert.BertOnnxConfig")
    assert mapping["default"](BertConfig()).task == "default"
