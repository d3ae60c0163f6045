"""A graph with stamped layers equals the graph with all layers traced."""

from pathlib import Path

import pytest

from conformance.stamped import ARCHITECTURES, blueprint, save, structure
from tests.breadth import sampled

EVERY_TIME = ("DebertaV2", "GPT2", "Gemma3Text", "ViT")
"""One architecture for each pattern of repeated layers; `make conformance` compares the others."""


@pytest.mark.parametrize("name", sampled(ARCHITECTURES, EVERY_TIME))
def test_the_stamped_graph_equals_the_traced_one(name: str, tmp_path: Path) -> None:
    checkpoint = save(name, tmp_path / "checkpoint")
    stamped = blueprint(name, checkpoint, stamping=True)
    for depth in stamped.trace.depths:
        assert depth.layers and not depth.note
        assert all(len(layers.traced) < len(layers.full) for layers in depth.layers)
    assert structure(stamped) == structure(blueprint(name, checkpoint, stamping=False))
