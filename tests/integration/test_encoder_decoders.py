"""Encoder-decoders become an encoder and one decoder, which generate the same tokens as PyTorch."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import onnxport
from conformance.checkpoints import make_checkpoint, randomize
from conformance.matrix.tiny import checkpoint_of
from onnxport import ExportOptions
from onnxport.description.dummy_inputs import placeholder_token_id
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime.directory import Directory
from onnxport.runtime.light import LightModel
from tests.breadth import sampled

TOKENS = 64
TEXT = "text2text-generation-with-past"
SPEECH = "automatic-speech-recognition-with-past"
IMAGE = "image-to-text-with-past"
CASES = {
    "bart": ("seq2seq-lm", TEXT),
    "blenderbot": ("seq2seq-lm", TEXT),
    "blenderbot-small": ("seq2seq-lm", TEXT),
    "bigbird-pegasus": ("seq2seq-lm", TEXT),
    "longt5": ("seq2seq-lm", TEXT),
    "m2m-100": ("seq2seq-lm", TEXT),
    "marian": ("seq2seq-lm", TEXT),
    "mbart": ("seq2seq-lm", TEXT),
    "mt5": ("seq2seq-lm", TEXT),
    "t5": ("seq2seq-lm", TEXT),
    "whisper": ("speech2seq-lm", SPEECH),
    "vision-encoder-decoder": ("vision2seq-lm", IMAGE),
}
EVERY_TIME = ("bart", "t5", "whisper")
ENCODERS = {SPEECH: "input_features", IMAGE: "pixel_values", TEXT: "input_ids"}


def original(checkpoint: Path) -> Any:
    name = json.loads((checkpoint / "config.json").read_text())["architectures"][0]
    return getattr(transformers, name).from_pretrained(checkpoint).eval()


def inputs_for(model: Any, graph: Any, batch: int) -> dict[str, torch.Tensor]:
    """Return encoder inputs; all sequences of token ids except the first are padded."""
    generator = torch.Generator().manual_seed(batch)
    place = next(iter(graph.inputs.values()))
    if place.name not in ("input_ids", "attention_mask"):
        shape = [
            axis if isinstance(axis, int) else size
            for axis, size in zip(place.axes, _sizes(model, place.name, batch), strict=True)
        ]
        return {place.name: torch.randn(shape, generator=generator)}
    vocabulary = model.config.vocab_size
    ids = torch.randint(5, vocabulary, (batch, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1:, -3:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _sizes(model: Any, name: str, batch: int) -> list[int]:
    if name == "pixel_values":
        side = model.config.encoder.image_size
        return [batch, 3, side, side]
    return [batch, model.config.num_mel_bins, 2 * model.config.max_source_positions]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("encoder-decoders")
    done: dict[str, tuple[Path, Path]] = {}

    def exported(model_type: str) -> tuple[Path, Path]:
        if model_type not in done:
            feature, task = CASES[model_type]
            checkpoint = make_checkpoint(model_type, feature, root / "checkpoints")
            onnxport.export(checkpoint, root / model_type, ExportOptions(task=task))
            done[model_type] = checkpoint, root / model_type
        return done[model_type]

    return exported


@pytest.mark.parametrize("model_type", sampled(CASES, EVERY_TIME))
def test_generated_tokens_equal_pytorchs(model_type: str, export: Any) -> None:
    checkpoint, directory = export(model_type)
    model, ours = original(checkpoint), onnxport.load(directory, threads=1)
    for batch in (1, 3):
        inputs = inputs_for(model, ours.encoder.graph, batch)
        settings = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False, "num_beams": 1}
        if model.generation_config.decoder_start_token_id is None:
            settings["decoder_start_token_id"] = 2
        limit = getattr(model.config, "max_target_positions", None) or 10_000
        if limit <= TOKENS:
            settings |= {"max_new_tokens": limit - 8, "min_new_tokens": limit - 8}
        expected = model.generate(**inputs, **settings)
        assert torch.equal(ours.generate(**inputs, **settings), expected)


_SEQ2SEQ: dict[str, Any] = {
    **{"vocab_size": 99, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2},
    **{"d_model": 32, "encoder_layers": 3, "decoder_layers": 3, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4},
}
_LED = {"max_encoder_position_embeddings": 256, "max_decoder_position_embeddings": 256, "attention_window": [8, 4, 8]}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "windowed and global attention": ("LEDConfig", {**_SEQ2SEQ, **_LED}),
    "block attention and global tokens": ("PegasusXConfig", {**_SEQ2SEQ, "num_global_tokens": 4, "block_size": 8}),
    "an encoder module with sequence first": (
        "FSMTConfig",
        {**_SEQ2SEQ, "langs": ["en", "de"], "src_vocab_size": 99, "tgt_vocab_size": 99, "max_position_embeddings": 256},
    ),
    "n-gram prediction streams": (
        "ProphetNetConfig",
        {
            **{name: value for name, value in _SEQ2SEQ.items() if not name.endswith(("_layers", "_heads", "d_model"))},
            **{"hidden_size": 32, "num_encoder_layers": 3, "num_decoder_layers": 3, "max_position_embeddings": 256},
            **{"num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4},
            **{"relative_max_distance": 20, "num_buckets": 8},
        },
    ),
    "experts in a loop": (
        "NllbMoeConfig",
        {**_SEQ2SEQ, "num_experts": 4, "encoder_sparse_step": 2, "decoder_sparse_step": 2},
    ),
}


WINDOWS, STREAMS, EXPERTS = (
    "windowed and global attention",
    "n-gram prediction streams",
    "experts in a loop",
)


def test_a_decoder_mask_that_the_graph_lacks_is_an_error(export: Any) -> None:
    ours = onnxport.load(export("t5")[1])
    ids = torch.tensor([[5, 6, 7], [5, 6, 0]])
    logits = ours(input_ids=ids, decoder_input_ids=ids)["logits"]
    after = ours(input_ids=ids, decoder_input_ids=ids, decoder_attention_mask=torch.tensor([[1, 1, 1], [1, 1, 0]]))
    assert torch.equal(after["logits"], logits)
    with pytest.raises(OptionError, match="decoder_attention_mask masks a token before others"):
        ours(input_ids=ids, decoder_input_ids=ids, decoder_attention_mask=torch.tensor([[1, 1, 1], [1, 0, 1]]))


@pytest.mark.wide
@pytest.mark.parametrize("case", OTHERS)
def test_other_architectures_generate_pytorchs_tokens(case: str, tmp_path: Path) -> None:
    name, arguments = OTHERS[case]
    torch.manual_seed(0)
    initial = transformers.AutoModelForSeq2SeqLM.from_config(getattr(transformers, name)(**arguments))
    randomize(initial)
    initial.save_pretrained(tmp_path / "checkpoint")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "checkpoint").eval()
    onnxport.export(tmp_path / "checkpoint", tmp_path / "out", ExportOptions(task=TEXT))
    ours = onnxport.load(tmp_path / "out", threads=1)
    for batch in (1, 3):
        ids = torch.randint(5, 99, (batch, 43), generator=torch.Generator().manual_seed(batch))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        inputs["attention_mask"][1:, -5:] = 0
        if name == "LEDConfig":
            inputs["global_attention_mask"] = torch.zeros_like(ids)
            inputs["global_attention_mask"][:, [0, 20]] = 1
        settings = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False, "num_beams": 1}
        assert torch.equal(ours.generate(**inputs, **settings), model.generate(**inputs, **settings))


@pytest.mark.wide
@pytest.mark.parametrize("case", OTHERS)
def test_other_models_are_exported_as_one_graph(case: str, tmp_path: Path) -> None:
    name, arguments = OTHERS[case]
    initial = transformers.AutoModelForSeq2SeqLM.from_config(getattr(transformers, name)(**arguments))
    initial.save_pretrained(tmp_path / "checkpoint")
    result = onnxport.export(tmp_path / "checkpoint", tmp_path / "out", ExportOptions(past=False))
    assert result.manifest.validation["status"] == "passed"
    assert result.manifest.components[0].parameters >= sum(p.numel() for p in initial.parameters() if p.requires_grad)
    assert "decoder_input_ids" in [tensor.name for tensor in result.manifest.components[0].inputs]


@pytest.mark.wide
@pytest.mark.parametrize("case", sampled((WINDOWS, EXPERTS, "clamped values"), ("clamped values",)))
def test_half_precision_is_clamped_in_the_graph(case: str, tmp_path: Path) -> None:
    name, arguments = OTHERS.get(case, ("MarianConfig", {**_SEQ2SEQ, "max_position_embeddings": 64}))
    torch.manual_seed(0)
    initial = transformers.AutoModelForSeq2SeqLM.from_config(getattr(transformers, name)(**arguments))
    initial.save_pretrained(tmp_path / "checkpoint")
    options = ExportOptions(task=TEXT, dtype="fp16")
    result = onnxport.export(tmp_path / "checkpoint", tmp_path / "out", options)
    assert result.manifest.validation["status"] == "passed"
    assert not any("in memory" in note for component in result.manifest.components for note in component.notes)


@pytest.mark.wide
@pytest.mark.parametrize("name", ("florence2", "t5gemma2"))
def test_an_encoder_of_a_prompt_takes_its_image(name: str, tmp_path: Path) -> None:
    checkpoint, _ = checkpoint_of(name, IMAGE, tmp_path / "checkpoints")
    model = original(checkpoint)
    manifest = onnxport.export(checkpoint, tmp_path / "out", ExportOptions(task=IMAGE)).manifest
    encoder, decoder = manifest.components
    assert {"input_ids", "attention_mask", "pixel_values"} == {spec.name for spec in encoder.inputs}
    assert "pixel_values" not in {spec.name for spec in decoder.inputs}
    (images,) = (spec for spec in encoder.inputs if spec.name == "pixel_values")
    ours, token = onnxport.load(tmp_path / "out"), placeholder_token_id(model.config, "image")
    for batch in (1, 3):
        torch.manual_seed(batch)
        pixels = torch.randn(batch, *(axis if isinstance(axis, int) else 64 for axis in images.axes[1:]))
        count = model.get_image_features(pixels).pooler_output.shape[1]
        ids = torch.randint(5, 60, (batch, 9 + count))
        ids[:, 2 : 2 + count] = token
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
        settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "num_beams": 1}
        assert torch.equal(ours.generate(**inputs, **settings), model.generate(**inputs, **settings))
        with torch.no_grad():
            expected = model(**inputs, decoder_input_ids=ids[:, :2]).logits
        torch.testing.assert_close(ours(**inputs, decoder_input_ids=ids[:, :2]).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["florence2", pytest.param("t5gemma2", marks=pytest.mark.wide)])
def test_an_encoder_of_a_prompt_with_its_image_encoder_apart(name: str, tmp_path: Path) -> None:
    checkpoint, _ = checkpoint_of(name, IMAGE, tmp_path / "checkpoints")
    model = original(checkpoint)
    manifest = onnxport.export(checkpoint, tmp_path / "out", ExportOptions(task=IMAGE, split_encoders=True)).manifest
    inputs = {item.name: {spec.name for spec in item.inputs} for item in manifest.components}
    assert list(inputs) == ["vision_encoder", "embed_tokens", "encoder_model", "decoder_model_merged"]
    assert inputs["encoder_model"] == {"inputs_embeds", "attention_mask"}
    assert {"inputs_embeds", "encoder_hidden_states"} < inputs["decoder_model_merged"]
    assert "input_ids" not in inputs["decoder_model_merged"]
    ours, token = onnxport.load(tmp_path / "out"), placeholder_token_id(model.config, "image")
    torch.manual_seed(0)
    shapes = {spec.name: spec.axes for item in manifest.components for spec in item.inputs}
    pixels = torch.randn(2, *(axis if isinstance(axis, int) else 64 for axis in shapes["pixel_values"][1:]))
    count = model.get_image_features(pixels).pooler_output.shape[1]
    ids = torch.randint(5, 60, (2, 9 + count))
    ids[:, 2 : 2 + count] = token
    prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    for settings in ({}, {"num_beams": 2}):
        settings |= {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
        assert torch.equal(ours.generate(**prompt, **settings), model.generate(**prompt, **settings))
    with torch.no_grad():
        expected = model(**prompt, decoder_input_ids=ids[:, :2]).logits
    torch.testing.assert_close(ours(**prompt, decoder_input_ids=ids[:, :2]).logits, expected, atol=1e-4, rtol=1e-4)
    light = LightModel(Directory(tmp_path / "out"))
    arrays = {key: value.numpy() for key, value in prompt.items()}
    assert light.generate(arrays, max_new_tokens=6).tolist() == model.generate(**prompt, max_new_tokens=6).tolist()
    with pytest.raises(OptionError, match="input_ids are missing"):
        ours(pixel_values=pixels, decoder_input_ids=ids[:, :2])


@pytest.mark.wide
def test_padding_of_a_prompt_for_an_image_is_masked(tmp_path: Path) -> None:
    checkpoint, _ = checkpoint_of("blip", "image-to-text", tmp_path / "checkpoints")
    onnxport.export(checkpoint, tmp_path / "out", ExportOptions(task=IMAGE, validate="none"))
    ours, model = onnxport.load(tmp_path / "out"), original(checkpoint)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *(2 * [model.config.vision_config.image_size]), generator=generator)
    tokens = torch.randint(5, 40, (2, 6), generator=generator)
    mask = torch.tensor([[1] * 6, [0] * 2 + [1] * 4])
    with torch.no_grad():
        expected = model(pixel_values=images, input_ids=tokens, attention_mask=mask).logits
    found = ours(pixel_values=images, decoder_input_ids=tokens, decoder_attention_mask=mask).logits
    torch.testing.assert_close(found[mask == 1], expected[mask == 1], rtol=0, atol=1e-4)


@pytest.mark.wide
def test_captions_begin_and_end_as_those_of_the_original(tmp_path: Path) -> None:
    checkpoint, _ = checkpoint_of("blip", "image-to-text", tmp_path / "checkpoints")
    file = checkpoint / "config.json"
    config = json.loads(file.read_text())
    model = original(checkpoint)
    size = model.config.vision_config.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    often = model.generate(pixel_values=images, max_new_tokens=3)[0, -1].item()
    config["text_config"]["sep_token_id"] = often
    file.write_text(json.dumps(config))
    onnxport.export(checkpoint, tmp_path / "out", ExportOptions(task=IMAGE, validate="none", stamping=False))
    model, ours = original(checkpoint), onnxport.load(tmp_path / "out")
    prompt = {"input_ids": torch.tensor([[5, 7, 9, 3], [5, 8, 10, 3]]), "attention_mask": torch.ones(2, 4).long()}
    for settings in ({}, prompt, {"num_beams": 2}):
        calls = [{"pixel_values": images, "max_new_tokens": 8} | copy.deepcopy(settings) for _ in range(2)]
        expected = model.generate(**calls[0])  # which replaces tokens of the prompt
        assert ours.generate(**calls[1]).tolist() == expected.tolist()
    expected = model.generate(pixel_values=images, max_new_tokens=8)
    assert expected.shape[1] < 9
    light = LightModel(Directory(tmp_path / "out"))
    assert light.generate({"pixel_values": images.numpy()}, max_new_tokens=8).tolist() == expected.tolist()


@pytest.mark.wide
def test_a_translator_takes_the_target_language(tmp_path: Path) -> None:
    checkpoint, _ = checkpoint_of("seamless_m4t", "text2text-generation", tmp_path)
    onnxport.export(checkpoint, tmp_path / "out", ExportOptions(task=TEXT, validate="none", stamping=False))
    model, ours = original(checkpoint), onnxport.load(tmp_path / "out")
    for each in (model, ours):
        each.generation_config.text_decoder_lang_to_code_id = {"eng": 11, "fra": 12}
    inputs = {"input_ids": torch.tensor([[5, 7, 9, 11, 3], [5, 8, 10, 12, 3]]), "max_new_tokens": 6}
    for settings in ({"tgt_lang": "fra"}, {"tgt_lang": "__eng__", "num_beams": 2}):
        expected = model.generate(**inputs, **settings)
        assert ours.generate(**inputs, **settings).tolist() == expected.tolist()
    with pytest.raises(OptionError, match=r"tgt_lang 'de' isn't among .*choose one of eng, fra"):
        ours.generate(**inputs, tgt_lang="de")


@pytest.mark.wide
def test_global_blocks_of_texts_of_any_length(tmp_path: Path) -> None:
    config = transformers.LongT5Config(
        vocab_size=99, d_model=32, d_kv=16, d_ff=48, num_layers=1, num_heads=2, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0, encoder_attention_type="transient-global",
    )  # fmt: skip
    model = transformers.LongT5ForConditionalGeneration(config)
    randomize(model)
    model.save_pretrained(tmp_path / "checkpoint")
    options = ExportOptions(validate="none", stamping=False)
    manifest = onnxport.export(tmp_path / "checkpoint", tmp_path / "out", options).manifest
    assert not manifest.components[0].max_sizes
    model, ours = original(tmp_path / "checkpoint"), onnxport.load(tmp_path / "out")
    for length in (7, 15, 16, 40, 300):
        ids = torch.randint(2, 99, (2, length), generator=torch.Generator().manual_seed(0))
        mask = torch.ones_like(ids)
        mask[1, length // 2 :] = 0
        with torch.no_grad():
            expected = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        found = ours.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_transducer_has_no_cache(tmp_path: Path) -> None:
    checkpoint, _ = checkpoint_of("parakeet_tdt", "automatic-speech-recognition", tmp_path)
    with pytest.raises(UnsupportedError, match=r"ParakeetForTDT can't be exported with past.*without -with-past"):
        onnxport.export(checkpoint, tmp_path / "out", ExportOptions(task="automatic-speech-recognition-with-past"))


def test_the_encoder_alone(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("bart", "seq2seq-lm-with-past", tmp_path)
    manifest = onnxport.export(checkpoint, tmp_path / "out", ExportOptions(task="text-encoding")).manifest
    (component,) = manifest.components
    assert [tensor.name for tensor in component.inputs] == ["input_ids", "attention_mask"]
    assert [tensor.name for tensor in component.outputs] == ["last_hidden_state"]
    assert not any(name.startswith("decoder_") for name in manifest.left_out)
    ids = torch.randint(5, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = original(checkpoint).get_encoder()(ids).last_hidden_state
    found = onnxport.load(tmp_path / "out")(input_ids=ids).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
