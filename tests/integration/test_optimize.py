"""`--optimize cpu` fuses the operators of encoders, encoder-decoders, images and audio, and the graphs are validated.

`test_generation.py` generates with fused decoders, from prompts padded on the left.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

import onnxport
from conformance.matrix.tiny import checkpoint_of
from onnxport import ExportOptions
from onnxport.errors import OptionError
from onnxport.options import Optimize
from tests.breadth import sampled

LAYERS = 4
"""Layers of a tiny model, of its encoder, and of its decoder."""
CASES = {
    "bert": ("fill-mask", {"Attention": LAYERS}),
    "distilbert": ("text-classification", {"Attention": LAYERS}),
    "roberta": ("token-classification", {"Attention": LAYERS}),
    "vit": ("image-classification", {"Attention": LAYERS}),
    "clip": ("zero-shot-image-classification", {"Attention": 2 * LAYERS}),
    "wav2vec2": ("audio-classification", {"Attention": LAYERS}),
    "whisper": ("automatic-speech-recognition-with-past", {"Attention": 3 * LAYERS}),
    "bart": ("text2text-generation-with-past", {"Attention": 3 * LAYERS}),
    "t5": ("text2text-generation-with-past", {"Attention": 3 * LAYERS, "RMSNormalization": 5 * LAYERS + 2}),
    "qwen3": (
        "text-generation-with-past",
        {"GroupQueryAttention": LAYERS, "RMSNormalization": 4 * LAYERS + 1, "RotaryEmbedding": 2 * LAYERS},
    ),
    "gemma2": (
        "text-generation-with-past",
        {"GroupQueryAttention": LAYERS, "RMSNormalization": 4 * LAYERS + 1, "RotaryEmbedding": 2 * LAYERS},
    ),
    "gpt_oss": (
        "text-generation-with-past",
        {"GroupQueryAttention": LAYERS, "RMSNormalization": 2 * LAYERS + 1, "RotaryEmbedding": 2 * LAYERS},
    ),
    "phi": (
        "text-generation-with-past",
        {"GroupQueryAttention": LAYERS, "Gelu": LAYERS, "RotaryEmbedding": 2 * LAYERS},
    ),
}
"""Model type to a task and the fused operators of all graphs, without `Gelu` of the traced graph."""


@pytest.mark.parametrize("model_type", sampled(CASES, ["bert", "phi"]))
def test_fused_graphs_are_validated(model_type: str, tmp_path: Path) -> None:
    task, expected = CASES[model_type]
    source, _ = checkpoint_of(model_type, task, tmp_path)
    result = onnxport.export(source, tmp_path / "fused", ExportOptions(task=task, optimize="cpu"))
    assert result.manifest.validation["status"] == "passed"
    found: Counter[str] = Counter()
    for component in result.manifest.components:
        found.update(component.fused)
        assert component.opset == 23
    assert {name: found[name] for name in expected} == expected
    recorded = json.loads((tmp_path / "fused" / "onnxport.json").read_text())
    assert recorded["options"]["optimize"] == "cpu"
    assert recorded["components"][0]["fused"] == result.manifest.components[0].fused


@pytest.mark.parametrize(
    ("target", "model_type", "expected"),
    [
        ("cuda", "phi", {"FastGelu": LAYERS, "GroupQueryAttention": LAYERS, "SkipLayerNormalization": LAYERS}),
        ("webgpu", "t5", {"MultiHeadAttention": 3 * LAYERS, "SkipSimplifiedLayerNormalization": 5 * LAYERS}),
        ("dml", "bert", {"MultiHeadAttention": LAYERS, "SkipLayerNormalization": 2 * LAYERS}),
    ],
)
def test_graphs_for_gpus_are_validated_on_the_cpu(
    target: Optimize, model_type: str, expected: dict[str, int], tmp_path: Path
) -> None:
    task, _ = CASES[model_type]
    source, _ = checkpoint_of(model_type, task, tmp_path)
    result = onnxport.export(source, tmp_path / "fused", ExportOptions(task=task, optimize=target))
    assert result.manifest.validation["status"] == "passed"
    found: Counter[str] = Counter()
    for component in result.manifest.components:
        found.update(component.fused)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("target", "opset", "allowed"), [("cpu", 20, "from 23"), ("cuda", 23, "up to 22"), ("dml", 23, "up to 22")]
)
def test_an_opset_of_other_operators_is_an_error(target: Optimize, opset: int, allowed: str) -> None:
    with pytest.raises(OptionError, match=rf"--optimize {target} is for opsets {allowed}, not {opset}: leave --opset"):
        ExportOptions(optimize=target, opset=opset)
