"""The base classes make dummy inputs of the requested sizes, with every type of preprocessor, without tracing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BertConfig,
    EfficientLoFTRConfig,
    EfficientLoFTRImageProcessorPil,
    GPT2Config,
    LayoutLMv3Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    T5Config,
    ViTConfig,
    ViTImageProcessor,
    WhisperFeatureExtractor,
    WhisperProcessor,
)
from transformers.utils import TensorType

from onnxport.configs import OnnxConfig, OnnxConfigWithPast, OnnxSeq2SeqConfigWithPast, PatchingSpec
from onnxport.configs.decoders import VisionEncoderDecoderOnnxConfig
from onnxport.configs.text_encoders import LayoutLMv3OnnxConfig


class Encoder(OnnxConfig):
    inputs = property(lambda self: {"input_ids": {0: "batch", 1: "sequence"}})


class AudioEncoder(OnnxConfig):
    inputs = property(lambda self: {"input_features": {0: "batch"}})


class Decoder(OnnxConfigWithPast):
    inputs = property(lambda self: {"input_ids": {0: "batch", 1: "sequence"}})

    @property
    def num_layers(self) -> int:
        return int(self._config.num_hidden_layers)


class EncoderDecoder(OnnxSeq2SeqConfigWithPast):
    inputs = property(lambda self: {"input_ids": {0: "batch", 1: "encoder_sequence"}})


def make_tokenizer(**names: str | None) -> PreTrainedTokenizerFast:
    words = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    known = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **(known | names))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


def shapes(inputs: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in inputs.items() if hasattr(tensor, "shape")}


def test_sequences_have_the_default_sizes(tokenizer: Any) -> None:
    inputs = Encoder(BertConfig()).generate_dummy_inputs(tokenizer, framework="pt")
    assert set(shapes(inputs).values()) == {(2, 8)}
    assert all(tensor.dtype == torch.int64 for tensor in inputs.values())


def test_a_pair_has_the_total_length(tokenizer: Any) -> None:
    inputs = Encoder(BertConfig()).generate_dummy_inputs(tokenizer, seq_length=9, is_pair=True, framework="pt")
    assert inputs["input_ids"].shape == (2, 9)
    assert (inputs["input_ids"][0] == 3).sum() == 2  # [SEP] after each sequence


def test_the_length_is_right_without_an_unknown_token() -> None:
    inputs = Encoder(BertConfig()).generate_dummy_inputs(make_tokenizer(unk_token=None), framework="pt")
    assert inputs["input_ids"].shape == (2, 8)


def test_a_subclass_changes_the_default_sizes(tokenizer: Any) -> None:
    class Larger(Encoder):
        default_fixed_batch = 3
        default_fixed_sequence = 11

    config = Larger(BertConfig())
    assert (config.default_batch_size, config.default_sequence_length) == (3, 11)
    assert shapes(config.generate_dummy_inputs(tokenizer, framework="pt"))["input_ids"] == (3, 11)


@pytest.mark.parametrize(("sizes", "shape"), [({}, (2, 4, 15)), ({"batch_size": 3, "seq_length": 9}, (3, 4, 17))])
def test_multiple_choice_has_pairs_of_sequences(tokenizer: Any, sizes: dict[str, int], shape: tuple[int, ...]) -> None:
    inputs = Encoder(BertConfig(), task="multiple-choice").generate_dummy_inputs(tokenizer, framework="pt", **sizes)
    assert inputs["input_ids"].shape == shape


@pytest.mark.parametrize(
    ("framework", "tensor_class"),
    [(TensorType.PYTORCH, torch.Tensor), ("np", numpy.ndarray), (TensorType.NUMPY, numpy.ndarray), (None, list)],
)
def test_the_framework_determines_the_tensor_type(tokenizer: Any, framework: Any, tensor_class: type) -> None:
    inputs = Encoder(BertConfig()).generate_dummy_inputs(tokenizer, framework=framework)
    assert isinstance(inputs["input_ids"], tensor_class)


def test_tensorflow_is_not_supported(tokenizer: Any) -> None:
    with pytest.raises(NotImplementedError, match="TensorFlow is not in Transformers 5"):
        Encoder(BertConfig()).generate_dummy_inputs(tokenizer, framework="tf")


def test_the_deprecated_tokenizer_works(tokenizer: Any) -> None:
    with pytest.warns(FutureWarning, match="preprocessor"):
        inputs = Encoder(BertConfig()).generate_dummy_inputs(None, tokenizer=tokenizer, framework="pt")
    assert inputs["input_ids"].shape == (2, 8)


def test_tokenizer_and_preprocessor_exclude_each_other(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="You cannot provide both a tokenizer and a preprocessor"):
        Encoder(BertConfig()).generate_dummy_inputs(tokenizer, tokenizer=tokenizer)


def test_another_preprocessor_is_an_error() -> None:
    with pytest.raises(ValueError, match="Unable to generate dummy inputs for the model"):
        Encoder(BertConfig()).generate_dummy_inputs(object())


def test_images_are_sized_by_the_image_processor() -> None:
    processor = ViTImageProcessor(size={"height": 12, "width": 16})
    state = numpy.random.get_state()[1].copy()
    inputs = Encoder(BertConfig()).generate_dummy_inputs(processor, batch_size=3, framework="pt")
    assert inputs["pixel_values"].shape == (3, 3, 12, 16)
    again = Encoder(BertConfig()).generate_dummy_inputs(processor, batch_size=3, framework="pt")
    assert torch.equal(inputs["pixel_values"], again["pixel_values"])
    assert (numpy.random.get_state()[1] == state).all()


def test_another_image_processor_is_an_error() -> None:
    processor = ViTImageProcessor()
    processor.model_input_names = ["patches"]
    with pytest.raises(ValueError, match="expects `model_input_names"):
        Encoder(BertConfig()).generate_dummy_inputs(processor)


def test_audio_has_the_sampling_rate_of_the_feature_extractor() -> None:
    extractor = WhisperFeatureExtractor(feature_size=8)
    inputs = AudioEncoder(BertConfig()).generate_dummy_inputs(extractor, framework="pt")
    assert inputs["input_features"].shape == (2, 8, 3000)


def test_the_component_of_a_processor_that_makes_the_inputs_is_used(tokenizer: Any) -> None:
    whole = WhisperProcessor(WhisperFeatureExtractor(feature_size=8), tokenizer)
    assert "input_ids" in Encoder(BertConfig()).generate_dummy_inputs(whole, framework="pt")
    assert "input_features" in AudioEncoder(BertConfig()).generate_dummy_inputs(whole, framework="pt")


def test_a_hook_makes_the_images() -> None:
    class Black(Encoder):
        def _generate_dummy_images(self, *sizes: Any, **named: Any) -> list[Any]:
            return [numpy.zeros((10, 10, 3), dtype=numpy.uint8)]

    inputs = Black(BertConfig()).generate_dummy_inputs(ViTImageProcessor(), framework="pt")
    assert len(inputs["pixel_values"]) == 1


def test_the_cache_is_two_tokens_longer_than_the_sequence(tokenizer: Any) -> None:
    model = GPT2Config(n_embd=32, n_layer=2, n_head=4)
    inputs = Decoder.with_past(model, task="causal-lm").generate_dummy_inputs(tokenizer, framework="pt")
    assert inputs["attention_mask"].shape == (2, 18)
    assert inputs["attention_mask"].dtype == torch.int64
    assert [tuple(t.shape) for pair in inputs["past_key_values"] for t in pair] == [(2, 4, 10, 8)] * 4
    assert inputs["past_key_values"][0][0].dtype == torch.float32


def test_the_cache_has_the_configurations_heads_and_sizes(tokenizer: Any) -> None:
    model = LlamaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=16)
    inputs = Decoder.with_past(model, task="causal-lm").generate_dummy_inputs(tokenizer, framework="np")
    assert inputs["past_key_values"][0][0].shape == (2, 2, 10, 16)


def test_without_past_there_is_no_cache(tokenizer: Any) -> None:
    config = Decoder.from_model_config(GPT2Config(), task="causal-lm")
    assert "past_key_values" not in config.generate_dummy_inputs(tokenizer, framework="pt")
    assert list(config.outputs) == ["logits"]


def test_no_cache_without_torch(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxport.configs._past.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="Cannot generate dummy past_keys inputs without PyTorch installed"):
        Decoder.with_past(GPT2Config()).generate_dummy_inputs(tokenizer, framework="pt")


def test_the_decoder_has_separate_inputs(tokenizer: Any) -> None:
    model = T5Config(d_model=32, d_kv=8, num_layers=2, num_heads=4)
    inputs = EncoderDecoder(model, task="seq2seq-lm").generate_dummy_inputs(tokenizer, framework="pt")
    assert shapes(inputs) == {
        "input_ids": (2, 8),
        "attention_mask": (2, 8),
        "decoder_input_ids": (2, 8),
        "decoder_attention_mask": (2, 8),
    }


def test_the_cache_has_t5s_d_kv(tokenizer: Any) -> None:
    model = T5Config(d_model=32, d_kv=16, num_layers=1, num_decoder_layers=2, num_heads=3)
    inputs = EncoderDecoder.with_past(model, task="seq2seq-lm").generate_dummy_inputs(tokenizer, framework="pt")
    assert inputs["decoder_input_ids"].shape == (2, 2)  # [CLS] and [SEP]
    assert len(inputs["past_key_values"]) == 2
    assert [tuple(t.shape) for t in inputs["past_key_values"][0]] == [(2, 3, 5, 16)] * 2 + [(2, 3, 8, 16)] * 2


def test_the_decoder_has_a_separate_number_of_heads(tokenizer: Any) -> None:
    model = BartConfig(
        d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=2
    )
    config = EncoderDecoder.with_past(model, task="seq2seq-lm")
    assert config.num_layers == (2, 1)
    assert config.num_attention_heads == (4, 2)
    cache = config.generate_dummy_inputs(tokenizer)["past_key_values"]
    assert len(cache) == 1
    assert {tensor.shape[1] for tensor in cache[0]} == {2}
    assert {tensor.shape[3] for tensor in cache[0]} == {16}


def test_axes_are_named_after_encoder_and_decoder() -> None:
    outputs = EncoderDecoder.with_past(T5Config(num_layers=1), task="default").outputs
    assert outputs["last_hidden_state"] == {0: "batch", 1: "decoder_sequence"}
    assert outputs["present.0.decoder.key"] == {0: "batch", 2: "past_decoder_sequence + sequence"}
    assert outputs["present.0.encoder.value"] == {0: "batch", 2: "past_encoder_sequence"}


def test_outputs_are_a_copy() -> None:
    config = Encoder(BertConfig())
    config.outputs["last_hidden_state"][0] = "changed"  # type: ignore[index]
    assert config.outputs["last_hidden_state"][0] == "batch"


def test_torch_support_depends_on_its_version() -> None:
    from packaging.version import Version

    class Future(Encoder):
        torch_onnx_minimum_version = Version("99")

    assert Encoder(BertConfig()).is_torch_support_available
    assert not Future(BertConfig()).is_torch_support_available


def test_the_wrapper_is_applied_to_original_and_patch() -> None:
    class Target:
        @staticmethod
        def value() -> int:
            return 1

    spec = PatchingSpec(Target, "value", custom_op=lambda: 2, op_wrapper=staticmethod)
    config = Encoder(BertConfig(), patching_specs=[spec])
    config.patch_ops()
    assert Target().value() == 2
    config.restore_ops()
    assert Target().value() == 1


def test_patches_of_one_attribute_are_restored_in_reverse_order() -> None:
    class Target:
        value = 1

    first = PatchingSpec(Target, "value", custom_op=2)  # type: ignore[arg-type]
    second = PatchingSpec(Target, "value", custom_op=3, orig_op=2)  # type: ignore[arg-type]
    config = Encoder(BertConfig(), patching_specs=[first, second])
    config.patch_ops()
    config.restore_ops()
    assert Target.value == 1


def test_apply_ocr_of_a_processor_is_restored() -> None:
    class Tokenizer:
        unk_token = "?"

        def num_special_tokens_to_add(self, pair: bool) -> int:
            return 2

    class Processor:
        image_processor = SimpleNamespace(apply_ocr=True)
        tokenizer = Tokenizer()

        def __call__(self, images: object, **_: object) -> dict[str, object]:
            return {"recognizes": self.image_processor.apply_ocr}

    processor = Processor()
    config = LayoutLMv3OnnxConfig(LayoutLMv3Config())
    assert config.generate_dummy_inputs(processor, framework="np") == {"recognizes": False}
    assert processor.image_processor.apply_ocr


def test_the_configuration_of_a_decoder_is_unchanged() -> None:
    encoder, decoder = ViTConfig(hidden_size=8, num_attention_heads=2), GPT2Config()
    described = VisionEncoderDecoderOnnxConfig(decoder).get_decoder_config(encoder, decoder)
    assert described._config.encoder_hidden_size == 8
    assert not hasattr(decoder, "encoder_hidden_size")


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_matcher_of_keypoints_gets_pairs_of_images(batch_size: int) -> None:
    processor = EfficientLoFTRImageProcessorPil(size={"height": 32, "width": 48})
    config = Encoder(EfficientLoFTRConfig())
    pixels = config.generate_dummy_inputs(processor, batch_size=batch_size, framework="pt")["pixel_values"]
    assert pixels.shape == (batch_size, 2, 3, 32, 48)
