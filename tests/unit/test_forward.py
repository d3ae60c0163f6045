"""The parameters of a forward: what they are, and by which rule a graph leaves them out."""

from __future__ import annotations

import pytest
import torch
import transformers

from onnxport._transformers_api import cache_name
from onnxport.description.forward import NO_TOKEN_TYPES, NOT_DESCRIBED, forward_parameters, left_out
from onnxport.description.tasks import canonical_task


def reasons(name: str, task: str, inputs: list[str], **arguments: object) -> dict[str, str]:
    model_class = getattr(transformers, name)
    sizes = {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    config = model_class.config_class(**{**sizes, "vocab_size": 9, **arguments})
    return left_out(model_class(config), canonical_task(task), inputs)


def test_kinds_and_shapes_are_those_of_the_documentation() -> None:
    parameters = forward_parameters(transformers.LayoutLMForQuestionAnswering)
    assert (parameters["bbox"].kind, parameters["bbox"].shape) == ("tensor", ("batch_size", "sequence_length", "4"))
    causal = forward_parameters(transformers.LlamaForCausalLM)
    kinds = {name: causal[name].kind for name in (cache_name(), "use_cache", "logits_to_keep", "labels")}
    assert kinds == {cache_name(): "cache", "use_cache": "flag", "logits_to_keep": "flag", "labels": "tensor"}
    assert forward_parameters(transformers.DetrForObjectDetection)["labels"].kind == "collection"


def test_a_shape_may_be_in_the_description() -> None:
    parameters = forward_parameters(transformers.EvollaModel)
    assert parameters["protein_input_ids"].shape == ("batch_size", "protein_seq_length")


def test_axes_have_one_name() -> None:
    assert "sequence_length" in forward_parameters(transformers.PatchTSMixerModel)["past_values"].shape


def test_what_the_documentation_calls_unused_is_left_out() -> None:
    assert forward_parameters(transformers.VoxtralEncoder)["attention_mask"].is_ignored
    assert not forward_parameters(transformers.BertModel)["attention_mask"].is_ignored


@pytest.mark.parametrize(
    ("name", "task", "inputs", "arguments", "parameter", "reason"),
    [
        ("BertForMaskedLM", "fill-mask", ["input_ids"], {}, "labels", "for training"),
        ("BertForMaskedLM", "fill-mask", ["input_ids"], {}, "inputs_embeds", "computed from the other inputs"),
        ("BertForMaskedLM", "fill-mask", ["input_ids"], {}, "position_ids", "counted from the other inputs"),
        (
            "BertForMaskedLM",
            "fill-mask",
            ["input_ids"],
            {},
            "encoder_hidden_states",
            "the export has no encoder that computes it",
        ),
        ("BertForMaskedLM", "fill-mask", ["input_ids"], {}, "token_type_ids", NOT_DESCRIBED),
        (
            *("BertForMaskedLM", "fill-mask", ["input_ids"]),
            *({"type_vocab_size": 1}, "token_type_ids", "the model has no embeddings of several token types"),
        ),
        (
            *("LlamaForCausalLM", "text-generation", ["input_ids"]),
            *({}, cache_name(), "a cache: text-generation-with-past has it"),
        ),
        (
            *("LlamaForCausalLM", "text-generation", ["input_ids"]),
            *({}, "logits_to_keep", "an option of forward: the graph has its value 0"),
        ),
        (
            *("GPT2LMHeadModel", "text-generation", ["input_ids"]),
            *({}, "token_type_ids", NO_TOKEN_TYPES),
        ),
        (
            *("PerceiverForImageClassificationLearned", "image-classification", ["inputs"], {}, "attention_mask"),
            "it would mask patches of images or spectrograms, of which preprocessors pad none",
        ),
        ("PerceiverForMaskedLM", "fill-mask", ["inputs"], {}, "attention_mask", NOT_DESCRIBED),
        ("LayoutLMForQuestionAnswering", "document-question-answering", ["input_ids"], {}, "bbox", NOT_DESCRIBED),
        (
            *("LlamaModel", "feature-extraction", ["inputs_embeds", "attention_mask"]),
            *({}, "input_ids", "the model takes inputs_embeds instead"),
        ),
    ],
)
def test_rules(
    name: str, task: str, inputs: list[str], arguments: dict[str, object], parameter: str, reason: str
) -> None:
    assert reasons(name, task, inputs, **arguments)[parameter] == reason


def test_images_need_a_vision_encoder() -> None:
    config = transformers.EmbeddingGemma2Config(text_config={"num_hidden_layers": 1, "hidden_size": 8, "vocab_size": 9})
    with torch.device("meta"):
        model = transformers.EmbeddingGemma2Model(config)
    found = left_out(model, canonical_task("feature-extraction"), ["input_ids", "attention_mask"])
    assert found["image_position_ids"] == found["pixel_values"] == "the configuration has no vision encoder"


def test_an_encoder_takes_one_of_three_names() -> None:
    encoder = transformers.Wav2Vec2Config(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        conv_dim=[8] * 7,
        num_conv_pos_embedding_groups=2,
    )
    decoder = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    config = transformers.SpeechEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model = transformers.SpeechEncoderDecoderModel(config)
    found = left_out(model, canonical_task("automatic-speech-recognition"), ["input_values", "input_ids"])
    assert found["inputs"] == found["input_features"] == "another name of input_values"
    assert found["attention_mask"].startswith("Transformers advises against it")


def test_inputs_and_the_cache_of_a_graph_are_not_left_out() -> None:
    inputs = ["input_ids", "attention_mask", "position_ids", "past_key_values.0.key", "past_key_values.0.value"]
    found = reasons("LlamaForCausalLM", "text-generation-with-past", inputs)
    assert not {"input_ids", "attention_mask", "position_ids", cache_name()} & found.keys()
    assert NOT_DESCRIBED not in found.values()
