"""The matrix of classes: each class of Transformers by the name in `architectures`, without task and preprocessor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conformance.exports import PASSED
from conformance.matrix import classes as module
from conformance.matrix.class_page import publish
from conformance.matrix.classes import classes, run_class
from tests.breadth import sampled


def test_classes_that_no_auto_class_lists_are_included() -> None:
    found = {name: model_type for model_type, name in classes()}
    assert len(found) > 1500
    assert found["DPRReader"] == "dpr"
    assert "BertPreTrainedModel" not in found


def test_a_class_is_exported_and_used(tmp_path: Path) -> None:
    record = run_class("electra", "ElectraForPreTraining", tmp_path)
    assert (record["status"], record["task"], record["open"], record["used"]) == (PASSED, "architecture", [], True)
    assert not record["generated"]
    assert not any((tmp_path / kind / "ElectraForPreTraining").exists() for kind in ("checkpoints", "outputs"))


KINDS = {
    "positions of all tokens": "GPT2LMHeadModel",
    "positions of tokens that aren't masked": "OPTForCausalLM",
    "positions of tokens that aren't padding": "RobertaForCausalLM",
    "features split by the values of a tensor": "Gemma4Model",
    "a loop over the samples": "Wav2Vec2BertForXVector",
    "samples with results of different sizes": "SuperPointForKeypointDetection",
    "a projector between equal sizes": "Llama4ForConditionalGeneration",
    "tokens of an image that attend to each other": "Gemma4UnifiedModel",
    "experts of an image's tokens": "Ernie4_5_VLMoeModel",
    "features for several layers": "GraniteDoclingModel",
    "sizes of images": "Mistral3ForConditionalGeneration",
    "marks instead of placeholder tokens": "Kosmos2ForConditionalGeneration",
    "positions of images and sounds": "Qwen2_5OmniThinkerForConditionalGeneration",
    "tiles of images": "ModernVBertForMaskedLM",
    "an encoder of patches": "Pix2StructForConditionalGeneration",
    "feature maps of a size that a layer tells": "PPOCRV5MobileDetModel",
    "mel bins that a layer tells": "GraniteSpeech5Encoder",
    "lengths beyond the traced ones": "CanineModel",
    "frames with a mask": "NeuCodecModel",
    "patches with a mask": "Idefics3VisionTransformer",
    "a mask that is 1 for padding": "XLNetForQuestionAnswering",
    "audio of any length": "GraniteSpeechModel",
    "further inputs of each token": "RoCBertForCausalLM",
    "spans of entities": "LukeForEntitySpanClassification",
    "frames of videos as samples": "XCLIPVisionModel",
    "patches as samples": "InklingVisionModel",
    "indices of pooled patches": "Molmo2Adapter",
    "audio in place of placeholder tokens": "PocketTTSForConditionalGeneration",
}


EVERY_TIME = (
    "positions of all tokens",
    "positions of tokens that aren't masked",
    "positions of tokens that aren't padding",
    "tiles of images",
    "patches with a mask",
    "further inputs of each token",
    "spans of entities",
    "frames of videos as samples",
    "patches as samples",
    "indices of pooled patches",
    "audio in place of placeholder tokens",
)
"""Kinds whose class is traced in a few seconds."""


@pytest.mark.parametrize("kind", sampled(KINDS, EVERY_TIME))
def test_an_export_computes_what_the_class_does(kind: str, tmp_path: Path) -> None:
    name = KINDS[kind]
    record = run_class(dict((name, model_type) for model_type, name in classes())[name], name, tmp_path)
    assert (record["status"], record.get("message")) == (PASSED, None)
    assert (record["open"], record["used"]) == ([], True)


def test_a_class_without_a_whole_interface_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def described(arguments: list[str]) -> tuple[int, str]:
        code, text = command(arguments)
        manifest = Path(arguments[2]) / "onnxport.json"
        manifest.write_text(manifest.read_text().replace("for training", module.NOT_DESCRIBED))
        return code, text

    command: Any = module.command
    monkeypatch.setattr(module, "command", described)
    record = run_class("electra", "ElectraForPreTraining", tmp_path)
    assert (record["category"], record["message"]) == ("interface", "not inputs: labels")


def test_a_decoder_generates_beyond_its_window(tmp_path: Path) -> None:
    record = run_class("mistral", "MistralForCausalLM", tmp_path)
    assert (record["status"], record.get("message"), record["generated"]) == (PASSED, None, True)


def test_the_page_has_figures_and_the_classes_that_fail(tmp_path: Path) -> None:
    passed = {"class": "AModel", "status": PASSED, "used": True, "generated": True, "commit": "abc"}
    failed = {"class": "BModel", "status": "failed", "category": "use", "message": "logits differs", "commit": "abc"}
    late = {"class": "CModel", "status": "timeout", "message": "no result"}
    publish([passed, failed, late], tmp_path / "classes.md")
    text = (tmp_path / "classes.md").read_text()
    assert "At commit abc, 1 of 3 classes pass (33.3%)" in text
    assert "| use | logits differs | BModel |" in text
    assert "| timeout | no result | CModel |" in text
