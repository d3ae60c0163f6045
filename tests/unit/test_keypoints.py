"""Keypoints of several images at once, and matches of several pairs, are those that Transformers finds one by one."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    LightGlueConfig,
    LightGlueForKeypointMatching,
    SuperPointConfig,
    SuperPointForKeypointDetection,
)

from onnxport.architectures._patches import patches_of


def _scaled(model: torch.nn.Module) -> torch.nn.Module:
    """Give a model weights with which keypoints and matches differ from image to image."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, (3.0 if "score_b" in name else 1.5) * parameter[0].numel() ** -0.5)
            elif "token_confidence" in name:
                parameter.fill_(1.5)
    return model.eval()


def _detector(max_keypoints: int) -> SuperPointConfig:
    sizes = {"encoder_hidden_sizes": [8, 8, 16, 16], "decoder_hidden_size": 32, "descriptor_decoder_dim": 32}
    return SuperPointConfig(**sizes, max_keypoints=max_keypoints)


def _compare(model: torch.nn.Module, images: torch.Tensor, names: tuple[str, ...], monkeypatch) -> torch.nn.Module:
    with torch.no_grad():
        expected = model(images)
        for patch in patches_of(model):
            replacement = patch.resolve()
            monkeypatch.setattr(replacement.owner, replacement.name, replacement.value)
        found = model(images)
    assert set(found) == set(expected)
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
    return expected


def test_keypoints_of_images_with_different_numbers_of_them(monkeypatch):
    torch.manual_seed(0)
    model = _scaled(SuperPointForKeypointDetection(_detector(-1)))
    names = ("keypoints", "scores", "descriptors", "mask")
    images = torch.rand(5, 3, 64, 48)
    with monkeypatch.context() as patched:
        counts = _compare(model, images, names, patched).mask.sum(dim=1)
    assert counts.min() < counts.max(), "the images have different numbers of keypoints"
    model.keypoint_decoder.max_keypoints = int(counts.max()) - 1
    with monkeypatch.context() as patched:
        fewer = _compare(model, images, names, patched).mask.sum(dim=1)
    assert fewer.max() == counts.max() - 1, "an image has more keypoints than are kept"


@pytest.mark.parametrize("pairs", [1, 4])
@pytest.mark.parametrize("seed", [11, 22])
def test_pairs_that_stop_at_different_layers_match_as_one_by_one(seed, pairs, monkeypatch):
    torch.manual_seed(seed)
    sizes = {"descriptor_dim": 32, "num_hidden_layers": 5, "num_attention_heads": 4}
    confidences = {"depth_confidence": 0.7, "width_confidence": 0.5, "filter_threshold": 0.01}
    config = LightGlueConfig(keypoint_detector_config=_detector(-1), **sizes, **confidences)
    model = _scaled(LightGlueForKeypointMatching(config))
    found = _compare(model, torch.rand(pairs, 2, 3, 64, 48), ("matches", "prune", "keypoints", "mask"), monkeypatch)
    assert found.prune.unique().numel() > 1, "some keypoints are dropped"
    assert found.matches.max() >= 0, "some keypoints are matched"
