"""`--inputs-embeds`: graphs that take embeddings instead of token ids, and the token embeddings beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import onnxport
from conformance.checkpoints import make_checkpoint, randomize
from conformance.preprocessors import make_tokenizer
from onnxport import ExportOptions
from onnxport.architectures.describe import describe
from onnxport.cli import main
from onnxport.description.examples import Examples
from onnxport.description.signature import signature_of
from onnxport.description.tasks import canonical_task
from onnxport.errors import OptionError, UnsupportedError
from onnxport.options import GraphOptions
from onnxport.runtime.directory import Directory
from onnxport.runtime.light import LightModel
from onnxport.tracing.originals import run_tensors
from tests.integration.tiny_models import exported, image_text_model

IDS = torch.randint(5, 50, (2, 7), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1] * 7, [0] * 3 + [1] * 4])


def inputs_of(manifest: onnxport.Manifest) -> dict[str, list[str]]:
    return {
        component.name: [tensor.name for tensor in component.inputs if "past" not in tensor.name]
        for component in manifest.components
    }


def embedded(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.get_input_embeddings()(IDS)


def test_an_encoder_takes_either(bert: Path, tmp_path: Path) -> None:
    manifest = onnxport.export(bert, tmp_path / "out", ExportOptions(inputs_embeds=True)).manifest
    assert inputs_of(manifest) == {
        "embed_tokens": ["input_ids"],
        "model": ["inputs_embeds", "attention_mask", "token_type_ids"],
    }
    axes = {tensor.name: tensor.axes for component in manifest.components for tensor in component.inputs}
    assert axes["inputs_embeds"] == ("batch_size", "sequence_length", 32)
    assert manifest.validation["status"] == "passed"
    assert {case["component"] for case in manifest.validation["cases"]} == {"embed_tokens", "model", "load"}
    assert onnxport.validate(tmp_path / "out").status == "passed"
    original = transformers.AutoModelForMaskedLM.from_pretrained(bert).eval()
    ours, embeds = onnxport.load(tmp_path / "out"), embedded(original) + 1
    with torch.no_grad():
        torch.testing.assert_close(
            ours(inputs_embeds=embeds).logits, original(inputs_embeds=embeds).logits, atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(ours(IDS).logits, original(IDS).logits, atol=1e-4, rtol=1e-4)
    light = LightModel(Directory(tmp_path / "out"))
    np.testing.assert_allclose(light(input_ids=IDS.numpy())["logits"], ours(input_ids=IDS).logits, atol=1e-6)
    with pytest.raises(OptionError, match="input_ids and inputs_embeds are both passed"):
        ours(input_ids=IDS, inputs_embeds=embeds)


def test_a_decoder_generates_from_either(gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = onnxport.export(gpt2, tmp_path / "out", ExportOptions(inputs_embeds=True)).manifest
    expected = {
        "embed_tokens": ["input_ids"],
        "decoder_model_merged": ["inputs_embeds", "attention_mask", "position_ids"],
    }
    assert inputs_of(manifest) == expected
    assert "32 tokens, padded batch" in {case["name"] for case in manifest.validation["cases"]}
    original = transformers.AutoModelForCausalLM.from_pretrained(gpt2).eval()
    ours, light = onnxport.load(tmp_path / "out"), LightModel(Directory(tmp_path / "out"))
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
    for inputs in ({"input_ids": IDS}, {"inputs_embeds": embedded(original)}):
        inputs = {**inputs, "attention_mask": MASK}
        for beams in ({}, {"num_beams": 3}):
            assert torch.equal(
                ours.generate(**inputs, **settings, **beams), original.generate(**inputs, **settings, **beams)
            )
        arrays = {name: value.numpy() for name, value in inputs.items()}
        np.testing.assert_array_equal(light.generate(arrays, max_new_tokens=6), original.generate(**inputs, **settings))
    with pytest.raises(OptionError, match="pass either input_ids"):
        ours(input_ids=IDS, inputs_embeds=embedded(original))
    assert main(["run", str(tmp_path / "out"), "--input-ids", "5,6,7", "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out.strip()


RECURRENT: dict[str, dict[str, Any]] = {
    "Rwkv": {"num_hidden_layers": 2, "context_length": 64},
    "RecurrentGemma": {"num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "lru_width": 32},
}


@pytest.mark.parametrize("name", RECURRENT)
def test_originals_that_run_token_by_token_take_embeddings(name: str) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(hidden_size=32, vocab_size=99, **RECURRENT[name])
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    tokenizer = make_tokenizer("bart", 99, 2, "<unk>", token_type_ids=False)
    results, flat = [], {}
    for takes_embeds in (False, True):
        options = GraphOptions(inputs_embeds=takes_embeds)
        components = describe(model, canonical_task("text-generation-with-past"), tokenizer, options)
        described = components[-1].config
        examples = Examples(described, signature_of(described).today(), tokenizer)
        layout = examples.at()
        if takes_embeds:
            embeds = components[0].config.run(model, {"input_ids": flat["input_ids"]})
            layout.flat = {key: {**flat, **embeds}[key] for key in layout.flat}
        flat = layout.flat
        results.append(run_tensors(model, examples, layout)["logits"])
    torch.testing.assert_close(*results)


def test_the_last_logits_alone(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 1}
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, vocab_size=99, max_position_embeddings=128))
    model.save_pretrained(tmp_path / "checkpoint")
    make_tokenizer("bart", 99, 2, "<unk>", token_type_ids=False).save_pretrained(tmp_path / "checkpoint")
    options = ExportOptions(inputs_embeds=True, last_logits=True, stamping=False)
    validation = onnxport.export(tmp_path / "checkpoint", tmp_path / "out", options).manifest.validation
    (case,) = (case for case in validation["cases"] if case["component"] == "load")
    assert case["outputs"][0]["passed"]


def test_embeddings_need_a_cache_to_generate(gpt2: Path, tmp_path: Path) -> None:
    options = ExportOptions(inputs_embeds=True, past=False, validate="none")
    onnxport.export(gpt2, tmp_path / "out", options)
    ours, light = onnxport.load(tmp_path / "out"), LightModel(Directory(tmp_path / "out"))
    embeds = embedded(transformers.AutoModelForCausalLM.from_pretrained(gpt2))
    assert ours.generate(IDS, max_new_tokens=2, do_sample=False).shape == (2, 9)
    with pytest.raises(UnsupportedError, match="needs a cache"):
        ours.generate(inputs_embeds=embeds, max_new_tokens=2)
    with pytest.raises(UnsupportedError, match="needs a cache"):
        light.generate({"inputs_embeds": embeds.numpy()}, max_new_tokens=2)


@pytest.mark.wide
def test_the_encoder_of_an_encoder_decoder(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("t5", "seq2seq-lm-with-past", tmp_path)
    manifest = onnxport.export(checkpoint, tmp_path / "out", ExportOptions(inputs_embeds=True)).manifest
    found = inputs_of(manifest)
    assert list(found) == ["embed_tokens", "encoder_model", "decoder_model_merged"]
    assert (found["encoder_model"][0], "input_ids" in found["decoder_model_merged"]) == ("inputs_embeds", True)
    original = transformers.AutoModelForSeq2SeqLM.from_pretrained(checkpoint).eval()
    ours, light = onnxport.load(tmp_path / "out"), LightModel(Directory(tmp_path / "out"))
    for inputs in ({"input_ids": IDS}, {"inputs_embeds": embedded(original)}):
        expected = original.generate(**inputs, decoder_start_token_id=0, max_new_tokens=6, do_sample=False)
        assert torch.equal(ours.generate(**inputs, decoder_start_token_id=0, max_new_tokens=6), expected)
        arrays = {name: value.numpy() for name, value in inputs.items()}
        np.testing.assert_array_equal(light.generate(arrays, max_new_tokens=6), expected)


def test_embeddings_that_forward_scales(tmp_path: Path) -> None:
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 37, "decoder_ffn_dim": 37}
    sizes |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "vocab_size": 99, "pad_token_id": 1}
    config = transformers.PegasusConfig(**sizes, scale_embedding=True, max_position_embeddings=64)
    torch.manual_seed(0)
    model = transformers.PegasusForConditionalGeneration(config)
    randomize(model)
    model.save_pretrained(tmp_path / "checkpoint")
    make_tokenizer("bart", 99, 2, "<unk>", token_type_ids=False).save_pretrained(tmp_path / "checkpoint")
    onnxport.export(tmp_path / "checkpoint", tmp_path / "out", ExportOptions(inputs_embeds=True, stamping=False))
    embeds = LightModel(Directory(tmp_path / "out")).directory.graph("encoder_model").embedding
    expected = embedded(model.get_encoder()) * 32**0.5
    np.testing.assert_allclose(embeds.embed(IDS.numpy()), expected, rtol=1e-5)


@pytest.mark.wide
def test_a_multimodal_decoder_takes_them_as_it_is(tmp_path: Path) -> None:
    checkpoint = image_text_model(tmp_path, "Llava")
    original = transformers.AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    ours = onnxport.load(exported(checkpoint, "image-to-text-with-past"))
    settings: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
    embeds = embedded(original)
    assert torch.equal(
        ours.generate(inputs_embeds=embeds, **settings), original.generate(inputs_embeds=embeds, **settings)
    )
    with pytest.raises(OptionError, match="pixel_values is passed with inputs_embeds, which have no placeholder"):
        ours(inputs_embeds=embeds, pixel_values=torch.zeros(2, 3, 32, 32))


def test_padding_on_the_left_of_a_model_that_counts_token_ids(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("roberta", "default", tmp_path)
    onnxport.export(checkpoint, tmp_path / "out", ExportOptions(inputs_embeds=True))
    original = transformers.AutoModel.from_pretrained(checkpoint).eval()
    ours, ids, mask = onnxport.load(tmp_path / "out"), IDS.clone(), MASK.flip(-1)
    ids[mask == 0] = original.config.pad_token_id
    with torch.no_grad():
        expected = original(ids, attention_mask=mask).last_hidden_state
    found = ours(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(found[mask == 1], expected[mask == 1], atol=1e-4, rtol=1e-4)
    with pytest.raises(OptionError, match="padding before tokens"):
        ours(input_ids=ids.flip(-1), attention_mask=MASK)


@pytest.mark.parametrize(
    ("model_type", "feature", "message"),
    [
        ("whisper", "speech2seq-lm-with-past", "no graph whose token ids inputs_embeds could replace"),
        ("clip", "default", "CLIPModel doesn't run with inputs_embeds"),
        ("vit", "image-classification", "no graph whose token ids"),
    ],
)
def test_models_without_them_are_refused(model_type: str, feature: str, message: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(model_type, feature, tmp_path)
    with pytest.raises(UnsupportedError, match=message):
        onnxport.export(checkpoint, tmp_path / "out", ExportOptions(task=feature, inputs_embeds=True))


def test_a_description_of_one_graph_contradicts_it() -> None:
    with pytest.raises(OptionError, match="--description describes one graph, and --inputs-embeds asks for two"):
        ExportOptions(description="mine.py", inputs_embeds=True)
