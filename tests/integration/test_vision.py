"""The image size is static if the model fixes it, and dynamic otherwise."""

from __future__ import annotations

from pathlib import Path

import onnxport
from conformance.checkpoints import make_checkpoint


def test_the_image_size_of_a_vit_is_fixed(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("vit", "image-classification", tmp_path / "checkpoints")
    (component,) = onnxport.export(checkpoint, tmp_path / "out").manifest.components
    assert component.inputs[0].axes[0] == "batch_size"
    assert all(isinstance(axis, int) for axis in component.inputs[0].axes[1:])
    assert any("height" in fixed for fixed in component.fixed_axes)


def test_the_image_size_of_a_resnet_is_dynamic(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("resnet", "image-classification", tmp_path / "checkpoints")
    manifest = onnxport.export(checkpoint, tmp_path / "out").manifest
    assert manifest.components[0].inputs[0].axes[2:] == ("height", "width")
    cases = [case["name"] for case in manifest.validation["cases"]]
    assert {"preprocessor's image size", "other image size", "odd image size"} <= set(cases)
