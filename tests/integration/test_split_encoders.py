"""`--split-encoders`: the encoders of dual encoders, SAM, codecs, and encoder-decoders without a head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import onnxport
from conformance.checkpoints import randomize
from conformance.matrix.tiny import checkpoint_of
from conformance.preprocessors import make_tokenizer
from onnxport.cli import main
from onnxport.errors import MissingInputError, OptionError
from onnxport.runtime.directory import Directory
from onnxport.runtime.light import LightModel
from tests.breadth import sampled

SIZES = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**SIZES, "vocab_size": 99, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0}
TEXT |= {"eos_token_id": 2}
VISION = {**SIZES, "image_size": 32, "patch_size": 8}
AUDIO = {
    **{"num_mel_bins": 16, "spec_size": 64, "patch_size": 4, "patch_stride": 4, "window_size": 4, "hidden_size": 32},
    **{"patch_embeds_hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2], "enable_fusion": False},
}
MODELS: dict[str, dict[str, Any]] = {
    "CLIP": {"text_config": TEXT, "vision_config": VISION, "projection_dim": 24},
    "Siglip": {"text_config": {**TEXT, "projection_size": 32}, "vision_config": VISION},
    "ChineseCLIP": {"text_config": TEXT, "vision_config": VISION, "projection_dim": 24},
    "AltCLIP": {"text_config": {**TEXT, "project_dim": 32}, "vision_config": VISION, "projection_dim": 24},
    "Clap": {"text_config": TEXT, "audio_config": AUDIO, "projection_dim": 24},
}


def checkpoint(name: str, directory: Path) -> Any:
    """Write a tiny checkpoint, and return its model."""
    torch.manual_seed(0)
    model_class = getattr(transformers, f"{name}Model")
    model = model_class(model_class.config_class(**MODELS[name])).eval()
    randomize(model)
    model.save_pretrained(directory)
    make_tokenizer("bart", 99, 2, "<unk>", token_type_ids=False).save_pretrained(directory)
    if name == "Clap":
        settings = {
            "feature_size": 16,
            "max_length_s": 1,
            "sampling_rate": 16_000,
            "hop_length": 160,
            "nb_max_samples": 16_000,
        }
        transformers.ClapFeatureExtractor(**settings, truncation="rand_trunc").save_pretrained(directory)
    else:
        size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
        transformers.CLIPImageProcessor(**size).save_pretrained(directory)
    return model


@pytest.mark.parametrize("name", sampled(MODELS, ("CLIP",)))
def test_each_encoder_returns_the_embeddings_of_the_whole_model(name: str, tmp_path: Path) -> None:
    model = checkpoint(name, tmp_path / "checkpoint")
    assert main(["export", str(tmp_path / "checkpoint"), str(tmp_path / "out"), "--split-encoders", "--quiet"]) == 0
    other = "audio_model" if name == "Clap" else "vision_model"
    assert {file.stem for file in (tmp_path / "out").glob("*.onnx")} == {"text_model", other}
    torch.manual_seed(0)
    ids = torch.randint(5, 90, (2, 9))
    ids[:, -1] = 2
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 6:] = 1, 0
    ids[1, 5] = 2
    audio_config = {"input_features": torch.randn(3, 1, 101, 16), "is_longer": torch.zeros(3, 1, dtype=torch.bool)}
    media = audio_config if name == "Clap" else {"pixel_values": torch.randn(3, 3, 32, 32)}
    ours = onnxport.load(tmp_path / "out")
    with torch.no_grad():
        texts = model.get_text_features(ids, mask, return_dict=True).pooler_output
        method = model.get_audio_features if name == "Clap" else model.get_image_features
        others = method(**media, return_dict=True).pooler_output
    outputs = ours(input_ids=ids, attention_mask=mask, **media)
    torch.testing.assert_close(outputs.text_embeds, texts, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(outputs[1], others, atol=1e-5, rtol=1e-4)
    light = LightModel(Directory(tmp_path / "out"))
    alone = light(input_ids=ids.numpy(), attention_mask=mask.numpy())
    assert list(alone) == ["text_embeds"]
    np.testing.assert_array_equal(alone["text_embeds"], outputs.text_embeds.numpy())
    with pytest.raises(OptionError, match="at least one of input_ids"):
        ours(attention_mask=mask)
    assert onnxport.validate(tmp_path / "out").status == "passed"


@pytest.mark.parametrize("class_name", sampled(("SamModel", "Sam2Model"), ("SamModel",)))
def test_an_image_is_encoded_once_for_several_prompts(class_name: str, tmp_path: Path) -> None:
    model_class = getattr(transformers, class_name)
    checkpoint, _ = checkpoint_of(model_class.config_class.model_type, "mask-generation", tmp_path)
    options = onnxport.ExportOptions(split_encoders=True)
    manifest = onnxport.export(checkpoint, tmp_path / "out", options).manifest
    assert [one.name for one in manifest.components] == ["vision_encoder", "prompt_encoder_mask_decoder"]
    assert {case["name"] for case in manifest.validation["cases"]} == {"traced", "batch 1", "odd lengths", "image"}
    assert all(case["outputs"] for case in manifest.validation["cases"])
    original = model_class.from_pretrained(checkpoint).eval()
    ours = onnxport.load(tmp_path / "out")
    pixel_values = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    embeddings = ours.get_image_embeddings(pixel_values)
    points = {"input_points": torch.tensor([[[[10.0, 20.0], [30.0, 40.0]]]]), "input_labels": torch.tensor([[[1, 0]]])}
    boxes = {"input_boxes": torch.tensor([[[1.0, 2.0, 30.0, 40.0]]])}
    for prompts in (points, boxes, {**points, **boxes, "input_masks": torch.ones(1, 1, 16, 16)}):
        with torch.no_grad():
            expected = original(pixel_values=pixel_values, **prompts)
        found = ours(image_embeddings=embeddings, **prompts)
        torch.testing.assert_close(found.pred_masks, expected.pred_masks, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.iou_scores, expected.iou_scores, atol=1e-4, rtol=1e-4)
        light = LightModel(Directory(tmp_path / "out"))(pixel_values=pixel_values.numpy(), **prompts)
        np.testing.assert_allclose(light["pred_masks"], expected.pred_masks, atol=1e-4)
    with pytest.raises(MissingInputError, match="pixel_values"):
        ours(**points)


def test_the_masks_of_a_fixed_batch_are_fixed_with_it(tmp_path: Path) -> None:
    checkpoint, _ = checkpoint_of("sam", "mask-generation", tmp_path)
    options = onnxport.ExportOptions(split_encoders=True, fix={"batch_size": 1})
    with pytest.raises(OptionError, match="num_masks follows from what is fixed: add num_masks=1"):
        onnxport.export(checkpoint, tmp_path / "out", options)
    options = onnxport.ExportOptions(split_encoders=True, fix={"batch_size": 1, "num_masks": 1})
    manifest = onnxport.export(checkpoint, tmp_path / "out", options).manifest
    axes = {spec.name: spec.axes for spec in manifest.components[1].inputs}
    assert axes["input_masks"][:2] == (1, 1)
    assert manifest.validation["status"] == "passed"


BARE = {
    "Bart": {
        **{"vocab_size": 64, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4},
        **{"decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 32},
    },
    "T5": {"vocab_size": 64, "d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4},
}


def bare(name: str, directory: Path) -> Any:
    """Write a tiny encoder-decoder without a head, and return it."""
    torch.manual_seed(0)
    model_class = getattr(transformers, f"{name}Model")
    model = model_class(model_class.config_class(**BARE[name])).eval()
    randomize(model)
    model.save_pretrained(directory)
    make_tokenizer("bart", 60, 0, "<unk>", token_type_ids=False).save_pretrained(directory)
    return model


@pytest.mark.parametrize("name", sampled(BARE, ("Bart",)))
def test_an_encoder_decoder_without_a_head_is_run_step_by_step(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = bare(name, tmp_path / "checkpoint")
    options = onnxport.ExportOptions(layout="transformers.js", dtype="fp32")
    manifest = onnxport.export(tmp_path / "checkpoint", tmp_path / "out", options).manifest
    assert f"{name}Model is exported with --split-encoders, as --layout transformers.js needs it" in caplog.text
    assert {one.file for one in manifest.components} == {"onnx/encoder_model.onnx", "onnx/decoder_model_merged.onnx"}
    assert manifest.task == "feature-extraction-with-past"
    assert manifest.validation["status"] == "passed"
    texts = {"input_ids": torch.tensor([[5, 6, 7, 8], [9, 8, 1, 1]])}
    texts["attention_mask"] = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    tokens = torch.tensor([[2, 3, 4], [2, 7, 7]])
    with torch.no_grad():
        expected = model(**texts, decoder_input_ids=tokens)
    ours = onnxport.load(tmp_path / "out")
    assert not ours.can_generate()
    found = ours(**texts, decoder_input_ids=tokens)
    for output in ("last_hidden_state", "encoder_last_hidden_state"):
        torch.testing.assert_close(found[output], expected[output], atol=1e-5, rtol=1e-4)
    first = ours(**texts, decoder_input_ids=tokens[:, :2], use_cache=True)
    states = (first.encoder_last_hidden_state,)
    cache = first.past_key_values
    mask = texts["attention_mask"]
    last = ours(encoder_outputs=states, attention_mask=mask, decoder_input_ids=tokens[:, 2:], past_key_values=cache)
    torch.testing.assert_close(last.last_hidden_state, expected.last_hidden_state[:, 2:], atol=1e-5, rtol=1e-4)


def test_without_the_cache_an_encoder_decoder_is_one_graph(tmp_path: Path) -> None:
    bare("Bart", tmp_path / "checkpoint")
    options = onnxport.ExportOptions(split_encoders=True, past=False, dry_run=True)
    manifest = onnxport.export(tmp_path / "checkpoint", tmp_path / "out", options).manifest
    assert [one.name for one in manifest.components] == ["model"]


CODECS: dict[str, dict[str, Any]] = {
    "Mimi": {
        **{"num_filters": 2, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8},
        **{"num_key_value_heads": 2, "intermediate_size": 16, "upsampling_ratios": [4, 2], "upsample_groups": 16},
        **{"codebook_size": 16, "codebook_dim": 8, "vector_quantization_hidden_dimension": 8, "num_quantizers": 2},
        **{"sampling_rate": 1600, "frame_rate": 100.0, "num_residual_layers": 1},
    },
    "Dac": {
        **{"encoder_hidden_size": 4, "downsampling_ratios": [2, 4], "decoder_hidden_size": 16, "n_codebooks": 2},
        **{"codebook_size": 16, "codebook_dim": 4, "upsampling_ratios": [4, 2], "sampling_rate": 1600},
    },
}


@pytest.mark.parametrize("name", sampled(CODECS, ("Mimi",)))
def test_a_codec_encodes_and_decodes_audio_of_any_length(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model_class = getattr(transformers, f"{name}Model")
    model = model_class(model_class.config_class(**CODECS[name])).eval()
    model.save_pretrained(tmp_path / "checkpoint")
    extractor = transformers.EncodecFeatureExtractor(sampling_rate=1600)
    extractor.save_pretrained(tmp_path / "checkpoint")
    options = onnxport.ExportOptions(split_encoders=True)
    manifest = onnxport.export(tmp_path / "checkpoint", tmp_path / "out", options).manifest
    assert [one.name for one in manifest.components] == ["encoder_model", "decoder_model"]
    assert manifest.validation["status"] == "passed"
    audio = torch.randn(1, 1, 485, generator=torch.Generator().manual_seed(0))
    ours, light = onnxport.load(tmp_path / "out"), LightModel(Directory(tmp_path / "out"))
    with torch.no_grad():
        encoded = model.encode(audio, return_dict=True)
        expected = model.decode(audio_codes=encoded.audio_codes, return_dict=True).audio_values
    codes = ours.encode(audio).audio_codes
    assert codes.tolist() == encoded.audio_codes.tolist()
    torch.testing.assert_close(ours.decode(audio_codes=codes).audio_values, expected, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        whole = model(audio).audio_values
    torch.testing.assert_close(ours(audio).audio_values, whole, atol=1e-5, rtol=1e-4)
    alone = light.decode(**light.encode(input_values=audio.numpy()))
    np.testing.assert_allclose(alone["audio_values"], expected, atol=1e-5)
    with pytest.raises(MissingInputError, match="input_values"):
        ours.encode()


def test_a_model_that_is_no_dual_encoder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = transformers.BertModel(transformers.BertConfig(**TEXT))
    model.save_pretrained(tmp_path / "checkpoint")
    make_tokenizer("bert", 99, 2, "[UNK]", token_type_ids=True).save_pretrained(tmp_path / "checkpoint")
    assert main(["export", str(tmp_path / "checkpoint"), str(tmp_path / "out"), "--split-encoders", "--quiet"]) != 0
    assert "leave out --split-encoders" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
