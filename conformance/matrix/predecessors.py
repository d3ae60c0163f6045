"""The pairs of the predecessors, optimum-onnx 0.1.0 and `transformers.onnx` 4.37.2, under their names of today.

`predecessors.json` has optimum-onnx's table for Transformers' models: model type to tasks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from conformance.pairs import pairs as pairs_of_4_37
from onnxport.description.tasks import canonical_task

Pair = tuple[str, str]

OPTIMUM, TRANSFORMERS = "optimum-onnx 0.1.0", "transformers.onnx 4.37.2"

_RENAMED = {
    ("decision_transformer", "reinforcement-learning"): ("decision_transformer", "feature-extraction"),
    ("dpt", "image-segmentation"): ("dpt", "semantic-segmentation"),
    ("mobilevit", "image-segmentation"): ("mobilevit", "semantic-segmentation"),
    ("segformer", "image-segmentation"): ("segformer", "semantic-segmentation"),
    ("siglip-text", "feature-extraction"): ("siglip_text_model", "feature-extraction"),
    ("siglip-text-with-projection", "feature-extraction"): ("siglip_text_model", "feature-extraction"),
    ("vitpose", "keypoint-detection"): ("vitpose", "pose-estimation"),
}
"""A predecessor's pair to the pair of today's Auto classes, where the names differ."""

GONE = {
    ("clip", "sentence-similarity"): "a sentence-transformers directory, which the tests export: its class has no pair",
    ("internlm2", "text-generation"): "its code is in the checkpoint, not in Transformers: --trust-remote-code",
    (
        "internlm2",
        "text-generation-with-past",
    ): "its code is in the checkpoint, not in Transformers: --trust-remote-code",
    ("mctct", "automatic-speech-recognition"): "Transformers 5 has no such model",
    ("mctct", "feature-extraction"): "Transformers 5 has no such model",
    ("trocr", "feature-extraction"): "Transformers only has the decoder with a head: text-generation",
    ("trocr", "feature-extraction-with-past"): "Transformers only has the decoder with a head: text-generation",
}
"""Pairs that no longer exist to the reason."""


def predecessors() -> dict[str, list[Pair]]:
    """Return the pairs of each predecessor under today's names; those in `GONE` have their old names."""
    types = json.loads(Path(__file__).with_name("predecessors.json").read_text())
    of_optimum = [(model_type, task) for model_type, tasks in types.items() for task in tasks.split()]
    return {OPTIMUM: _renamed(of_optimum), TRANSFORMERS: _renamed(pairs_of_4_37())}


def _renamed(pairs: Iterable[Pair]) -> list[Pair]:
    return list(dict.fromkeys(_today(pair) for pair in pairs))


def _today(pair: Pair) -> Pair:
    if pair in GONE:
        return pair
    model_type, task = _RENAMED.get(pair, pair)
    return _model_type(model_type), canonical_task(task).full_name


def _model_type(name: str) -> str:
    """Return Transformers' spelling of a model type; predecessors used hyphens."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return name if name in CONFIG_MAPPING_NAMES else name.replace("-", "_")
