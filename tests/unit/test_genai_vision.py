"""The operations on an image that onnxruntime-genai gets are those of Transformers' image processors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from onnxport.bundles.manifest import Manifest
from onnxport.layouts._genai_vision import image_processor
from onnxport.layouts._layout import Exported


def operations(directory: Path, model_type: str) -> list[tuple[str, dict[str, Any]]]:
    manifest = Manifest("image-to-text-with-past", {"model_type": model_type}, {}, {}, (), {})
    files = image_processor(Exported(directory, manifest))
    transforms = json.loads(files["image_processor_config.json"])["processor"]["transforms"] if files else []
    return [(one["operation"]["type"], one["operation"].get("attrs", {})) for one in transforms]


def test_qwens_images_are_cut_into_patches(tmp_path: Path) -> None:
    Qwen2VLImageProcessorPil(patch_size=8, min_pixels=1024, max_pixels=5120).save_pretrained(tmp_path)
    found = operations(tmp_path, "qwen2_5_vl")
    assert [name for name, _ in found] == ["DecodeImage", "Resize", "Rescale", "Normalize", "PatchImage"]
    assert found[1][1] == {
        **{"smart_resize": 1, "min_pixels": 1024, "max_pixels": 5120},
        **{"patch_size": 8, "merge_size": 2, "interpolation": "CUBIC"},
    }
    assert found[4][1] == {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}


def test_gemmas_images_have_one_size(tmp_path: Path) -> None:
    Gemma3ImageProcessorPil(size={"height": 56, "width": 28}).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": settings}))  # as processors save it
    found = dict(operations(tmp_path, "gemma3"))
    assert found["Resize"] == {"height": 56, "width": 28, "keep_aspect_ratio": 0, "interpolation": "LINEAR"}
    assert found["Normalize"] == {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    assert found["Permute3D"] == {"dims": [2, 0, 1]}


def test_mistrals_images_are_multiples_of_merged_patches(tmp_path: Path) -> None:
    PixtralImageProcessorPil(size={"longest_edge": 1540}).save_pretrained(tmp_path)
    config = {"vision_config": {"patch_size": 14}, "spatial_merge_size": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = dict(operations(tmp_path, "mistral3"))
    limits = {"min_pixels": 28 * 28, "max_pixels": 1540 * 1540}
    assert found["Resize"] == {"smart_resize": 1, **limits, "patch_size": 14, "merge_size": 2, "interpolation": "CUBIC"}
    assert list(found)[-1] == "PixtralImageSizes"


@pytest.mark.parametrize("settings", [{}, {"size": {"shortest_edge": 32}, "image_mean": [0, 0, 0]}, {"size": 5}])
@pytest.mark.parametrize("model_type", ["gemma3", "qwen2_vl", "mistral3"])
def test_other_settings_describe_no_processing(settings: dict[str, Any], model_type: str, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    assert operations(tmp_path, model_type) == []
