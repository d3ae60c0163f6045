"""Compute pre- and postprocessing of images in a graph.

    pixel_values → Conv → … → logits   →   images → Transpose → Resize → Cast → Mul → Add → Conv → … → logits → Softmax

Resize with antialiasing and `exclude_outside` computes what Pillow does, whose filters end at the image's border.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxport.description.image_processing import (
    HEIGHT,
    IMAGES,
    PIXEL_MASK,
    PIXEL_VALUES,
    WIDTH,
    ImagePostprocessing,
    ImagePreprocessing,
    ImageProcessing,
    of_pixels,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_FLOAT, _DOUBLE, _INT64 = ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT64
_DTYPES = {"float32": _FLOAT, "int64": _INT64}
_PREFIX = "image_processing"
_MAPPING: dict[str, Any] = {"coordinate_transformation_mode": "half_pixel"}


class _Operators:
    """Create nodes one after another.

    Attributes:
        nodes: the nodes, in order.

    Args:
        name: beginning of the names of nodes and values.
    """

    def __init__(self, name: str) -> None:
        self.nodes: list[ir.Node] = []
        self._name = name

    def __call__(self, operator: str, *inputs: ir.Value | None, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; return its output, or a tuple of several."""
        index = len(self.nodes)
        node = ir.node(operator, inputs, attributes, num_outputs=outputs, name=f"/{self._name}/{operator}_{index}")
        self.nodes.append(node)
        for number, value in enumerate(node.outputs):
            value.name = f"{self._name}.{index}.{number}"
        return node.outputs[0] if outputs == 1 else tuple(node.outputs)

    def constant(self, array: ArrayLike, dtype: str = "int64") -> ir.Value:
        """Add a constant."""
        value: ir.Value = self("Constant", value=ir.tensor(np.asarray(array, dtype=dtype)))
        return value

    def axis(self, value: ir.Value, axis: int) -> ir.Value:
        """Return the size of an axis, [1]."""
        size: ir.Value = self("Shape", value, start=axis, end=axis + 1)
        return size

    def resize(self, value: ir.Value, size: ir.Value, **attributes: Any) -> ir.Value:
        """Resize the last two axes of four to a size, [2]; ONNX Runtime 1.32 can't move a Transpose through `axes`."""
        sizes = self("Concat", self("Shape", value, start=0, end=2), size, axis=0)
        resized: ir.Value = self("Resize", value, None, None, sizes, **_MAPPING, **attributes)
        return resized

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return a value in another type."""
        result: ir.Value = self("Cast", value, to=dtype)
        return result


def preprocess(ops: _Operators, images: ir.Value, steps: ImagePreprocessing) -> ir.Value:
    """Add the nodes from uint8 images [batch, height, width, channels] to float32 [batch, channels, height, width]."""
    pixels = ops("Transpose", images, perm=[0, 3, 1, 2])
    if steps.rule != "none":
        cubic = {"cubic_coeff_a": -0.5} if steps.filter == "cubic" else {}
        size = _target_size(ops, ops.axis(images, 1), ops.axis(images, 2), steps)
        pixels = ops.resize(pixels, size, mode=steps.filter, antialias=1, exclude_outside=1, **cubic)
    if steps.crop is not None:
        pixels = _cropped(ops, pixels, steps.crop)
    if steps.reverse:
        pixels = ops("Gather", pixels, ops.constant([2, 1, 0]), axis=1)
    scale, offset = (
        ops.constant(np.reshape(values, (1, -1, 1, 1)), "float32") for values in (steps.scale, steps.offset)
    )
    result: ir.Value = ops("Add", ops("Mul", ops.cast(pixels, _FLOAT), scale), offset)
    return result


def _target_size(ops: _Operators, height: ir.Value, width: ir.Value, steps: ImagePreprocessing) -> ir.Value:
    """Return height and width after resizing, [2], in the arithmetic of Python's integers and floats."""
    if steps.rule == "fixed":
        return ops.constant(steps.sizes)
    if steps.rule == "image":
        sides: tuple[ir.Value, ...] = (height, width)
    elif steps.rule == "shortest_edge":
        edge = ops.constant([steps.sizes[0]])
        longest = ops("Div", ops("Mul", edge, ops("Max", height, width)), ops("Min", height, width))
        is_wide = ops("Less", height, width)
        sides = ops("Where", is_wide, edge, longest), ops("Where", is_wide, longest, edge)
    else:
        h, w = ops.cast(height, _DOUBLE), ops.cast(width, _DOUBLE)
        rules = {"edges": _within_edges, "bounds": _within_bounds, "aspect_multiple": _rounded}
        numbers = [ops.constant([number], "float64") for number in steps.sizes]
        sides = tuple(ops.cast(side, _INT64) for side in rules[steps.rule](ops, h, w, numbers))
    size: ir.Value = ops("Concat", *sides, axis=0)
    if steps.divisor > 1:
        divisor, rest = ops.constant([steps.divisor]), ops.constant([steps.divisor - 1 if steps.rounds_up else 0])
        size = ops("Mul", ops("Div", ops("Add", size, rest), divisor), divisor)
    return size


Sides = tuple[ir.Value, ir.Value]


def _within_edges(ops: _Operators, h: ir.Value, w: ir.Value, numbers: Sequence[ir.Value]) -> Sides:
    shortest, longest = numbers
    least, most = ops("Min", h, w), ops("Max", h, w)
    is_long = ops("Greater", ops("Mul", ops("Div", most, least), shortest), longest)
    raw = ops("Where", is_long, ops("Div", ops("Mul", longest, least), most), shortest)
    edge = ops("Where", is_long, ops("Round", raw), shortest)
    is_narrow, is_same = ops("Less", w, h), ops("Equal", least, edge)
    other = ops("Floor", ops("Div", ops("Mul", raw, most), least))
    new_h, new_w = ops("Where", is_narrow, other, edge), ops("Where", is_narrow, edge, other)
    return ops("Where", is_same, h, new_h), ops("Where", is_same, w, new_w)


def _within_bounds(ops: _Operators, h: ir.Value, w: ir.Value, numbers: Sequence[ir.Value]) -> Sides:
    scale = ops("Min", ops("Div", numbers[0], h), ops("Div", numbers[1], w))
    return ops("Floor", ops("Mul", h, scale)), ops("Floor", ops("Mul", w, scale))


def _rounded(ops: _Operators, h: ir.Value, w: ir.Value, numbers: Sequence[ir.Value]) -> Sides:
    scales = [ops("Div", number, side) for number, side in zip(numbers[:2], (h, w), strict=True)]
    one = ops.constant([1], "float64")
    changes = [ops("Abs", ops("Sub", one, scale)) for scale in scales]
    scale = ops("Where", ops("Less", changes[1], changes[0]), scales[1], scales[0])
    new_h, new_w = (
        ops("Mul", ops("Round", ops("Div", ops("Mul", scale, side), numbers[2])), numbers[2]) for side in (h, w)
    )
    return new_h, new_w


def _cropped(ops: _Operators, pixels: ir.Value, crop: tuple[int, int]) -> ir.Value:
    """Return the center of images, padded with zeros where it is larger than an image."""
    two, sizes, zero = ops.constant([2]), ops.constant(crop), ops.constant([0, 0])
    excess = ops("Sub", ops("Shape", pixels, start=2, end=4), sizes)
    lacking = ops("Max", ops("Neg", excess), zero)
    before = ops("Div", ops("Add", lacking, ops.constant([1])), two)
    pads = ops("Concat", zero, before, zero, ops("Sub", lacking, before), axis=0)
    pixels = ops("Pad", pixels, pads, ops.constant(0, "uint8"))
    start = ops("Div", ops("Max", excess, zero), two)
    center: ir.Value = ops("Slice", pixels, start, ops("Add", start, sizes), ops.constant([2, 3]))
    return center


def postprocess(
    ops: _Operators, images: ir.Value, outputs: dict[str, ir.Value], steps: ImagePostprocessing
) -> dict[str, ir.Value]:
    """Add the nodes from a graph's outputs to the results, by name; `images` have the size of boxes and maps."""
    results = _RESULTS[steps.type](ops, images, outputs, steps)
    return dict(zip(steps.outputs, results, strict=True))


def _scores(
    ops: _Operators, images: ir.Value, outputs: dict[str, ir.Value], steps: ImagePostprocessing
) -> tuple[ir.Value, ...]:
    logits = outputs["logits"]
    return (ops("Softmax", logits, axis=-1) if steps.type == "softmax" else ops("Sigmoid", logits),)


def _boxes(
    ops: _Operators, images: ir.Value, outputs: dict[str, ir.Value], steps: ImagePostprocessing
) -> tuple[ir.Value, ...]:
    """Return the best label of each query; the last one means that there is no object."""
    probabilities = ops("Softmax", outputs["logits"], axis=-1)
    first, last, axis = ops.constant([0]), ops.constant([-1]), ops.constant([2])
    labels = ops("Slice", probabilities, first, last, axis)
    scores = ops("ReduceMax", labels, axis, keepdims=0)
    return scores, ops("ArgMax", labels, axis=2, keepdims=0), _corners(ops, images, outputs["pred_boxes"])


def _top_boxes(
    ops: _Operators, images: ir.Value, outputs: dict[str, ir.Value], steps: ImagePostprocessing
) -> tuple[ir.Value, ...]:
    logits = outputs["logits"]
    count, probabilities = ops.axis(logits, 2), ops("Sigmoid", logits)
    every = ops("Reshape", probabilities, ops.constant([0, -1]))
    wanted = ops.constant([steps.count]) if steps.count else ops.axis(logits, 1)
    scores, indices = ops("TopK", every, ops("Min", wanted, ops.axis(every, 1)), axis=1, outputs=2)
    queries = ops("Div", indices, count)
    boxes = _corners(ops, images, outputs["pred_boxes"])
    repeated = ops("Expand", ops("Unsqueeze", queries, ops.constant([2])), ops.constant([1, 1, 4]))
    return scores, ops("Mod", indices, count), ops("GatherElements", boxes, repeated, axis=1)


def _corners(ops: _Operators, images: ir.Value, boxes: ir.Value) -> ir.Value:
    """Return boxes in pixels, x and y of two corners, of relative ones, x and y of the center, width and height."""
    parts = ops.constant([2, 2])
    center, size = ops("Split", boxes, parts, axis=2, outputs=2)
    half = ops("Mul", size, ops.constant(0.5, "float32"))
    corners = ops("Concat", ops("Sub", center, half), ops("Add", center, half), axis=2)
    width, height = ops.axis(images, 2), ops.axis(images, 1)
    pixels: ir.Value = ops("Mul", corners, ops.cast(ops("Concat", width, height, width, height, axis=0), _FLOAT))
    return pixels


def _segmentation(
    ops: _Operators, images: ir.Value, outputs: dict[str, ir.Value], steps: ImagePostprocessing
) -> tuple[ir.Value, ...]:
    resized = ops.resize(outputs["logits"], _image_size(ops, images), mode="linear")
    return (ops("ArgMax", resized, axis=1, keepdims=0),)


def _depth(
    ops: _Operators, images: ir.Value, outputs: dict[str, ir.Value], steps: ImagePostprocessing
) -> tuple[ir.Value, ...]:
    depth = ops("Unsqueeze", outputs["predicted_depth"], ops.constant([1]))
    resized = ops.resize(depth, _image_size(ops, images), mode="cubic", cubic_coeff_a=-0.75)
    return (ops("Squeeze", resized, ops.constant([1])),)


def _image_size(ops: _Operators, images: ir.Value) -> ir.Value:
    size: ir.Value = ops("Shape", images, start=1, end=3)
    return size


_RESULTS = {
    **{"softmax": _scores, "sigmoid": _scores, "boxes": _boxes, "top_boxes": _top_boxes},
    **{"segmentation": _segmentation, "depth": _depth},
}


def preprocessing_model(steps: ImagePreprocessing, opset: int) -> ir.Model:
    """Return a graph that makes `pixel_values` of `images`."""
    ops, images = _Operators(_PREFIX), _images_of("batch_size", len(steps.scale))
    pixels = preprocess(ops, images, steps)
    pixels.name, pixels.dtype = PIXEL_VALUES, _FLOAT
    return _model([images], [pixels], ops, opset)


def postprocessing_model(steps: ImagePostprocessing, ranks: dict[str, int], opset: int) -> ir.Model:
    """Return a graph that makes the results of `images` and of a model's outputs.

    Args:
        steps: what it computes.
        ranks: name of an output to its rank.
        opset: opset of the graph.
    """
    ops, images = _Operators(_PREFIX), _images_of("batch_size", 3)
    inputs = {
        name: ir.Value(name=name, shape=ir.Shape([None] * rank), type=ir.TensorType(_FLOAT))
        for name, rank in ranks.items()
    }
    results = postprocess(ops, images, inputs, steps)
    for name, value in results.items():
        value.name, value.dtype = name, _DTYPES[steps.dtype(name)]
    return _model([images, *inputs.values()], list(results.values()), ops, opset)


def _images_of(batch: ir.SymbolicDim | int | str, channels: int) -> ir.Value:
    shape = ir.Shape([batch, HEIGHT, WIDTH, channels])
    return ir.Value(name=IMAGES, shape=shape, type=ir.TensorType(ir.DataType.UINT8))


def _model(inputs: list[ir.Value], outputs: list[ir.Value], ops: _Operators, opset: int) -> ir.Model:
    graph = ir.Graph(inputs, outputs, nodes=ops.nodes, opset_imports={"": opset}, name=_PREFIX)
    return ir.Model(graph, ir_version=10)


class ImageProcessingPass(ir.passes.InPlacePass):
    """Take `images` instead of `pixel_values`, and return the results of the postprocessing after the outputs.

    Args:
        processing: the pre- and postprocessing.
    """

    def __init__(self, processing: ImageProcessing) -> None:
        super().__init__()
        self._processing = processing

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change the graph in place."""
        graph, inputs = model.graph, {str(value.name): value for value in model.graph.inputs}
        pixel_values = inputs[PIXEL_VALUES]
        images = _images_of(pixel_values.shape[0], len(self._processing.before.scale))  # type: ignore[index]
        before = _Operators(f"{_PREFIX}_before")
        pixels = preprocess(before, images, self._processing.before)
        replacements = {PIXEL_VALUES: before.cast(pixels, pixel_values.dtype or _FLOAT)}
        if PIXEL_MASK in inputs:  # of images of one size, without padding
            shape = before("Gather", before("Shape", pixels), before.constant([0, 2, 3]))
            replacements[PIXEL_MASK] = before("Expand", before.constant(1), shape)
        for name, value in replacements.items():
            value.shape, value.type = inputs[name].shape, inputs[name].type
            ir.convenience.replace_all_uses_with(inputs[name], value, replace_graph_outputs=True)
        graph.inputs[list(graph.inputs).index(pixel_values)] = images
        if PIXEL_MASK in inputs:
            graph.inputs.remove(inputs[PIXEL_MASK])
        for value in graph.outputs:
            value.shape = ir.Shape(map(of_pixels, _axes_of(value)))
        first = graph[0]
        for node in before.nodes:
            graph.insert_before(first, node)
        if self._processing.after is not None:
            self._add_results(graph, images, self._processing.after)
        return ir.passes.PassResult(model, modified=True)

    def _add_results(self, graph: ir.Graph, images: ir.Value, steps: ImagePostprocessing) -> None:
        after = _Operators(f"{_PREFIX}_after")
        outputs = {
            str(value.name): value if value.dtype == _FLOAT else after.cast(value, _FLOAT)
            for value in graph.outputs
            if value.name in ("logits", "pred_boxes", "predicted_depth")
        }
        axes = _axes_of(next(value for value in graph.outputs if value.name == steps.source))
        results = postprocess(after, images, outputs, steps)
        for node in after.nodes:
            graph.append(node)
        for name, value in results.items():
            value.name, value.shape = name, ir.Shape(steps.axes(name, axes))
            value.dtype = _DTYPES[steps.dtype(name)]
            graph.outputs.append(value)


def _axes_of(value: ir.Value) -> list[int | str]:
    """Return the sizes of axes, and the labels of dynamic ones."""
    dims = enumerate(value.shape or ())
    return [dim if isinstance(dim, int) else str(dim.value or f"{value.name}_{index}") for index, dim in dims]
