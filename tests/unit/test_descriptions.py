"""Printed descriptions: axes as sums of symbols, one table row for all layers."""

from __future__ import annotations

import pytest

from onnxport.cli._rendering import print_description
from onnxport.description.description import Description, GraphDescription, TensorSpec
from onnxport.tracing.probe import _formula

SIZES = {"batch": 2, "sequence": 8, "past_sequence": 10, "height": 32}


@pytest.mark.parametrize(
    ("size", "steps", "text"),
    [
        (8, {"sequence": 1.0}, "sequence"),
        (18, {"sequence": 1.0, "past_sequence": 1.0}, "past_sequence + sequence"),
        (9, {"sequence": 1.0}, "sequence + 1"),
        (7, {"sequence": 1.0}, "sequence - 1"),
        (4, {"height": 0.125}, "f(height)"),
        (48, {"batch": 24.0}, "f(batch)"),
        (16, {"batch": 1.0, "sequence": 1.0}, "f(batch, sequence)"),
    ],
)
def test_axis_expressions(size: int, steps: dict[str, float], text: str) -> None:
    assert _formula(size, steps, SIZES) == text


def test_axes_have_current_names() -> None:
    labels = {0: "batch", 1: "past_sequence + sequence", 2: "f(batch, height)"}
    tensor = TensorSpec.of("x", "int64", (2, 18, 5, 7), labels)
    assert tensor.axes == ("batch_size", "past_sequence_length + sequence_length", "f(batch_size, height)", 7)


def test_layers_share_one_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # set by test runners; output that isn't a terminal isn't truncated

    def cache(layer: int, heads: int) -> TensorSpec:
        return TensorSpec.of(f"past_key_values.{layer}.key", "float32", (2, heads, 3), {0: "batch"})

    tokens = TensorSpec.of("input_ids", "int64", (2, 8), {0: "batch", 1: "sequence"})
    inputs = (tokens, *(cache(layer, 4) for layer in range(12)), cache(12, 6), cache(14, 6))
    graph = GraphDescription("model", "", "x.Y", 20, 1e-5, 5e-4, inputs, fixed_axes=("a: b = 3",))
    print_description(
        Description("bert", "Class", "text-generation", "fp32", (graph,), notes=("it was loaded",), model="m")
    )
    text = capsys.readouterr().out
    assert "past_key_values.0…11.key" in text
    assert "past_key_values.12,14.key" in text
    assert "fixed by the model: model, a: b = 3" in text
    assert "note: it was loaded" in text
