"""`--image-processing`: graphs that take raw images, and return scores, boxes and maps of their size."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import onnxport
from conformance.checkpoints import make_checkpoint
from onnxport import ExportOptions, samples
from onnxport._describe import describe_checkpoint
from onnxport.cli import main
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime.directory import Directory
from onnxport.runtime.light import LightModel
from tests.integration.tiny_models import captioner, image_text_model

ROUNDED = 2e-2
"""Difference of outputs that pixels explain which Pillow and ONNX Runtime round to neighbouring values."""


def export(checkpoint: Path, task: str, **options: Any) -> Path:
    output = checkpoint.with_name(f"{checkpoint.name}-out")
    options = {"task": task, "image_processing": True, "stamping": False, **options}
    onnxport.export(checkpoint, output, ExportOptions(**options))
    return output


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("vit", "image-classification", tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def classifier(vit: Path) -> Path:
    return export(vit, "image-classification")


def test_a_classifier_takes_images_of_any_size(vit: Path, classifier: Path) -> None:
    model = transformers.AutoModelForImageClassification.from_pretrained(vit).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(vit)
    ours = onnxport.load(classifier)
    for image in (samples.image(), samples.image().resize((90, 200)).convert("L")):
        with torch.no_grad():
            expected = model(**processor(images=image.convert("RGB"), return_tensors="pt")).logits
        array = np.asarray(image.convert("RGB"))
        for images in (image, [image], array, torch.from_numpy(array.copy())[None]):
            found = ours(images=images)
            np.testing.assert_allclose(found.logits, expected, atol=ROUNDED)
            np.testing.assert_allclose(found.scores, torch.softmax(expected, -1), atol=ROUNDED)
        light = LightModel(Directory(classifier))(images=array)
        np.testing.assert_allclose(light["scores"], found.scores, atol=1e-6)


def test_the_manifest_has_the_steps(vit: Path, classifier: Path) -> None:
    manifest = onnxport.Manifest.from_json((classifier / "onnxport.json").read_text())
    component = manifest.components[0]
    (images,) = component.inputs
    assert (images.name, images.dtype) == ("images", "uint8")
    assert images.axes == ("batch_size", "image_height", "image_width", 3)
    assert [output.name for output in component.outputs] == ["logits", "scores"]
    steps = manifest.image_processing
    assert (steps["before"]["rule"], steps["before"]["sizes"]) == ("fixed", [32, 32])
    assert steps["after"]["type"] == "softmax"
    cases = {(case["component"], case["name"]) for case in manifest.validation["cases"]}
    assert {("image processing", "pixel values"), ("image processing", "results"), ("load", "image")} <= cases
    assert onnxport.validate(classifier).status == "passed"
    described = describe_checkpoint(vit, ExportOptions(image_processing=True)).graphs[0]
    specs = {spec.name: spec.axes for spec in (*described.inputs, *described.outputs)}
    assert specs == {tensor.name: tensor.axes for tensor in (*component.inputs, *component.outputs)}


def test_pipelines_and_run_take_images(
    vit: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples.image().save(tmp_path / "image.png")
    model = transformers.AutoModelForImageClassification.from_pretrained(vit)
    processor = transformers.AutoImageProcessor.from_pretrained(vit)
    expected = transformers.pipeline("image-classification", model=model, image_processor=processor)(samples.image())
    found = onnxport.pipeline("image-classification", classifier)(samples.image())
    assert [one["label"] for one in found] == [one["label"] for one in expected]
    np.testing.assert_allclose([one["score"] for one in found], [one["score"] for one in expected], atol=ROUNDED)
    assert main(["run", str(classifier), "--image", str(tmp_path / "image.png")]) == 0
    assert f"{expected[0]['label']} {found[0]['score']:.3f}" in capsys.readouterr().out


def test_run_takes_images_without_torch(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples.image().save(tmp_path / "image.png")
    expected = onnxport.load(classifier)(images=samples.image()).scores[0]
    monkeypatch.setattr("onnxport.runtime.generators.find_spec", lambda name: None)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("torch", "transformers")]:
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["run", str(classifier), "--image", str(tmp_path / "image.png"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(found["scores"]["first"], expected, atol=1e-6)


def test_quantized_graphs_are_measured_on_images(vit: Path, tmp_path: Path) -> None:
    options = ExportOptions(image_processing=True, dtype="int8", stamping=False)
    validation = onnxport.export(vit, tmp_path / "out", options).manifest.validation
    assert validation["losses"][0]["sample"] == "image"


def test_the_cache_of_graphs_serves_both(vit: Path, tmp_path: Path) -> None:
    for index, processing in enumerate((True, False, True)):
        options = ExportOptions(image_processing=processing, validate="none")
        manifest = onnxport.export(vit, tmp_path / str(index), options).manifest
        assert [tensor.name for tensor in manifest.components[0].inputs] == ["images" if processing else "pixel_values"]


def test_what_isnt_an_image_is_an_error(classifier: Path) -> None:
    ours = onnxport.load(classifier)
    array = np.asarray(samples.image())
    for images in (array.astype(np.float32) / 255, array[..., :1], array[..., 0]):
        with pytest.raises(OptionError, match=r"pass uint8, 0 to 255, \[batch, height, width, 3\]"):
            ours(images=images)
    with pytest.raises(OptionError, match="images have different shapes"):
        ours(images=[samples.image(), Image.new("RGB", (10, 10))])
    with pytest.raises(OptionError, match=r"pixel_values: no graph of .* takes it"):
        ours(pixel_values=torch.zeros(1, 3, 32, 32))


def test_half_precision_around_images(vit: Path, tmp_path: Path) -> None:
    options = ExportOptions(image_processing=True, dtype="fp16", io_dtype="fp32", stamping=False)
    component = onnxport.export(vit, tmp_path / "out", options).manifest.components[0]
    assert [tensor.dtype for tensor in (*component.inputs, *component.outputs)] == ["uint8", "float32", "float32"]


def outputs_of(found: Any) -> SimpleNamespace:
    return SimpleNamespace(**{name: torch.as_tensor(value) for name, value in found.items()})


def test_boxes_are_in_pixels_of_the_image(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("yolos", "object-detection", tmp_path)
    output = export(checkpoint, "object-detection", validate="quick")
    processor = transformers.AutoImageProcessor.from_pretrained(checkpoint)
    model = transformers.AutoModelForObjectDetection.from_pretrained(checkpoint).eval()
    image = samples.image()
    found = onnxport.load(output)(images=image)
    with torch.no_grad():
        outputs = model(**processor(images=image, return_tensors="pt"))
    (expected,) = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(240, 320)])
    np.testing.assert_allclose(found.scores[0], expected["scores"], atol=ROUNDED)
    np.testing.assert_allclose(found.boxes[0], expected["boxes"], atol=320 * ROUNDED)
    (same,) = processor.post_process_object_detection(outputs_of(found), threshold=0.0, target_sizes=[(240, 320)])
    for name, value in same.items():
        np.testing.assert_allclose(found[name][0], value, rtol=1e-5)


def test_graphs_that_dont_encode_images_alone_are_refused(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="no graph takes pixel_values"):
        export(bert, "fill-mask")
    with pytest.raises(UnsupportedError, match="what vision_encoder takes is made together with a prompt"):
        export(image_text_model(tmp_path, "Llava"), "image-to-text-with-past")


@pytest.mark.wide
def test_the_encoder_of_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = captioner(tmp_path)
    output = export(checkpoint, "image-to-text-with-past", validate="quick")
    model = transformers.AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(checkpoint)
    settings: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
    expected = model.generate(**processor(images=samples.image(), return_tensors="pt"), **settings)
    images = torch.from_numpy(np.asarray(samples.image()).copy())[None]
    assert torch.equal(onnxport.load(output).generate(images=images, **settings), expected)
    samples.image().save(tmp_path / "image.png")
    assert main(["run", str(output), "--image", str(tmp_path / "image.png"), "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out.strip()


def test_separate_encoders(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("clip", "default", tmp_path)
    output = export(checkpoint, "feature-extraction", split_encoders=True, validate="quick")
    model = transformers.AutoModel.from_pretrained(checkpoint).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(checkpoint)
    with torch.no_grad():
        expected = model.get_image_features(**processor(images=samples.image(), return_tensors="pt")).pooler_output
    np.testing.assert_allclose(onnxport.load(output)(images=samples.image()).image_embeds, expected, atol=ROUNDED)
