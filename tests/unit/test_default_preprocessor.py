"""A checkpoint with some preprocessors gets those that its model's inputs also need."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

import onnxport
from conformance.preprocessors import make_tokenizer
from onnxport.description.default_preprocessor import complete_preprocessor, sub_configs
from onnxport.description.preprocessor import Preprocessors


class TakesImagesAndAudio:
    def __init__(self) -> None:
        self.config = transformers.WhisperConfig(num_mel_bins=16)

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor, input_features: torch.Tensor) -> None: ...


def test_the_feature_extractor_beside_an_image_processor() -> None:
    model: Any = TakesImagesAndAudio()
    images: Any = SimpleNamespace()
    tokenizer = make_tokenizer("llama", 128, 2, "<unk>")
    found: Any = complete_preprocessor(model, Preprocessors(tokenizer, image_processor=images))
    assert found.tokenizer is tokenizer
    assert found.image_processor is images
    assert isinstance(found.feature_extractor, transformers.FeatureExtractionMixin)


def _words() -> dict[str, int]:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters, *(f"Ġ{letter}" for letter in letters)]
    return {name: index for index, name in enumerate(names)}


TAGS = {"html": 0, "body": 1, "p": 2}
MORE_THAN_TEXTS = {
    "MarkupLMModel": lambda: transformers.MarkupLMTokenizer(tags_dict=TAGS, vocab=_words(), merges=[]),
    "LayoutLMv3Model": lambda: transformers.LayoutLMv3Tokenizer(vocab=_words(), merges=[]),
    "UdopModel": transformers.UdopTokenizer,
}


@pytest.mark.parametrize("name", MORE_THAN_TEXTS)
def test_a_tokenizer_that_takes_more_than_texts_makes_no_dummy_inputs(name: str) -> None:
    tokenizer = MORE_THAN_TEXTS[name]()
    with torch.device("meta"):
        model = getattr(transformers, name)(getattr(transformers, name).config_class())
    alone: Any = complete_preprocessor(model, tokenizer)
    processor: Any = SimpleNamespace(tokenizer=tokenizer, image_processor=SimpleNamespace())
    together: Any = complete_preprocessor(model, processor)
    for found in (getattr(alone, "tokenizer", alone), together.tokenizer):
        assert found(["3 4"])["input_ids"]
    assert together.image_processor is processor.image_processor


def test_a_checkpoint_with_such_a_tokenizer_is_exported(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.MarkupLMConfig(vocab_size=60, **sizes, max_depth=4, xpath_unit_hidden_size=4)
    transformers.MarkupLMForTokenClassification(config).save_pretrained(tmp_path / "model")
    MORE_THAN_TEXTS["MarkupLMModel"]().save_pretrained(tmp_path / "model")
    manifest = onnxport.export(tmp_path / "model", tmp_path / "out").manifest
    assert manifest.validation["status"] == "passed"
    names = {tensor.name for tensor in manifest.components[0].inputs}
    assert names == {"input_ids", "attention_mask", "token_type_ids", "xpath_tags_seq", "xpath_subs_seq"}


class Codec(transformers.PreTrainedConfig):
    """As WavTokenizer's: each configuration has one of its encoder, which has the same fields."""

    @property
    def encoder_config(self) -> Codec:
        return CodecEncoder()


class CodecEncoder(Codec):
    """The encoder's configuration, which has one of an encoder, too."""


def test_a_configuration_that_contains_itself_is_one() -> None:
    assert [type(part) for part in sub_configs(Codec(), ("encoder_config",))] == [CodecEncoder]
