"""Every (model type, feature) pair of 4.37.2 has the facts that were recorded from 4.37.2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from onnxport.configs.model_types import CONFIG_CLASSES, load_config_class
from onnxport.onnx.features import FeaturesManager

FACTS = json.loads((Path(__file__).parent / "data" / "facts.json").read_text())
PROPERTIES = (
    "default_onnx_opset",
    "atol_for_validation",
    "values_override",
    "task",
    "num_layers",
    "num_attention_heads",
)
DIFFERENT = {
    (
        "blenderbot",
        "causal-lm-with-past",
        "outputs",
    ): "the original used the encoder's number of layers for the decoder's cache",
    ("roformer", "multiple-choice", "inputs"): "the original omitted the axis of the choices",
}
"""(model type, feature, fact) that the compatibility page lists as corrected."""


def model_config(record: dict[str, Any]) -> Any:
    config_class = getattr(transformers, record["model_config_class"])
    if record["facts_from"] == "default configuration":
        return config_class()
    subconfigs = record["dummy_model_config"]["arguments"]
    encoder, decoder = (getattr(transformers, name)(**values) for name, values in subconfigs.values())
    return config_class.from_encoder_decoder_configs(encoder, decoder)


def summary(names: Any) -> dict[str, Any]:
    """Return the names in order with their axes, only the first layer of a cache; and the number of names."""
    shown = {
        name: {str(axis): label for axis, label in axes.items()}
        for name, axes in names.items()
        if not name.startswith(("past_key_values", "present")) or name.split(".")[1] == "0"
    }
    return {"named": shown, "count": len(names)}


@pytest.mark.parametrize("record", FACTS, ids=lambda r: f"{r['model_type']}:{r['feature']}")
def test_pair_has_the_recorded_facts(record: dict[str, Any]) -> None:
    model_type, feature = record["model_type"], record["feature"]
    config = FeaturesManager.get_config(model_type, feature)(model_config(record))
    assert type(config).__name__ == record["config_class"]
    assert str(config.torch_onnx_minimum_version) == record["torch_onnx_minimum_version"]
    for name in PROPERTIES:
        if record.get(name) is not None:
            value = getattr(config, name)
            assert (list(value) if isinstance(value, tuple) else value) == record[name], name
    for side in ("inputs", "outputs"):
        if side not in record or (model_type, feature, side) in DIFFERENT:
            continue
        found = summary(getattr(config, side))
        assert found == record[side]
        assert list(found["named"]) == list(record[side]["named"])


def test_the_differences_are_real() -> None:
    for model_type, feature, side in DIFFERENT:
        record = next(r for r in FACTS if (r["model_type"], r["feature"]) == (model_type, feature))
        config = FeaturesManager.get_config(model_type, feature)(model_config(record))
        assert summary(getattr(config, side)) != record[side]


def test_all_pairs_are_listed_in_order() -> None:
    recorded = [(record["model_type"], record["feature"]) for record in FACTS]
    pairs = [(t, f) for t, features in FeaturesManager._SUPPORTED_MODEL_TYPE.items() for f in features]
    assert [pair for pair in pairs if pair in recorded] == recorded
    assert len(recorded) == 265


@pytest.mark.parametrize("name", CONFIG_CLASSES)
def test_every_class_of_4_37_exists(name: str) -> None:
    assert load_config_class(name).__name__ == name


DUMMIES = [record for record in FACTS if record.get("dummy_inputs")]


@pytest.mark.parametrize("record", DUMMIES, ids=lambda r: f"{r['model_type']}:{r['feature']}")
def test_pair_makes_the_recorded_dummy_inputs(record: dict[str, Any]) -> None:
    import torch

    from conformance.checkpoints import make_config
    from conformance.preprocessors import make_preprocessor

    model_type, feature = record["model_type"], record["feature"]
    model = make_config(model_type, feature)
    config = FeaturesManager.get_config(model_type, feature)(model)
    dummy_inputs = config.generate_dummy_inputs(make_preprocessor(model_type, feature, model), framework="pt")
    found: dict[str, Any] = {}
    for name, value in dummy_inputs.items():
        parts = (
            {name: value} if isinstance(value, torch.Tensor) else {f"{name}.0.{i}": t for i, t in enumerate(value[0])}
        )
        found |= {key: [list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in parts.items()}
    expected = dict(record["dummy_inputs"]["named"])
    if expected.get("decoder_attention_mask", [None, ""])[1] == "float32":
        expected["decoder_attention_mask"] = [
            expected["decoder_attention_mask"][0],
            "int64",
        ]  # the original's float mask
    assert found == expected
