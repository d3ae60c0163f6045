"""Missing inputs get the values for sequences without padding, or images without a mask."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from onnxport.runtime.graph import TensorSpec
from onnxport.runtime.light import complete_inputs


def graph(**inputs: tuple[str, tuple[int | str, ...]]) -> Any:
    specs = {name: TensorSpec(name, dtype, axes) for name, (dtype, axes) in inputs.items()}
    return SimpleNamespace(inputs=specs, defaults={}, embedding=None)


def test_token_inputs() -> None:
    tokens = ("int64", ("batch_size", "sequence_length"))
    names = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
    cache = {"past_key_values.0.key": ("float16", ("batch_size", 2, "past_sequence_length", 4))}
    found = complete_inputs(
        graph(**dict.fromkeys(names, tokens), **cache), {"input_ids": np.full((2, 3), 7), "other": 1}
    )
    assert found["attention_mask"].tolist() == [[1, 1, 1]] * 2
    assert found["token_type_ids"].tolist() == [[0, 0, 0]] * 2
    assert found["position_ids"].tolist() == [[0, 1, 2]] * 2
    assert found["past_key_values.0.key"].shape == (2, 2, 0, 4)
    assert "other" not in found


def test_image_inputs() -> None:
    pixels = {"pixel_values": ("float32", ("batch_size", 3, "height", "width"))}
    mask = {"pixel_mask": ("int64", ("batch_size", "height", "width"))}
    found = complete_inputs(graph(**pixels, **mask), {"pixel_values": np.zeros((2, 3, 4, 5))})
    assert found["pixel_mask"].shape == (2, 4, 5)
    assert found["pixel_mask"].all()


def test_inputs_whose_sizes_follow_from_others() -> None:
    series = ("float32", ("batch_size", 32, 1))
    found = complete_inputs(
        graph(past_values=series, past_observed_mask=series), {"past_values": np.zeros((3, 32, 1), "float32")}
    )
    assert found["past_observed_mask"].shape == (3, 32, 1)
    assert found["past_observed_mask"].all()


def test_an_input_without_a_default_stays_missing() -> None:
    entities = ("int64", ("batch_size", "entity_length"))
    found = complete_inputs(
        graph(input_ids=("int64", ("batch_size", "sequence_length")), entity_ids=entities, entity_mask=entities),
        {"input_ids": np.ones((2, 3))},
    )
    assert set(found) == {"input_ids"}


def test_prompts_of_sam_are_empty() -> None:
    prompts = {
        "input_points": ("float32", ("batch_size", "prompts", "points", 2)),
        "input_labels": ("int64", ("batch_size", "prompts", "points")),
        "input_boxes": ("float32", ("batch_size", "prompts", "box_coordinates")),
        "input_masks": ("float32", ("num_masks", 1, 16, 16)),
    }
    pixels = {"pixel_values": ("float32", ("batch_size", 3, 64, 64))}
    found = complete_inputs(graph(**pixels, **prompts), {"pixel_values": np.zeros((2, 3, 64, 64))})
    shapes = {name: found[name].shape for name in prompts}
    assert shapes["input_points"] == (2, 1, 0, 2)
    assert shapes["input_labels"] == (2, 1, 0)
    assert shapes["input_boxes"] == (2, 1, 0)
    assert shapes["input_masks"] == (0, 1, 16, 16)
    boxes = {"pixel_values": np.zeros((2, 3, 64, 64)), "input_boxes": np.zeros((2, 5, 4))}
    assert complete_inputs(graph(**pixels, **prompts), boxes)["input_points"].shape == (2, 5, 0, 2)


def test_a_mask_without_padding() -> None:
    tokens = ("int64", ("batch_size", "sequence_length"))
    names = ("input_ids", "attention_mask", "p_mask")
    found = complete_inputs(graph(**dict.fromkeys(names, tokens)), {"input_ids": np.full((2, 3), 7)})
    assert (found["attention_mask"].all(), found["p_mask"].any()) == (True, False)


def test_defaults_of_the_manifest() -> None:
    tokens = ("int64", ("batch_size", "sequence_length"))
    boxes = ("int64", ("batch_size", "sequence_length", 4))
    described = graph(input_ids=tokens, global_attention_mask=tokens, bbox=boxes, attention_mask=tokens)
    described.defaults = {"global_attention_mask": "first", "bbox": "zeros", "attention_mask": "required"}
    found = complete_inputs(described, {"input_ids": np.ones((2, 3))})
    assert found["global_attention_mask"].tolist() == [[1, 0, 0]] * 2
    assert found["bbox"].shape == (2, 3, 4)
    assert "attention_mask" not in found


def test_the_default_mask_of_patches_has_their_rows_and_columns() -> None:
    images, mask = ("float32", ("batch_size", 3, "height", "width")), ("bool", ("batch_size", "rows", "columns"))
    described = graph(pixel_values=images, patch_attention_mask=mask)
    described.defaults = {"patch_attention_mask": "patches/8"}
    found = complete_inputs(described, {"pixel_values": np.ones((2, 3, 16, 28))})
    assert found["patch_attention_mask"].shape == (2, 2, 3)
    assert found["patch_attention_mask"].all()
