"""A full validation loads the export, and compares it with the original on the package's samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import onnxport
from conformance.checkpoints import randomize
from conformance.matrix.shrink import tiny_config
from conformance.preprocessors import make_tokenizer
from onnxport import samples
from onnxport.errors import ValidationError
from onnxport.runtime.models import OnnxModel


def save(name: str, directory: Path, **fields: Any) -> Path:
    model_class = getattr(transformers, name)
    torch.manual_seed(0)
    config = tiny_config(model_class.config_class.model_type)
    for field, value in fields.items():
        setattr(config, field, value)
    model = model_class(config)
    randomize(model)
    model.save_pretrained(directory / "checkpoint")
    return directory / "checkpoint"


def llava(directory: Path) -> Path:
    tokenizer = make_tokenizer("llava", 128, 2, "<unk>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    checkpoint = save(
        "LlavaForConditionalGeneration", directory, image_token_id=tokenizer.convert_tokens_to_ids("<image>")
    )
    vision = transformers.AutoConfig.from_pretrained(checkpoint).vision_config
    size = {"height": vision.image_size, "width": vision.image_size}
    transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size=size, crop_size=size),
        tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(checkpoint)
    return checkpoint


def bert(directory: Path) -> Path:
    checkpoint = save("BertForSequenceClassification", directory)
    make_tokenizer("bert", 128, 2, "[UNK]", token_type_ids=True).save_pretrained(checkpoint)
    return checkpoint


def whisper(directory: Path) -> Path:
    checkpoint = save("WhisperForConditionalGeneration", directory)
    transformers.WhisperFeatureExtractor().save_pretrained(checkpoint)
    return checkpoint


def wav2vec2(directory: Path) -> Path:
    checkpoint = save("Wav2Vec2ForCTC", directory)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(checkpoint)
    return checkpoint


SAMPLES = {
    bert: {"sentences": ["logits"]},
    llava: {"image": ["logits", "tokens"]},
    whisper: {
        "recording": ["logits", "encoder_last_hidden_state", "tokens"],
        "30 s of audio": ["logits", "encoder_last_hidden_state", "tokens"],
    },
    wav2vec2: {"recording": ["logits"], "30 s of audio": ["logits"]},
}


@pytest.mark.parametrize(
    "make", [pytest.param(make, marks=pytest.mark.wide) if make in (llava, whisper) else make for make in SAMPLES]
)
def test_samples_go_through_the_preprocessor_and_the_loaded_export(make: Any, tmp_path: Path) -> None:
    manifest = onnxport.export(make(tmp_path), tmp_path / "out").manifest
    cases = [case for case in manifest.validation["cases"] if case["component"] == "load"]
    assert {case["name"]: [output["name"] for output in case["outputs"]] for case in cases} == SAMPLES[make]
    assert [case["note"] for case in cases] == [""] * len(cases)


def test_an_export_without_preprocessor_has_no_samples(tmp_path: Path) -> None:
    manifest = onnxport.export(save("BertForSequenceClassification", tmp_path), tmp_path / "out").manifest
    assert manifest.validation["status"] == "passed"
    assert "load" not in {case["component"] for case in manifest.validation["cases"]}


def test_a_loaded_export_that_computes_something_else_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_mask(self: OnnxModel, **inputs: Any) -> Any:
        return call(self, **{name: value for name, value in inputs.items() if name != "attention_mask"})

    call: Any = OnnxModel.__call__
    monkeypatch.setattr(OnnxModel, "__call__", without_mask)
    with pytest.raises(ValidationError, match=r"load, sentences \(batch_size=3\), logits: differs by"):
        onnxport.export(bert(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_recording_is_resampled_and_repeated() -> None:
    recording = samples.recording(16_000)
    assert recording.shape == (42_803,)
    assert 0.2 < abs(recording).max() <= 1
    assert samples.recording(8_000).shape == (21_402,)
    assert samples.recording(16_000, seconds=30).shape == (480_000,)


def test_the_image_is_neither_square_nor_of_one_colour() -> None:
    image = samples.image()
    assert (image.size, image.mode) == ((320, 240), "RGB")
    assert len(image.getcolors(maxcolors=320 * 240)) > 1000


@pytest.mark.wide
@pytest.mark.parametrize("name", ["EncodecModel", "MimiModel"])
def test_a_codec_as_one_graph_is_compared_on_recordings_of_any_length(name: str, tmp_path: Path) -> None:
    checkpoint = save(name, tmp_path)
    transformers.EncodecFeatureExtractor(feature_size=1, sampling_rate=24_000).save_pretrained(checkpoint)
    manifest = onnxport.export(checkpoint, tmp_path / "out").manifest
    (component,) = manifest.components
    assert component.inputs[0].axes == ("batch_size", 1, "audio_sequence")
    cases = {case["name"]: case for case in manifest.validation["cases"] if case["component"] == "load"}
    assert {name: bool(case["outputs"]) for name, case in cases.items()} == {"recording": True, "30 s of audio": True}


@pytest.mark.wide
def test_a_sample_of_another_size_than_the_graph_fixes_is_not_compared(tmp_path: Path) -> None:
    checkpoint = save("MimiModel", tmp_path)
    transformers.EncodecFeatureExtractor(feature_size=1, sampling_rate=24_000).save_pretrained(checkpoint)
    options = onnxport.ExportOptions(fix={"audio_sequence": 24_000})
    manifest = onnxport.export(checkpoint, tmp_path / "out", options).manifest
    notes = [case["note"] for case in manifest.validation["cases"] if case["component"] == "load"]
    assert [note.startswith("the graph takes input_values of the size") for note in notes] == [True, True]
