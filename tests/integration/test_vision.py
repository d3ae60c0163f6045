"""A picture's size: fixed where the model fixes it, free where it doesn't."""

from __future__ import annotations

from pathlib import Path

import onnxport
from conformance.checkpoints import make_checkpoint


def test_a_vit_fixes_its_images_and_says_so(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("vit", "image-classification", tmp_path / "checkpoints")
    (component,) = onnxport.export(checkpoint, tmp_path / "out").manifest.components
    assert component.inputs[0].axes[0] == "batch_size"
    assert all(isinstance(axis, int) for axis in component.inputs[0].axes[1:])
    assert any("height" in fixed for fixed in component.fixed_axes)


def test_a_resnet_takes_any_image(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("resnet", "image-classification", tmp_path / "checkpoints")
    manifest = onnxport.export(checkpoint, tmp_path / "out").manifest
    assert manifest.components[0].inputs[0].axes[2:] == ("height", "width")
    assert "other image size" in [case["name"] for case in manifest.validation["cases"]]
