"""The tables of `FeaturesManager`, and its treatment of names, without loading models."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import transformers
from transformers import BertConfig, GPT2Config

from onnxport.description.tasks import canonical_task
from onnxport.onnx.features import FeaturesManager
from onnxport.onnx.utils import get_preprocessor

TABLE = FeaturesManager._SUPPORTED_MODEL_TYPE


def test_there_are_59_model_types_and_265_pairs() -> None:
    assert len(TABLE) == 59
    assert sum(len(features) for features in TABLE.values()) == 265
    assert not any("_" in model_type for model_type in TABLE)
    assert len(FeaturesManager.AVAILABLE_FEATURES) == 18
    assert sorted(FeaturesManager.AVAILABLE_FEATURES) == FeaturesManager.AVAILABLE_FEATURES


def test_values_construct_a_description() -> None:
    make = TABLE["gpt2"]["causal-lm-with-past"]
    assert isinstance(make, partial)
    config = make(GPT2Config(n_layer=1))
    assert (config.task, config.use_past) == ("causal-lm", True)
    assert not TABLE["gpt2"]["causal-lm"](GPT2Config(n_layer=1)).use_past


@pytest.mark.parametrize("feature", FeaturesManager.AVAILABLE_FEATURES)
def test_every_feature_has_a_class_that_exists(feature: str) -> None:
    found = FeaturesManager.get_model_class_for_feature(feature)
    assert getattr(transformers, found.__name__) is found
    assert canonical_task(feature).full_feature == feature


def test_vision2seq_has_the_new_class_name() -> None:
    assert FeaturesManager.get_model_class_for_feature("vision2seq-lm").__name__ == "AutoModelForImageTextToText"


def test_a_feature_is_its_task_with_or_without_past() -> None:
    assert FeaturesManager.feature_to_task("seq2seq-lm-with-past") == "seq2seq-lm"
    assert FeaturesManager.feature_to_task("default") == "default"


@pytest.mark.parametrize("spelling", ["big_bird", "big-bird", "BIG_BIRD"])
def test_a_model_type_may_be_spelt_either_way(spelling: str) -> None:
    assert FeaturesManager.get_supported_features_for_model_type(spelling) is TABLE["big-bird"]


def test_an_unknown_model_type_names_the_model() -> None:
    with pytest.raises(KeyError, match=r"nope \(mine\) is not supported yet. Only \['albert'"):
        FeaturesManager.get_supported_features_for_model_type("nope", model_name="mine")


def test_the_model_type_is_returned_as_in_the_configuration() -> None:
    model = SimpleNamespace(config=SimpleNamespace(model_type="big_bird"))
    model_type, make = FeaturesManager.check_supported_model_or_raise(model, "default")
    assert model_type == "big_bird"
    assert make is TABLE["big-bird"]["default"]


def test_an_unsupported_feature_lists_the_supported() -> None:
    model = SimpleNamespace(config=BertConfig())
    with pytest.raises(ValueError, match=r"bert doesn't support feature seq2seq-lm. Supported values are: \['default'"):
        FeaturesManager.check_supported_model_or_raise(model, "seq2seq-lm")


def test_get_config_works_on_class_and_instance() -> None:
    assert FeaturesManager.get_config("bert", "default") is TABLE["bert"]["default"]
    assert FeaturesManager().get_config("big_bird", "default") is TABLE["big-bird"]["default"]
    with pytest.raises(KeyError):
        FeaturesManager.get_config("bert", "nonsense")


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_shards_are_pytorch(tmp_path: Path, index: str) -> None:
    (tmp_path / index).touch()
    assert FeaturesManager.determine_framework(str(tmp_path)) == "pt"


def test_a_framework_argument_is_not_checked() -> None:
    assert FeaturesManager.determine_framework("anything", "jax") == "jax"


def test_no_preprocessor_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert get_preprocessor(str(tmp_path)) is None
