"""A graph takes every tensor of the forward that can change an output, whether or not a preprocessor makes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

import onnxport
from conformance.checkpoints import randomize
from conformance.matrix.shrink import tiny_config
from onnxport._describe import describe_checkpoint
from onnxport.architectures.describe import describe
from onnxport.description.completion import completed
from onnxport.description.documented_inputs import CompletedOnnxConfig
from onnxport.description.forward import UNUSED
from onnxport.description.source_code import python_module
from onnxport.description.tasks import canonical_task
from onnxport.options import ExportOptions
from tests.breadth import sampled


def checkpoint_of(name: str, directory: Path) -> Path:
    """Write a tiny checkpoint of a class, without a preprocessor."""
    model_class = getattr(transformers, name)
    torch.manual_seed(0)
    model = model_class(tiny_config(model_class.config_class.model_type))
    randomize(model)
    model.save_pretrained(directory / name)
    return directory / name


ADDED = {
    "token types": ("BertModel", ["token_type_ids"]),
    "boxes": ("LayoutLMForQuestionAnswering", ["bbox", "token_type_ids"]),
    "the decoder's mask": ("BartModel", ["decoder_attention_mask"]),
    "a pixel mask": ("DeformableDetrForObjectDetection", ["pixel_mask"]),
    "observed values": ("PatchTSTForPrediction", ["past_observed_mask"]),
    "shapes and pronunciations": ("RoCBertModel", ["input_pronunciation_ids", "input_shape_ids", "token_type_ids"]),
    "entities, which need each other": (
        "LukeModel",
        ["entity_attention_mask", "entity_ids", "entity_position_ids", "entity_token_type_ids", "token_type_ids"],
    ),
    "the mask of samples": ("MoonshineModel", ["attention_mask", "decoder_attention_mask"]),
}


@pytest.mark.parametrize("kind", sampled(ADDED, ADDED.keys() - {"a pixel mask"}))
def test_inputs_that_no_preprocessor_makes(kind: str, tmp_path: Path) -> None:
    name, expected = ADDED[kind]
    description = describe_checkpoint(checkpoint_of(name, tmp_path))
    inputs = {spec.name: spec for graph in description.graphs for spec in graph.inputs}
    assert set(expected) <= inputs.keys()
    assert all(isinstance(inputs[added].axes[0], str) for added in expected), "the batch is dynamic"
    assert not {*expected} & description.left_out.keys()


@pytest.mark.parametrize(
    ("name", "parameter", "reason"),
    [
        ("ErnieModel", "task_type_ids", UNUSED),
        ("XLMModel", "langs", UNUSED),
        ("GPT2Model", "token_type_ids", "the model has no embeddings of several token types"),
        ("BartForSequenceClassification", "decoder_input_ids", "the model makes the decoder's tokens itself"),
        ("BigBirdForQuestionAnswering", "question_lengths", "computed from the other inputs"),
        (
            *("XmodModel", "lang_ids"),
            "the batch is split by its values: the graph uses the adapters of default_language",
        ),
        (
            *("BeitModel", "attention_mask"),
            "it would mask patches of images or spectrograms, of which preprocessors pad none",
        ),
    ],
)
def test_rules_leave_parameters_out(name: str, parameter: str, reason: str, tmp_path: Path) -> None:
    description = describe_checkpoint(checkpoint_of(name, tmp_path))
    assert description.left_out[parameter] == reason
    assert parameter not in {spec.name for graph in description.graphs for spec in graph.inputs}


def test_boxes_change_the_answer_of_an_export(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("LayoutLMForQuestionAnswering", tmp_path)
    onnxport.export(checkpoint, tmp_path / "out", ExportOptions(validate="quick"))
    model = transformers.LayoutLMForQuestionAnswering.from_pretrained(checkpoint).eval()
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    bbox = torch.randint(0, 30, (2, 9, 4), generator=torch.Generator().manual_seed(1)).sort(dim=-1).values
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "bbox": bbox}
    with torch.no_grad():
        expected, without = model(**inputs), model(**{**inputs, "bbox": torch.zeros_like(bbox)})
    exported = onnxport.load(tmp_path / "out")
    torch.testing.assert_close(exported(**inputs).start_logits, expected.start_logits, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(expected.start_logits, without.start_logits, atol=1e-2)


def test_a_mask_that_is_left_out_of_a_call_masks_nothing(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("PatchTSTForPrediction", tmp_path)
    onnxport.export(checkpoint, tmp_path / "out", ExportOptions(validate="quick"))
    model = transformers.PatchTSTForPrediction.from_pretrained(checkpoint).eval()
    values = torch.randn(3, model.config.context_length, model.config.num_input_channels)
    observed = (torch.rand(values.shape, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    exported = onnxport.load(tmp_path / "out")
    with torch.no_grad():
        full, masked = model(past_values=values), model(past_values=values, past_observed_mask=observed)
    found = exported(past_values=values).prediction_outputs
    torch.testing.assert_close(found, full.prediction_outputs, atol=1e-4, rtol=1e-4)
    found = exported(past_values=values, past_observed_mask=observed).prediction_outputs
    torch.testing.assert_close(found, masked.prediction_outputs, atol=1e-4, rtol=1e-4)


def test_outputs_that_come_with_an_input_are_outputs_of_the_graph() -> None:
    model = transformers.LukeModel(tiny_config("luke")).eval()
    (component,) = describe(model, canonical_task("feature-extraction"), None)
    assert "entity_last_hidden_state" in component.config.outputs


def test_a_printed_description_makes_its_inputs(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("LayoutLMForQuestionAnswering", tmp_path)
    printed = tmp_path / "description.py"
    printed.write_text(python_module(describe_checkpoint(checkpoint)))
    options = ExportOptions(description=str(printed), validate="quick")
    (component,) = onnxport.export(checkpoint, tmp_path / "out", options).manifest.components
    assert [tensor.name for tensor in component.inputs] == ["input_ids", "attention_mask", "bbox", "token_type_ids"]
    assert component.inputs[2].axes == ("batch_size", "sequence_length", 4)


def test_a_complete_description_stays_as_it_is() -> None:
    model = transformers.BertModel(tiny_config("bert")).eval()
    (component,) = describe(model, canonical_task("feature-extraction"), None)
    assert isinstance(component.config, CompletedOnnxConfig)
    again = completed(model, component.config, component.preprocessor, canonical_task("feature-extraction"))
    assert again is component.config
