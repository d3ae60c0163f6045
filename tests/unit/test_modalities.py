"""A task with images or audio requires a graph with such an input."""

from types import SimpleNamespace
from typing import Any

import pytest
import transformers

from onnxport.description.modalities import accepts_modality, needed_modality, takes_modality
from onnxport.description.tasks import canonical_task


@pytest.mark.parametrize(
    ("name", "task", "decodes", "needed"),
    [
        ("LlavaForConditionalGeneration", "image-to-text", True, "images"),
        ("GitForCausalLM", "image-to-text-with-past", True, "images"),
        ("VoxtralForConditionalGeneration", "audio-text-to-text", True, "images or audio"),
        ("VoxtralForConditionalGeneration", "text2text-generation", True, "images or audio"),
        ("WhisperForConditionalGeneration", "automatic-speech-recognition", False, "audio"),
        ("T5ForConditionalGeneration", "text2text-generation", False, None),
        ("LlavaForConditionalGeneration", "feature-extraction", False, None),
        ("DiaForConditionalGeneration", "automatic-speech-recognition", False, None),
        ("Mistral4ForCausalLM", "image-to-text", True, None),
    ],
)
def test_the_required_modalities_of_a_task(name: str, task: str, decodes: bool, needed: str | None) -> None:
    assert needed_modality(getattr(transformers, name), canonical_task(task), decodes=decodes) == needed


@pytest.mark.parametrize(
    ("names", "takes"),
    [
        (["input_ids", "attention_mask", "position_ids"], False),
        (["input_ids", "image_sizes", "pixel_mask", "image_embeds_position_mask", "input_features_mask"], False),
        (["pixel_values", "image_grid_thw"], True),
        (["input_features"], True),
        (["flattened_patches"], True),
    ],
)
def test_masks_and_sizes_do_not_count_as_images(names: list[str], takes: bool) -> None:
    config: Any = SimpleNamespace(inputs=dict.fromkeys(names))
    assert takes_modality(config) is takes


def test_text_only_classes() -> None:
    assert accepts_modality(transformers.FuyuForCausalLM)
    assert not accepts_modality(transformers.LlamaForCausalLM)
