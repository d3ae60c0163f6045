"""A graph's inputs and outputs follow from the model: its class and its configuration, not the files beside them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import transformers

import onnxport
from conformance.checkpoints import make_config, randomize
from conformance.matrix.shrink import tiny_config
from conformance.matrix.tiny import checkpoint_of
from onnxport._describe import describe_checkpoint
from onnxport.architectures.classes import class_named, infer_task
from onnxport.architectures.describe import describe
from onnxport.options import ExportOptions
from onnxport.tracing.scope import without_values
from tests.breadth import sampled

PAIRS = {
    "a tokenizer with token types": ("bert", "fill-mask"),
    "an image processor": ("vit", "image-classification"),
    "samples": ("wav2vec2", "automatic-speech-recognition"),
    "mel features, first the bins": ("whisper", "automatic-speech-recognition-with-past"),
    "mel features, first the frames": ("wav2vec2-bert", "audio-classification"),
    "a spectrogram": ("audio-spectrogram-transformer", "audio-classification"),
    "a pixel mask": ("detr", "object-detection"),
    "text and an image": ("clip", "zero-shot-image-classification"),
    "a decoder with an image encoder": ("llava", "image-to-text-with-past"),
    "boxes and an image": ("layoutlmv3", "token-classification"),
    "points": ("sam", "mask-generation"),
    "an image of a line of text": ("pp_ocrv6_tiny_rec", "text-recognition"),
}
EVERY_TIME = PAIRS.keys() - {"mel features, first the frames", "a pixel mask", "points"}


def without_preprocessor(checkpoint: Path, directory: Path) -> Path:
    """Copy a checkpoint's configuration and weights."""
    directory.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        if (checkpoint / name).is_file():
            shutil.copy(checkpoint / name, directory)
    return directory


def inputs_of(checkpoint: Path, task: str) -> list[tuple[str, str, str, tuple[int | str, ...]]]:
    graphs = describe_checkpoint(checkpoint, ExportOptions(task=task)).graphs
    return sorted((graph.name, spec.name, spec.dtype, spec.axes) for graph in graphs for spec in graph.inputs)


@pytest.mark.parametrize("case", sampled(PAIRS, EVERY_TIME))
def test_inputs_are_the_same_without_a_preprocessor(case: str, tmp_path: Path) -> None:
    model_type, task = PAIRS[case]
    checkpoint, _ = checkpoint_of(model_type, task, tmp_path / "checkpoints")
    bare = without_preprocessor(checkpoint, tmp_path / "bare")
    assert inputs_of(bare, task) == inputs_of(checkpoint, task)


def test_a_model_without_a_preprocessor_runs(tmp_path: Path) -> None:
    checkpoint, _ = checkpoint_of("vit", "image-classification", tmp_path / "checkpoints")
    bare = without_preprocessor(checkpoint, tmp_path / "bare")
    manifest = onnxport.export(bare, tmp_path / "out").manifest
    assert manifest.validation["status"] == "passed"
    assert not [name for name in manifest.files if "preprocessor" in name or "tokenizer" in name]
    model = transformers.ViTForImageClassification.from_pretrained(bare).eval()
    images = torch.randn(3, 3, model.config.image_size, model.config.image_size)
    with torch.no_grad():
        expected = model(images).logits
    torch.testing.assert_close(onnxport.load(tmp_path / "out")(pixel_values=images).logits, expected)


def test_a_class_that_no_auto_class_lists_has_all_of_its_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.BertForPreTraining(make_config("bert", "masked-lm")).eval()
    model.save_pretrained(tmp_path / "checkpoint")
    manifest = onnxport.export(tmp_path / "checkpoint", tmp_path / "out").manifest
    assert (manifest.task, manifest.source["architecture"]) == ("architecture", "BertForPreTraining")
    assert [output.name for output in manifest.components[0].outputs] == [
        "prediction_logits",
        "seq_relationship_logits",
    ]
    ids = torch.randint(3, 50, (2, 9))
    with torch.no_grad():
        expected = model(ids)
    found = onnxport.load(tmp_path / "out")(
        input_ids=ids, attention_mask=torch.ones_like(ids), token_type_ids=torch.zeros_like(ids)
    )
    torch.testing.assert_close(found.prediction_logits, expected.prediction_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.seq_relationship_logits, expected.seq_relationship_logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", sampled(("GPT2", "Qwen3"), ("GPT2",)))
def test_a_classifier_without_a_padding_token_classifies_the_last_token(name: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = getattr(transformers, f"{name}Config")(
        **sizes, intermediate_size=64, head_dim=8, vocab_size=50, num_labels=3, pad_token_id=None
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForSequenceClassification")(config).eval()
    randomize(model)
    model.save_pretrained(tmp_path / "checkpoint")
    onnxport.export(tmp_path / "checkpoint", tmp_path / "out", ExportOptions(validate="quick"))
    ids = torch.randint(1, 50, (3, 9))
    ids[0, -2:] = ids[1, -1] = 0  # a token like any other
    found = onnxport.load(tmp_path / "out")(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    with torch.no_grad():
        expected = torch.cat([model(ids[row : row + 1]).logits for row in range(3)])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


CLASSES = {
    "entities, which the code requires and the signature doesn't": (
        *("LukeForEntityClassification", "luke"),
        {"entity_ids": ("batch", "entity_length"), "entity_position_ids": ("batch", "entity_length", None)},
    ),
    "an axis of choices for every input": (
        *("LukeForMultipleChoice", "luke"),
        {"token_type_ids": ("batch", "choice", "sequence"), "entity_ids": ("batch", "choice", "entity_length")},
    ),
    "the token that a head reads": ("GPT2DoubleHeadsModel", "gpt2", {"mc_token_ids": ("batch",)}),
    "an encoder's mask": ("AriaModel", "aria", {"pixel_mask": ("batch", None, None)}),
    "a vocoder": ("SpeechT5HifiGan", "speecht5_hifigan", {"spectrogram": ("batch", "frames", None)}),
    "images of the smallest size that the code scales": ("DepthProModel", "depth_pro", {"pixel_values": ("batch",)}),
}


@pytest.mark.parametrize("case", CLASSES)
def test_what_a_class_takes_is_described_without_a_preprocessor(case: str) -> None:
    class_name, model_type, expected = CLASSES[case]
    config = tiny_config(model_type)
    config.architectures = [class_name]
    model = class_named(class_name, model_type)(config).eval()
    with without_values(model):
        components = describe(model, infer_task(config), None)
    axes = {name: labels for component in components for name, labels in component.config.inputs.items()}
    for name, labels in expected.items():
        assert {index: label for index, label in enumerate(labels) if label} == {
            index: label for index, label in axes[name].items() if index < len(labels) and labels[index]
        }
