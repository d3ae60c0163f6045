"""Outputs of a graph have the structure of Transformers' outputs."""

from __future__ import annotations

from onnxport.runtime.outputs import model_output


def test_numbered_outputs_are_a_tuple() -> None:
    found = model_output({"logits": 1, "mems.0": 2, "mems.1": 3})
    assert found.logits == 1
    assert found.mems == (2, 3)
    assert list(found) == ["logits", "mems"]


def test_outputs_of_a_submodel_are_nested() -> None:
    found = model_output({"logits": 0, "vision_outputs.pooler_output": 1, "vision_outputs.feature_maps.0": 2})
    assert found.vision_outputs.pooler_output == 1
    assert found.vision_outputs.feature_maps == (2,)


def test_numbered_outputs_with_names_are_a_tuple_of_outputs() -> None:
    found = model_output({"last_hidden_state": 0, "present.0.key": 1, "present.0.value": 2, "present.1.key": 3})
    assert [dict(layer) for layer in found.present] == [{"key": 1, "value": 2}, {"key": 3}]
