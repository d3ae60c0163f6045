"""Find out what an image processor computes, by running it: as steps that a graph can compute, or not at all.

The steps are candidates that its settings suggest. Those count whose graph makes the same pixel values of sample images
as the processor does, and the same results of random outputs as its `post_process_*` methods do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport import samples
from onnxport._foreign_errors import translating
from onnxport.description.description import Description, GraphDescription, TensorSpec
from onnxport.description.image_processing import (
    IMAGES,
    PIXEL_MASK,
    PIXEL_VALUES,
    Filter,
    ImagePostprocessing,
    ImagePreprocessing,
    ImageProcessing,
    PostprocessingType,
    SizeRule,
    of_pixels,
)
from onnxport.description.raw_images import with_raw_images
from onnxport.errors import UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray
    from transformers import PreTrainedConfig

    from onnxport.blueprints.subject import Subject

    Arrays = dict[str, NDArray[Any]]

_LEVELS = 3
"""Difference of a channel's values, of 256, that rounding explains: Pillow and ONNX Runtime round after each of
both axes, to different sides where a filter's sum is close to the middle of two values, and Pillow begins with the axis
that takes less time."""
_FILTERS: dict[int, Filter] = {2: "linear", 3: "cubic"}
"""Pillow's numbers of filters to those of ONNX."""
_BILINEAR = 2
_COLORS = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))
_CROPS = ((240, 320), (150, 200), (200, 120), (60, 300), (700, 900))
"""Height and width of the parts of the sample image that are processed, which is repeated for the last one."""


def find_image_processing(subject: Subject, description: Description) -> ImageProcessing:
    """Return the pre- and postprocessing of the graph that takes images.

    Args:
        subject: the task, the configuration, and the preprocessor of the checkpoint.
        description: the graphs.

    Raises:
        UnsupportedError: no graph takes images alone, the checkpoint has no image processor, or it computes something
            that a graph can't.
    """
    graph = graph_with_images(description.graphs)
    processor = image_processor_of(subject.preprocessor)
    if processor is None:
        raise UnsupportedError("the checkpoint has no image processor, which --image-processing computes: leave it out")
    before, after = find_preprocessing(processor, graph.opset), None
    if len(description.graphs) == 1:
        after = find_postprocessing(processor, subject.config, description.canonical_task.name, graph.opset)
    return ImageProcessing(before, after)


def graph_with_images(graphs: Sequence[GraphDescription]) -> GraphDescription:
    """Return the graph whose pixel values are made of images.

    Raises:
        UnsupportedError: there is none, or it is the encoder of a multimodal decoder or of SAM.
    """
    found = next((one for one in graphs if any(spec.name in _IMAGE_INPUTS for spec in one.inputs)), None)
    if found is None or found.name not in _GRAPHS:
        problem = "no graph takes pixel_values"
        if found is not None:
            problem = f"what {found.name} takes is made together with a prompt, or for prompts in the image"
        raise UnsupportedError(f"--image-processing: {problem}; leave it out")
    return found


def taking_images(description: Description, processing: ImageProcessing) -> Description:
    """Return a description, with code, whose graph takes images instead of pixel values, and returns results."""
    found = graph_with_images(description.graphs)
    changed = with_raw_images(found, runner(processing.before, found.opset))
    changed = replace(changed, outputs=_with_results(found.outputs, processing.after))
    return replace(description, graphs=tuple(changed if graph is found else graph for graph in description.graphs))


def _with_results(outputs: tuple[TensorSpec, ...], after: ImagePostprocessing | None) -> tuple[TensorSpec, ...]:
    """Return the outputs of a graph, as far as they are known, and the results."""
    renamed = tuple(replace(one, axes=tuple(map(of_pixels, one.axes))) for one in outputs)
    source = next((one for one in renamed if after is not None and one.name == after.source), None)
    if source is None or after is None:
        return renamed
    results = (TensorSpec(name, after.dtype(name), after.axes(name, source.axes), ()) for name in after.outputs)
    return (*renamed, *results)


def image_processor_of(preprocessor: Any) -> Any:
    """Return the image processor of a preprocessor; None if it has none."""
    from transformers.image_processing_base import ImageProcessingMixin

    if isinstance(preprocessor, ImageProcessingMixin):
        return preprocessor
    return getattr(preprocessor, "image_processor", None)


def process_images(model: ir.Model, processing: ImageProcessing) -> None:
    """Take images and return results in a graph at full depth, in place; a graph without pixel values isn't changed.

    Args:
        model: the graph.
        processing: its pre- and postprocessing.

    Raises:
        UnsupportedError: the graph takes pixel values of another size than the image processor makes.
    """
    from onnxport.passes.image_processing import ImageProcessingPass

    pixels = next((value for value in model.graph.inputs if value.name == PIXEL_VALUES), None)
    if pixels is None:
        return
    fixed = [dim for dim in list(pixels.shape or ())[2:] if isinstance(dim, int)]
    made = processing.before.size
    if len(fixed) == len(_SIZE) and tuple(fixed) != made:
        size = " x ".join(map(str, made)) if made else "any size"
        raise UnsupportedError(
            f"the graph takes pixel values of {' x '.join(map(str, fixed))}, and the image processor makes {size}: "
            f"{_REMEDY}"
        )
    ImageProcessingPass(processing)(model)


_IMAGE_INPUTS = (PIXEL_VALUES, IMAGES)
_GRAPHS = ("model", "encoder_model", "vision_model")
_REMEDY = "leave out --image-processing, and pass pixel_values"


class _RefusedImageError(Exception):
    """A processor raised an exception, of any type."""


def _refusal(error: Exception) -> Exception | None:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None if isinstance(error, UnsupportedError) else _RefusedImageError(reason)


def find_preprocessing(processor: Any, opset: int) -> ImagePreprocessing:
    """Return the steps of an image processor.

    Args:
        processor: an image processor of Transformers.
        opset: opset of the graph that computes them.

    Raises:
        UnsupportedError: it computes something else, or in another way.
    """
    name, setting = type(processor).__name__, getattr(processor, "resample", None)
    resample = _BILINEAR if setting is None else int(setting)
    if getattr(processor, "do_resize", None) and resample not in _FILTERS:
        raise UnsupportedError(
            f"{name} resamples with Pillow's filter {resample}, and ONNX has bilinear (2) and bicubic (3) ones with "
            f"antialiasing: {_REMEDY}"
        )
    try:
        with translating(_refusal):
            values = _channel_values(processor)
    except _RefusedImageError as error:
        raise UnsupportedError(f"{name} can't be computed in the graph ({error}): {_REMEDY}") from error
    made = list(processed_samples(processor))
    for candidate in _candidates(processor, _FILTERS.get(resample, "linear")):
        steps = replace(candidate, scale=values.scale, offset=values.offset, reverse=values.reverse)
        compute = runner(steps, opset)
        if len(made) > 1 and all(_is_equal(compute, image, pixels, steps) for image, pixels in made):
            return steps
    raise UnsupportedError(
        f"{name} computes more than to resize, crop, rescale and normalize each image, or chooses the size in a way "
        f"that isn't known: {_REMEDY}"
    )


def processed_samples(processor: Any) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Yield parts of the package's image, uint8 [height, width, channels], and the pixel values that a processor makes.

    Parts that it refuses, such as one that becomes less than a pixel wide, are left out.
    """
    image = np.tile(np.asarray(samples.image()), (3, 3, 1))
    for height, width in _CROPS:
        part = image[:height, :width]
        with suppress(_RefusedImageError), translating(_refusal):
            yield part, processed(processor, part)


def processed(processor: Any, image: NDArray[Any]) -> NDArray[np.float32]:
    """Return the pixel values that a processor makes of an image, [1, channels, height, width].

    Args:
        processor: an image processor.
        image: uint8 [height, width, channels].

    Raises:
        UnsupportedError: it makes other inputs, too, or several tensors of one image.
    """
    made = dict(processor(images=[image], return_tensors="pt"))
    pixels, mask = made.pop(PIXEL_VALUES), made.pop(PIXEL_MASK, None)
    others = [name for name, value in made.items() if hasattr(value, "shape")]
    is_padded = mask is not None and not bool(mask.bool().all())
    if others or is_padded or pixels.ndim != 4 or len(pixels) != 1:
        problem = f"makes {', '.join(others)}, too" if others else "pads images" if is_padded else "makes several parts"
        raise UnsupportedError(f"{type(processor).__name__} {problem}, which a graph can't compute yet: {_REMEDY}")
    array: NDArray[np.float32] = pixels.float().numpy()
    return array


def runner(steps: ImagePreprocessing, opset: int) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    """Return a function from images, uint8 [batch, height, width, channels], to pixel values, in ONNX Runtime."""
    from onnxport.passes.image_processing import preprocessing_model

    session = _session(preprocessing_model(steps, opset))
    return lambda images: session.run(None, {IMAGES: images})[0]


def _session(model: Any) -> Any:
    import onnx_ir as ir
    import onnxruntime

    content, options = ir.to_proto(model).SerializeToString(), onnxruntime.SessionOptions()
    options.log_severity_level = 4  # candidates that fail are left out
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def tolerance_of(steps: ImagePreprocessing) -> float:
    """Return the difference of pixel values that the rounding of resized images explains."""
    return (_LEVELS if steps.rule != "none" else 0) * max(map(abs, steps.scale)) + 1e-4


def _is_equal(
    compute: Callable[..., Any], image: NDArray[Any], expected: NDArray[Any], steps: ImagePreprocessing
) -> bool:
    from onnxport._onnxruntime import runtime_errors

    try:
        found = compute(image[None])
    except runtime_errors():  # a crop of an image that is smaller
        return False
    return found.shape == expected.shape and bool(np.abs(found - expected).max() <= tolerance_of(steps))


def _candidates(processor: Any, chosen: Filter) -> Iterator[ImagePreprocessing]:
    """Yield the steps that the settings of a processor may mean, without the values of channels.

    Those that it has no setting for are ConvNeXt's from 384 pixels, LeViT's 256 / 224, and YOLOS' multiples of 16.
    """
    crop = _size_of(processor, "crop_size") if getattr(processor, "do_center_crop", None) else {}
    cropped = (crop["height"], crop["width"]) if {"height", "width"} <= crop.keys() else None
    if not getattr(processor, "do_resize", None):
        yield ImagePreprocessing(crop=cropped)
        return
    size, fraction = _size_of(processor, "size"), getattr(processor, "crop_pct", None)
    divisor = getattr(processor, "size_divisor", None) or 16
    rules = list(_rules(size, processor))
    for rule, sizes in rules:
        yield ImagePreprocessing(rule, sizes, filter=chosen, crop=cropped)
    edge = size.get("shortest_edge") or size.get("height")
    if fraction and edge:
        larger = (int(edge / fraction),)
        for one in (cropped, (edge, edge)):
            yield ImagePreprocessing("shortest_edge", larger, filter=chosen, crop=one)
    for rule, sizes in (*rules, ("image", ())):
        for rounds_up in (False, True):
            yield ImagePreprocessing(rule, sizes, divisor, rounds_up, chosen, cropped)


def _rules(size: Mapping[str, int], processor: Any) -> Iterator[tuple[SizeRule, tuple[int, ...]]]:
    edge, longest, height, width = (size.get(name) for name in ("shortest_edge", "longest_edge", "height", "width"))
    if height and width:
        if getattr(processor, "keep_aspect_ratio", False):
            yield "aspect_multiple", (height, width, getattr(processor, "ensure_multiple_of", None) or 1)
        yield "fixed", (height, width)
    if edge and longest:
        yield "edges", (edge, longest)
    elif edge:
        yield from (("shortest_edge", (edge,)), ("fixed", (edge, edge)), ("shortest_edge", (int(256 / 224 * edge),)))
    if size.get("max_height") and size.get("max_width"):
        yield "bounds", (size["max_height"], size["max_width"])


def _size_of(processor: Any, name: str) -> dict[str, int]:
    """Return the numbers of a processor's size by name."""
    size = getattr(processor, name, None)
    values = size if isinstance(size, Mapping) else vars(size) if hasattr(size, "__dict__") else {}
    return {key: int(value) for key, value in values.items() if value}


def _channel_values(processor: Any) -> ImagePreprocessing:
    """Return the scale, the offset and the order of channels, from what a processor makes of images of one color.

    Raises:
        UnsupportedError: a channel depends on several, or not on its value alone.
    """
    made = [processed(processor, np.full((60, 80, 3), color, dtype=np.uint8)) for color in _COLORS]
    if any(one.shape[1] != 3 for one in made):
        raise UnsupportedError(
            f"{type(processor).__name__} makes {made[0].shape[1]} channels of RGB, which a graph can't compute yet: "
            f"{_REMEDY}"
        )
    centers = (one[0, :, one.shape[2] // 2, one.shape[3] // 2] for one in made)
    black, *colors = (center.astype(np.float64) for center in centers)
    factors = np.stack([(color - black) / 255 for color in colors], axis=1)
    reverse = bool(np.abs(factors[0, 2]) > np.abs(factors[0, 0]))
    diagonal = factors[:, ::-1] if reverse else factors
    if np.abs(diagonal - np.diag(np.diag(diagonal))).max() > 1e-6:
        raise UnsupportedError(f"{type(processor).__name__} mixes channels, which a graph can't compute yet: {_REMEDY}")
    scale, offset = (tuple(float(np.float32(value)) for value in values) for values in (np.diag(diagonal), black))
    return ImagePreprocessing(scale=scale, offset=offset, reverse=reverse)


def find_postprocessing(processor: Any, config: PreTrainedConfig, task: str, opset: int) -> ImagePostprocessing | None:
    """Return what is computed of a model's outputs for a task; None for a task without.

    The scores of classes are those of Transformers' pipeline, all others those of the processor.

    Args:
        processor: the image processor.
        config: the model's configuration.
        task: name of the task.
        opset: opset of the graph that computes it.

    Raises:
        UnsupportedError: the processor's method computes something else.
    """
    if task == "image-classification":
        is_multiple = config.num_labels == 1 or config.problem_type == "multi_label_classification"
        return ImagePostprocessing("sigmoid" if is_multiple else "softmax")
    candidates = _POSTPROCESSING.get(task, ())
    method = _METHODS[candidates[0].type] if candidates else ""
    if not hasattr(processor, method):
        return None
    name = f"{type(processor).__name__}.{method}"
    for steps in candidates:
        outputs = random_outputs(steps)
        try:
            with translating(_refusal):
                expected = expected_results(processor, steps, outputs)
        except _RefusedImageError as error:
            raise UnsupportedError(f"{name} can't be computed in the graph ({error}): {_REMEDY}") from error
        found = computed_results(steps, outputs, opset)
        if all(_is_close(found[key][index], one[key]) for index, one in enumerate(expected) for key in steps.outputs):
            return steps
    raise UnsupportedError(f"{name} computes the results in a way that isn't known: {_REMEDY}")


_METHODS: dict[PostprocessingType, str] = {
    **{"boxes": "post_process_object_detection", "top_boxes": "post_process_object_detection"},
    **{"segmentation": "post_process_semantic_segmentation", "depth": "post_process_depth_estimation"},
}
_POSTPROCESSING = {
    "object-detection": tuple(
        ImagePostprocessing(*values) for values in (("boxes",), ("top_boxes",), ("top_boxes", 100), ("top_boxes", 300))
    ),
    "semantic-segmentation": (ImagePostprocessing("segmentation"),),
    "depth-estimation": (ImagePostprocessing("depth"),),
}
_SIZE = (90, 130)
"""Height and width of the image that random outputs are those of."""
_QUERIES, _LABELS = 40, 12


def random_outputs(steps: ImagePostprocessing) -> Arrays:
    """Return outputs of a model for two images, without equal scores."""
    random = np.random.default_rng(0)
    shapes = {"segmentation": (2, 5, 17, 23), "depth": (2, 17, 23)}
    if steps.type in shapes:
        return {steps.source: random.standard_normal(shapes[steps.type]).astype(np.float32)}
    count = _QUERIES * _LABELS
    logits = (random.permutation(2 * count).reshape(2, _QUERIES, _LABELS) / count - 1).astype(np.float32)
    if steps.type not in _METHODS:
        return {"logits": logits[:, 0]}
    return {"logits": logits, "pred_boxes": random.uniform(0.1, 0.9, (2, _QUERIES, 4)).astype(np.float32)}


def expected_results(processor: Any, steps: ImagePostprocessing, outputs: Arrays) -> list[Arrays]:
    """Return the results of a processor's method for each image, with all boxes, or the scores of classes."""
    import torch

    tensors = SimpleNamespace(**{name: torch.from_numpy(array) for name, array in outputs.items()})
    if steps.type not in _METHODS:
        scores = torch.softmax(tensors.logits, -1) if steps.type == "softmax" else torch.sigmoid(tensors.logits)
        return [{"scores": one.numpy()} for one in scores]
    options = {"threshold": -1.0} if "boxes" in steps.outputs else {}
    found = getattr(processor, _METHODS[steps.type])(tensors, target_sizes=[_SIZE, _SIZE], **options)
    if steps.type == "segmentation":
        return [{"segmentation": one.numpy()} for one in found]
    renamed = {"predicted_depth": "depth"}
    return [{renamed.get(name, name): value.numpy() for name, value in one.items()} for one in found]


def computed_results(steps: ImagePostprocessing, outputs: Arrays, opset: int) -> Arrays:
    """Return the results that a graph computes of a model's outputs for two images."""
    from onnxport.passes.image_processing import postprocessing_model

    session = _session(postprocessing_model(steps, {name: array.ndim for name, array in outputs.items()}, opset))
    feed = {IMAGES: np.zeros((2, *_SIZE, 3), dtype=np.uint8), **outputs}
    taken = {value.name for value in session.get_inputs()}
    found = session.run(None, {name: array for name, array in feed.items() if name in taken})
    return dict(zip(steps.outputs, found, strict=True))


def _is_close(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    return found.shape == expected.shape and np.allclose(found, expected, rtol=1e-4, atol=1e-4)
