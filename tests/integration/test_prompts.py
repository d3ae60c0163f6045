"""SAM's prompts: points, boxes and a mask, each of which may be left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

import onnxport
from conformance.checkpoints import randomize
from conformance.matrix.shrink import tiny_config
from onnxport import ExportOptions
from tests.breadth import sampled

PROMPTS = ("input_points", "input_boxes", "input_masks")
COMBINATIONS = [[name for bit, name in enumerate(PROMPTS) if number >> bit & 1] for number in range(8)]


@pytest.fixture(scope="module", params=sampled(("SamModel", "Sam2Model"), ("SamModel",)))
def segmenter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Return a model, and its export as it is loaded."""
    model_class, root = getattr(transformers, request.param), tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model = model_class(tiny_config(model_class.config_class.model_type, "mask-generation")).eval()
    randomize(model)
    model.save_pretrained(root / "checkpoint")
    onnxport.export(root / "checkpoint", root / "out", ExportOptions())
    return model, onnxport.load(root / "out")


@pytest.mark.parametrize("given", COMBINATIONS, ids="+".join)
@pytest.mark.parametrize("batch", [1, 2])
def test_every_combination_of_prompts(segmenter: tuple[Any, Any], given: list[str], batch: int) -> None:
    model, loaded = segmenter
    side = model.config.prompt_encoder_config.image_size
    rows = 4 * side // model.config.prompt_encoder_config.patch_size
    generator = torch.Generator().manual_seed(batch)
    prompts = {
        "input_points": torch.rand(batch, 3, 4, 2, generator=generator) * side,
        "input_boxes": torch.rand(batch, 3, 4, generator=generator) * side,
        "input_masks": torch.randn(batch, 1, rows, rows, generator=generator),
    }
    inputs = {"pixel_values": torch.randn(batch, 3, side, side, generator=generator)}
    inputs |= {name: prompts[name] for name in given}
    if "input_points" in given:
        inputs["input_labels"] = torch.randint(-1, 2, (batch, 3, 4), generator=generator)
    with torch.no_grad():
        expected = model(**inputs)
    found = loaded(**inputs)
    assert found["pred_masks"].shape == expected.pred_masks.shape
    torch.testing.assert_close(found["pred_masks"], expected.pred_masks, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["iou_scores"], expected.iou_scores, atol=1e-4, rtol=1e-4)
