"""Pipelines over exported directories return the same results as Transformers' pipelines over the original models."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import onnxport
from conformance.checkpoints import make_checkpoint
from conformance.matrix.tiny import checkpoint_of
from conformance.preprocessors import make_image_processor, make_tokenizer
from onnxport import ExportOptions, OnnxportError
from onnxport.runtime.encoder_decoders import OnnxSpeechSeq2Seq
from tests.breadth import sampled
from tests.integration.tiny_models import (
    audio,
    audio_text_model,
    captioner,
    exported,
    image,
    image_text_model,
    saved,
    wav2vec2,
    whisper,
)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


def pipelines(task: str, checkpoint: Path, export_task: str | None = None) -> tuple[Any, Any]:
    """Return the pipeline over the exported directory, and Transformers' pipeline over the checkpoint."""
    return (
        onnxport.pipeline(task, exported(checkpoint, export_task or task)),
        transformers.pipeline(task, model=str(checkpoint), device="cpu"),
    )


def assert_same(found: Any, expected: Any) -> None:
    """Compare results: texts and token ids exactly, scores and hidden states within 0.001."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, Image.Image):
        assert found.size == expected.size
        np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), atol=1)
    elif isinstance(expected, float | np.floating | torch.Tensor | np.ndarray):
        np.testing.assert_allclose(found, expected, atol=1e-3)
    else:
        assert found == expected


TEXT = "a tiny text 12"


@pytest.mark.parametrize(
    ("task", "model_type", "feature", "text"),
    [
        ("fill-mask", "bert", "masked-lm", "ab [MASK] cd"),
        ("text-classification", "roberta", "sequence-classification", TEXT),
        ("sentiment-analysis", "roberta", "sequence-classification", TEXT),
        ("token-classification", "bert", "token-classification", TEXT),
        ("feature-extraction", "distilbert", "default", TEXT),
    ],
)
def test_text_tasks(task: str, model_type: str, feature: str, text: str, parent: Path) -> None:
    ours, original = pipelines(task, make_checkpoint(model_type, feature, parent), feature)
    assert_same(ours(text), original(text))
    several = [text, f"{text} and {text}"]
    assert_same(ours(several, batch_size=2), original(several, batch_size=2))


def test_all_classes(parent: Path) -> None:
    checkpoint = make_checkpoint("roberta", "sequence-classification", parent)
    ours, original = pipelines("text-classification", checkpoint, "sequence-classification")
    assert_same(ours(TEXT, top_k=None), original(TEXT, top_k=None))


def zero_shot(parent: Path) -> Path:
    labels = {0: "contradiction", 1: "neutral", 2: "entailment"}
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37,
        max_position_embeddings=128, id2label=labels, label2id={name: index for index, name in labels.items()},
    )  # fmt: skip
    tokenizer = make_tokenizer("bert", 64, 2, "[UNK]", token_type_ids=True)
    torch.manual_seed(0)
    return saved(parent, "zero-shot", transformers.BertForSequenceClassification(config), tokenizer)


@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_classification(multi_label: bool, parent: Path) -> None:
    ours, original = pipelines("zero-shot-classification", zero_shot(parent), "text-classification")
    labels = ["sport", "politics", "food"]
    assert_same(ours(TEXT, labels, multi_label=multi_label), original(TEXT, labels, multi_label=multi_label))


def test_text_generation(parent: Path) -> None:
    feature = "causal-lm-with-past"
    ours, original = pipelines("text-generation", make_checkpoint("gpt2", feature, parent), feature)
    settings = {"max_new_tokens": 6, "do_sample": False}
    assert_same(ours(TEXT, **settings), original(TEXT, **settings))
    several = [TEXT, "ab"]
    assert_same(ours(several, num_beams=2, **settings), original(several, num_beams=2, **settings))


@pytest.mark.parametrize(
    ("task", "model_type", "feature"),
    [
        ("image-classification", "vit", "image-classification"),
        ("image-feature-extraction", "vit", "default"),
        pytest.param("image-segmentation", "segformer", "semantic-segmentation", marks=pytest.mark.wide),
        ("object-detection", "yolos", "object-detection"),
        pytest.param("image-segmentation", "detr", "image-segmentation", marks=pytest.mark.wide),
    ],
)
def test_image_tasks(task: str, model_type: str, feature: str, parent: Path) -> None:
    ours, original = pipelines(task, make_checkpoint(model_type, feature, parent), feature)
    settings = {"threshold": 0.1} if "detection" in task else {}
    if model_type == "detr":
        settings = {"threshold": 0.01, "mask_threshold": 0.1, "overlap_mask_area_threshold": 0.0}
    expected = original(image(), **settings)
    assert expected
    assert_same(ours(image(), **settings), expected)


def dpt(parent: Path) -> Path:
    config = transformers.DPTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=37, image_size=32, patch_size=8,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=8, is_hybrid=False,
    )  # fmt: skip
    torch.manual_seed(0)
    processor = make_image_processor("DPTImageProcessor", 32, config)
    return saved(parent, "dpt", transformers.DPTForDepthEstimation(config), processor)


@pytest.mark.wide
def test_depth(parent: Path) -> None:
    ours, original = pipelines("depth-estimation", dpt(parent))
    expected = original(image())
    assert np.asarray(expected["depth"]).std() > 1
    assert_same(ours(image()), expected)


@pytest.mark.parametrize("feature", ["default", "zero-shot-image-classification"])
def test_zero_shot_image_classification(feature: str, parent: Path) -> None:
    ours, original = pipelines("zero-shot-image-classification", make_checkpoint("clip", "default", parent), feature)
    labels = {"candidate_labels": ["a cat", "a dog", "x"], "hypothesis_template": "a {}"}
    assert_same(ours(image(), **labels), original(image(), **labels))
    assert_same(ours([image()] * 2, **labels), original([image()] * 2, **labels))


def owlvit(parent: Path) -> Path:
    checkpoint = make_checkpoint("owlvit", "default", parent)
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    torch.manual_seed(0)
    processor = transformers.AutoProcessor.from_pretrained(checkpoint)
    return saved(parent, "owlvit-detection", transformers.OwlViTForObjectDetection(config), processor)


@pytest.mark.wide
def test_zero_shot_object_detection(parent: Path) -> None:
    ours, original = pipelines("zero-shot-object-detection", owlvit(parent))
    labels = {"candidate_labels": ["cat", "dog"], "threshold": 0.0}
    expected = original(image(), **labels)
    assert expected
    assert_same(ours(image(), **labels), expected)


def test_image_to_text(parent: Path) -> None:
    checkpoint = captioner(parent)
    ours = onnxport.pipeline("image-to-text", exported(checkpoint, "image-to-text-with-past"))
    original = transformers.pipeline("image-text-to-text", model=str(checkpoint), device="cpu")
    settings = {"text": "ab", "return_tensors": True, "generate_kwargs": {"max_new_tokens": 6, "do_sample": False}}
    assert_same(ours(image(), **settings), original(image(), **settings))


@pytest.mark.parametrize("name", sampled(("Llava", "LlavaNext", "Idefics3"), ("Llava",)))
def test_image_text_to_text(name: str, parent: Path) -> None:
    ours, original = pipelines("image-text-to-text", image_text_model(parent, name), "image-text-to-text-with-past")
    greedy = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    settings = {"generate_kwargs": greedy, "skip_special_tokens": False}
    one, several = (image(), image().rotate(90, expand=True)), ("ab <image> cd", "a <image>")
    expected = original(one[0], several[0], return_full_text=False, **settings)
    assert expected[0]["generated_text"]
    assert_same(ours(one[0], several[0], return_full_text=False, **settings), expected)
    lists = [[part] for part in one]
    assert_same(ours(lists, several, **settings), original(lists, several, **settings))
    chat = [{"role": "user", "content": [{"type": "image", "image": one[1]}, {"type": "text", "text": "what"}]}]
    found, expected = ours(text=chat, **settings), original(text=chat, **settings)
    assert_same(found[0]["generated_text"][-1], expected[0]["generated_text"][-1])


@pytest.mark.wide
def test_audio_text_to_text(parent: Path) -> None:
    directory = exported(audio_text_model(parent), "audio-text-to-text-with-past")
    ours = onnxport.pipeline("audio-text-to-text", directory)
    original = transformers.pipeline("any-to-any", model=str(audio_text_model(parent)), device="cpu")
    greedy = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    settings = {"generate_kwargs": greedy, "skip_special_tokens": False, "return_full_text": False}
    text = "ab <|audio_bos|><|AUDIO|><|audio_eos|> cd"
    expected = original(text=text, audio=audio(1.3), **settings)
    assert expected[0]["generated_text"]
    assert_same(ours(text=text, audio=audio(1.3), **settings), expected)


def test_audio_classification(parent: Path) -> None:
    ours, original = pipelines("audio-classification", wav2vec2(parent, "SequenceClassification"))
    assert_same(ours(audio(1)), original(audio(1)))


def test_speech_recognition_with_ctc(parent: Path) -> None:
    ours, original = pipelines("automatic-speech-recognition", wav2vec2(parent, "CTC"))
    expected = original(audio(1.3))
    assert expected["text"]
    assert_same(ours(audio(1.3)), expected)
    settings = {"chunk_length_s": 0.6, "return_timestamps": "char"}
    assert_same(ours(audio(1.3), **settings), original(audio(1.3), **settings))


def test_speech_recognition_with_whisper(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, original = pipelines(
        "automatic-speech-recognition", whisper(parent), "automatic-speech-recognition-with-past"
    )
    few = {"max_new_tokens": 10, "num_beams": 1}
    for seconds, settings in (
        (2, {"generate_kwargs": {"max_new_tokens": 4, "language": "de", "task": "translate"}}),
        (2, {"return_timestamps": True, "generate_kwargs": few}),
        (34, {"return_timestamps": True, "generate_kwargs": few}),
    ):
        expected = original(audio(seconds), **settings)
        assert expected["text"]
        assert_same(ours(audio(seconds), **settings), expected)
    with pytest.raises(OnnxportError, match="return_timestamps=True"):
        ours(audio(2), return_timestamps="word")
    monkeypatch.setattr(OnnxSpeechSeq2Seq, "can_generate", lambda self: False)
    with pytest.raises(OnnxportError, match="--task automatic-speech-recognition-with-past"):
        onnxport.pipeline("automatic-speech-recognition", ours.model.directory.path)


BOXES = [("hello", [10, 10, 100, 40]), ("tiny", [110, 10, 200, 40]), ("text", [10, 50, 100, 80])]


@pytest.mark.parametrize("model_type", sampled(("layoutlm", "layoutlmv3"), ("layoutlm",)))
def test_questions_about_documents(model_type: str, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = "document-question-answering"
    checkpoint, _ = checkpoint_of(model_type, task, parent)
    ours, original = pipelines(task, checkpoint)
    if model_type == "layoutlmv3":  # Transformers' pipeline ignores its image, and can't use the logits of patches
        forward = original.model.forward

        def of_tokens(image: torch.Tensor, input_ids: torch.Tensor, **named: Any) -> dict[str, torch.Tensor]:
            outputs = forward(pixel_values=image, input_ids=input_ids, **named)
            return {name: value[:, : input_ids.shape[1]] for name, value in outputs.items()}

        monkeypatch.setattr(original.model, "forward", of_tokens)
    settings = {"image": image(), "question": "what is it", "word_boxes": BOXES, "max_seq_len": 64, "top_k": 3}
    expected = original(**settings)
    assert expected
    assert_same(ours(**settings), expected)


@pytest.mark.wide
def test_spectrograms_need_a_vocoder(parent: Path) -> None:
    checkpoint, _ = checkpoint_of("fastspeech2_conformer", "text-to-audio", parent)
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    sizes = {"model_in_dim": config.num_mel_bins, "upsample_initial_channel": 16}
    vocoder = transformers.SpeechT5HifiGan(transformers.SpeechT5HifiGanConfig(**sizes)).eval()
    ours = onnxport.pipeline("text-to-audio", exported(checkpoint, "text-to-audio"), vocoder=vocoder)
    original = transformers.pipeline("text-to-audio", model=str(checkpoint), device="cpu", vocoder=vocoder)
    assert_same(ours(TEXT), original(TEXT))
    with pytest.raises(OnnxportError, match=r"returns spectrograms \(FastSpeech2ConformerModel\).*pass vocoder="):
        onnxport.pipeline("text-to-audio", ours.model.directory.path)


def test_half_precision(parent: Path) -> None:
    checkpoint = make_checkpoint("vit", "image-classification", parent)
    output = parent / "half"
    onnxport.export(checkpoint, output, ExportOptions(dtype="fp16", validate="none"))
    ours = onnxport.pipeline("image-classification", output, device=-1)
    original = transformers.pipeline("image-classification", model=str(checkpoint), device="cpu")
    assert ours.dtype == torch.float16
    expected = {entry["label"]: entry["score"] for entry in original(image(), top_k=None)}
    assert {entry["label"]: entry["score"] for entry in ours(image(), top_k=None)} == pytest.approx(expected, abs=0.01)


def test_another_task_than_that_of_the_export_is_an_error(parent: Path) -> None:
    directory = exported(make_checkpoint("roberta", "sequence-classification", parent), "sequence-classification")
    with pytest.raises(OnnxportError, match=r"exported for text-classification .*RobertaForSequenceClassification"):
        onnxport.pipeline("text-generation", directory)
    with pytest.raises(OnnxportError, match=r"pipelines for it: .*zero-shot-classification"):
        onnxport.pipeline("fill-mask", directory)
    with pytest.raises(OnnxportError, match="no pipeline for 'translation'; it has any-to-any"):
        onnxport.pipeline("translation", directory)


def test_a_directory_without_a_tokenizer(parent: Path) -> None:
    checkpoint = make_checkpoint("bert", "masked-lm", parent)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    directory = exported(checkpoint, "masked-lm")
    bare = directory.with_name("bare")
    shutil.copytree(directory, bare, ignore=shutil.ignore_patterns("*token*"))
    with pytest.raises(OnnxportError, match=r"has no tokenizer, which a pipeline for fill-mask needs.*pass tokenizer="):
        onnxport.pipeline("fill-mask", bare)
    pipe = onnxport.pipeline("fill-mask", bare, tokenizer=tokenizer)
    assert_same(pipe("ab [MASK]"), onnxport.pipeline("fill-mask", directory)("ab [MASK]"))


def test_there_are_no_warnings(parent: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = exported(make_checkpoint("roberta", "sequence-classification", parent), "sequence-classification")
    logging.getLogger("transformers").propagate = True
    onnxport.pipeline("text-classification", directory)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
