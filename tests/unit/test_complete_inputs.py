"""Missing inputs get the values for sequences without padding, or images without a mask."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from onnxport.runtime.graph import TensorSpec
from onnxport.runtime.light import complete_inputs


def graph(**inputs: tuple[str, tuple[int | str, ...]]) -> Any:
    return SimpleNamespace(inputs={name: TensorSpec(name, dtype, axes) for name, (dtype, axes) in inputs.items()})


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
