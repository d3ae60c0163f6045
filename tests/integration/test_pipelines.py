"""Pipelines over exported directories say what Transformers' own say over the original models."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import onnxport
from conformance.checkpoints import make_checkpoint, randomize
from conformance.preprocessors import make_image_processor, make_tokenizer
from onnxport import ExportOptions

Make = Callable[[Path], Path]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


def exported(checkpoint: Path, task: str) -> Path:
    output = checkpoint.with_name(f"{checkpoint.name}-{task}-onnx")
    if not output.exists():
        onnxport.export(checkpoint, output, ExportOptions(task=task, validate="none"))
    return output


def pipelines(task: str, checkpoint: Path, export_task: str | None = None) -> tuple[Any, Any]:
    """Return the pipeline over the exported directory, and Transformers' own over the checkpoint."""
    return (
        onnxport.pipeline(task, exported(checkpoint, export_task or task)),
        transformers.pipeline(task, model=str(checkpoint), device="cpu"),
    )


def assert_same(found: Any, expected: Any) -> None:
    """Compare results: texts and numbers of tokens exactly, scores and states within 0.001."""
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


def saved(parent: Path, name: str, *parts: Any) -> Path:
    """Write a model with random weights, and what prepares its inputs."""
    if not (parent / name).exists():
        randomize(parts[0])
        for part in parts:
            part.save_pretrained(parent / name)
    return parent / name


def picture() -> Image.Image:
    """Return a picture of 60 x 80 pixels, smooth enough for a resized one to differ from place to place."""
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((80, 60))


def sound(seconds: float, rate: int = 16_000) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(440 * time * (1 + 0.1 * time))).astype(np.float32)


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
def test_texts(task: str, model_type: str, feature: str, text: str, parent: Path) -> None:
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


@pytest.mark.parametrize("feature", ["causal-lm", "causal-lm-with-past"])
def test_text_generation(feature: str, parent: Path) -> None:
    ours, original = pipelines("text-generation", make_checkpoint("gpt2", feature, parent), feature)
    wanted = {"max_new_tokens": 6, "do_sample": False}
    assert_same(ours(TEXT, **wanted), original(TEXT, **wanted))
    several = [TEXT, "ab"]
    assert_same(ours(several, num_beams=2, **wanted), original(several, num_beams=2, **wanted))


@pytest.mark.parametrize(
    ("task", "model_type", "feature"),
    [
        ("image-classification", "vit", "image-classification"),
        ("image-feature-extraction", "vit", "default"),
        ("image-segmentation", "segformer", "semantic-segmentation"),
        ("object-detection", "yolos", "object-detection"),
        ("object-detection", "detr", "object-detection"),
        ("image-segmentation", "detr", "image-segmentation"),
    ],
)
def test_pictures(task: str, model_type: str, feature: str, parent: Path) -> None:
    ours, original = pipelines(task, make_checkpoint(model_type, feature, parent), feature)
    settings = {"threshold": 0.1} if "detection" in task else {}
    if model_type == "detr" and task == "image-segmentation":
        settings = {"threshold": 0.01, "mask_threshold": 0.1, "overlap_mask_area_threshold": 0.0}
    expected = original(picture(), **settings)
    assert expected
    assert_same(ours(picture(), **settings), expected)


def depth(kind: str, parent: Path) -> Path:
    torch.manual_seed(0)
    if kind == "glpn":
        config = transformers.GLPNConfig(
            hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], decoder_hidden_size=16, num_attention_heads=[1, 1, 2, 2]
        )
        processor = transformers.GLPNImageProcessorPil()
        return saved(parent, kind, transformers.GLPNForDepthEstimation(config), processor)
    backbone = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=37, image_size=56, patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    if kind == "depth_anything":
        config = transformers.DepthAnythingConfig(
            backbone_config=backbone, reassemble_hidden_size=32, patch_size=14, neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=8, head_hidden_size=8,
        )  # fmt: skip
        processor = transformers.DPTImageProcessorPil(size={"height": 56, "width": 56})
        return saved(parent, kind, transformers.DepthAnythingForDepthEstimation(config), processor)
    config = transformers.DPTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=37, image_size=32, patch_size=8,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=8, is_hybrid=False,
    )  # fmt: skip
    return saved(parent, kind, transformers.DPTForDepthEstimation(config), make_image_processor("DPTImageProcessor", 32, config))


@pytest.mark.parametrize("kind", ["dpt", "glpn", "depth_anything"])
def test_depth(kind: str, parent: Path) -> None:
    ours, original = pipelines("depth-estimation", depth(kind, parent))
    assert_same(ours(picture()), original(picture()))


@pytest.mark.parametrize("feature", ["default", "zero-shot-image-classification"])
def test_zero_shot_image_classification(feature: str, parent: Path) -> None:
    ours, original = pipelines("zero-shot-image-classification", make_checkpoint("clip", "default", parent), feature)
    labels = {"candidate_labels": ["a cat", "a dog", "x"], "hypothesis_template": "a {}"}
    assert_same(ours(picture(), **labels), original(picture(), **labels))
    assert_same(ours([picture()] * 2, **labels), original([picture()] * 2, **labels))


def owlvit(parent: Path) -> Path:
    checkpoint = make_checkpoint("owlvit", "default", parent)
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    torch.manual_seed(0)
    processor = transformers.AutoProcessor.from_pretrained(checkpoint)
    return saved(parent, "owlvit-detection", transformers.OwlViTForObjectDetection(config), processor)


def test_zero_shot_object_detection(parent: Path) -> None:
    ours, original = pipelines("zero-shot-object-detection", owlvit(parent))
    labels = {"candidate_labels": ["cat", "dog"], "threshold": 0.0}
    expected = original(picture(), **labels)
    assert expected
    assert_same(ours(picture(), **labels), expected)


def wav2vec2(parent: Path, head: str) -> Path:
    config = transformers.Wav2Vec2Config(
        vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37,
        conv_dim=(16, 16, 16), conv_stride=(4, 4, 4), conv_kernel=(8, 8, 8), num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2, classifier_proj_size=16, num_labels=4,
    )  # fmt: skip
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *string.ascii_lowercase, "'"]
    parent.mkdir(exist_ok=True)
    (parent / "vocab.json").write_text(str({letter: index for index, letter in enumerate(letters)}).replace('"\'"', '"\\u0027"').replace("'", '"'))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(parent / "vocab.json"))
    torch.manual_seed(0)
    model = getattr(transformers, f"Wav2Vec2For{head}")(config)
    return saved(parent, f"wav2vec2-{head}", model, transformers.Wav2Vec2FeatureExtractor(), tokenizer)


def test_audio_classification(parent: Path) -> None:
    ours, original = pipelines("audio-classification", wav2vec2(parent, "SequenceClassification"))
    assert_same(ours(sound(1)), original(sound(1)))


def test_speech_of_a_ctc_model(parent: Path) -> None:
    ours, original = pipelines("automatic-speech-recognition", wav2vec2(parent, "CTC"))
    expected = original(sound(1.3))
    assert expected["text"]
    assert_same(ours(sound(1.3)), expected)
    settings = {"chunk_length_s": 0.6, "return_timestamps": "char"}
    assert_same(ours(sound(1.3), **settings), original(sound(1.3), **settings))
