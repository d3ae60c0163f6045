"""The graphs of image processors make the pixel values and results that Transformers makes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import transformers

from onnxport import samples
from onnxport.blueprints.image_processing import (
    find_postprocessing,
    find_preprocessing,
    process_images,
    runner,
    tolerance_of,
)
from onnxport.description.image_processing import (
    HEIGHT,
    WIDTH,
    ImagePostprocessing,
    ImagePreprocessing,
    ImageProcessing,
)
from onnxport.errors import UnsupportedError

OPSET = 20
FLOATS = ir.TensorType(ir.DataType.FLOAT)
SQUARE, EDGE, EDGES = {"height": 32, "width": 40}, {"shortest_edge": 37}, {"shortest_edge": 40, "longest_edge": 90}
CROP = {"height": 30, "width": 36}
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "height and width": ("ViT", {"size": SQUARE}),
    "other mean and factor": ("ViT", {"size": SQUARE, "image_mean": [0.1, 0.2, 0.3], "rescale_factor": 1 / 127.5}),
    "not normalized": ("ViT", {"size": SQUARE, "do_normalize": False}),
    "not resized": ("ViT", {"do_resize": False}),
    "shortest edge and center": ("CLIP", {"size": EDGE, "crop_size": CROP}),
    "center that is larger than the image": ("CLIP", {"size": EDGE, "crop_size": {"height": 50, "width": 43}}),
    "shortest and longest edge": ("Detr", {"size": EDGES}),
    "largest size within bounds": ("Detr", {"size": {"max_height": 50, "max_width": 70}}),
    "multiples of 16": ("Yolos", {"size": EDGES}),
    "multiples of a divisor": ("GLPN", {"size_divisor": 32}),
    "multiples, rounded up": ("TextNet", {"size": EDGE}),
    "multiples, with the aspect ratio": ("DPT", {"size": SQUARE, "keep_aspect_ratio": True, "ensure_multiple_of": 14}),
    "share of the image": ("ConvNext", {"size": EDGE}),
    "warped to a square": ("ConvNext", {"size": {"shortest_edge": 384}}),
    "edge by 256 / 224": ("Levit", {"size": EDGE, "crop_size": CROP}),
    "share of the image, then the center": ("PoolFormer", {"size": EDGE, "crop_size": CROP}),
    "channels in reverse": ("MobileViT", {"size": EDGE, "crop_size": CROP}),
    "offset, and normalized twice": ("EfficientNet", {"size": SQUARE, "rescale_offset": True, "include_top": True}),
}


def make(name: str, settings: dict[str, Any]) -> Any:
    return getattr(transformers, f"{name}ImageProcessorPil")(**settings)


@pytest.mark.parametrize("case", PROCESSORS)
def test_a_graph_makes_the_pixel_values_of_a_processor(case: str) -> None:
    processor = make(*PROCESSORS[case])
    steps = find_preprocessing(processor, OPSET)
    compute, photo = runner(steps, OPSET), samples.image()
    for size in ((101, 67), (64, 200), (40, 40)):  # others than those by which the steps were found
        image = np.asarray(photo.resize(size))
        expected = processor(images=[image], return_tensors="pt")["pixel_values"].numpy()
        found = compute(image[None])
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=tolerance_of(steps))
        assert np.abs(found - expected).mean() < max(map(abs, steps.scale)) / 4  # most are rounded to the same value


def test_a_batch() -> None:
    processor = make("CLIP", {"size": EDGE, "crop_size": CROP})
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 60, 3), dtype=np.uint8)
    expected = processor(images=list(images), return_tensors="pt")["pixel_values"].numpy()
    steps = find_preprocessing(processor, OPSET)
    np.testing.assert_allclose(runner(steps, OPSET)(images), expected, atol=tolerance_of(steps))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("CLIP", {"resample": 1}, "resamples with Pillow's filter 1"),
        ("CLIP", {"resample": 0}, "resamples with Pillow's filter 0"),
        ("LlavaNext", {}, "makes image_sizes, too"),
        ("Donut", {"size": SQUARE}, "computes more than to resize, crop, rescale and normalize"),
        ("VideoMAE", {}, "makes several parts"),
        ("Pix2Struct", {}, "can't be computed in the graph"),
    ],
)
def test_what_cannot_be_computed_is_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        find_preprocessing(make(name, settings), OPSET)


@pytest.mark.parametrize(
    ("name", "task", "expected"),
    [
        ("Detr", "object-detection", ImagePostprocessing("boxes")),
        ("RTDetr", "object-detection", ImagePostprocessing("top_boxes")),
        ("DeformableDetr", "object-detection", ImagePostprocessing("top_boxes", 100)),
        ("Segformer", "semantic-segmentation", ImagePostprocessing("segmentation")),
        ("DPT", "depth-estimation", ImagePostprocessing("depth")),
        ("ViT", "object-detection", None),
        ("ViT", "feature-extraction", None),
    ],
)
def test_postprocessing_is_found_by_its_results(name: str, task: str, expected: ImagePostprocessing | None) -> None:
    assert find_postprocessing(make(name, {}), transformers.PreTrainedConfig(), task, OPSET) == expected


def test_scores_are_those_of_the_problem() -> None:
    for settings, kind in (
        ({"num_labels": 3}, "softmax"),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, "sigmoid"),
        ({"num_labels": 1}, "sigmoid"),
    ):
        found = find_postprocessing(None, transformers.PreTrainedConfig(**settings), "image-classification", OPSET)
        assert found == ImagePostprocessing(kind)
    with pytest.raises(UnsupportedError, match="in a way that isn't known"):
        find_postprocessing(Unknown(), transformers.PreTrainedConfig(), "depth-estimation", OPSET)


class Unknown:
    def post_process_depth_estimation(
        self, outputs: SimpleNamespace, target_sizes: Any
    ) -> list[dict[str, torch.Tensor]]:
        return [{"predicted_depth": torch.zeros(size)} for size in target_sizes]


def segmenter(height: int | str, width: int | str) -> ir.Model:
    """Return a graph whose logits are the means of 2 x 2 pixels of three channels."""
    pixels = ir.Value(name="pixel_values", shape=ir.Shape(["batch_size", 3, height, width]), type=FLOATS)
    node = ir.node("AveragePool", [pixels], {"kernel_shape": [2, 2], "strides": [2, 2]})
    logits = node.outputs[0]
    logits.name, logits.type = "logits", FLOATS
    logits.shape = ir.Shape(["batch_size", 3, "height//2", "width//2"])
    graph = ir.Graph([pixels], [logits], nodes=[node], opset_imports={"": OPSET}, name="main")
    return ir.Model(graph, ir_version=10)


def test_pixel_values_of_another_size_than_the_graph_takes_are_refused() -> None:
    for rule, sizes, made in (("fixed", (40, 40), "40 x 40"), ("shortest_edge", (32,), "any size")):
        with pytest.raises(
            UnsupportedError, match=f"takes pixel values of 32 x 32, and the image processor makes {made}"
        ):
            process_images(segmenter(32, 32), ImageProcessing(ImagePreprocessing(rule, sizes)))


def test_a_graph_takes_images_and_returns_maps_of_their_size() -> None:
    model = segmenter("height", "width")
    processor = make("Segformer", {"size": {"height": 24, "width": 32}})
    steps = find_preprocessing(processor, OPSET)
    process_images(model, ImageProcessing(steps, ImagePostprocessing("segmentation")))
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    assert [(value.name, value.shape) for value in session.get_inputs()] == [
        ("images", ["batch_size", HEIGHT, WIDTH, 3])
    ]
    assert [(value.name, value.shape) for value in session.get_outputs()] == [
        ("logits", ["batch_size", 3, "pixel_height//2", "pixel_width//2"]),
        ("segmentation", ["batch_size", HEIGHT, WIDTH]),
    ]
    images = np.stack([np.asarray(samples.image().resize((70, 50)))] * 2)
    found = session.run(None, {"images": images})
    expected = torch.nn.functional.avg_pool2d(processor(images=list(images), return_tensors="pt")["pixel_values"], 2)
    np.testing.assert_allclose(found[0], expected, atol=tolerance_of(steps))
    outputs = SimpleNamespace(logits=torch.from_numpy(found[0]))
    maps = processor.post_process_semantic_segmentation(outputs, target_sizes=[(50, 70)] * 2)
    assert (found[1] == np.stack(maps)).mean() > 0.999  # where logits are equal, either label is right


def test_axes_of_results() -> None:
    processing = ImageProcessing(ImagePreprocessing(), ImagePostprocessing("boxes"))
    assert processing.results == ("scores", "labels", "boxes")
    assert processing.after.axes("boxes", ("batch_size", 5, 3)) == ("batch_size", 5, 4)
    assert ImagePostprocessing("depth").axes("depth", ("batch_size", 8, 8)) == ("batch_size", HEIGHT, WIDTH)
    assert ImageProcessing(ImagePreprocessing()).results == ()
