"""Pre- and postprocessing of images that a graph computes: what an image processor does, as values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

IMAGES = "images"
"""Name of the input with raw images, uint8 [batch, image_height, image_width, channels]."""
HEIGHT, WIDTH = "image_height", "image_width"
PIXEL_VALUES, PIXEL_MASK = "pixel_values", "pixel_mask"

SizeRule = Literal["none", "image", "fixed", "shortest_edge", "edges", "bounds", "aspect_multiple"]
Filter = Literal["linear", "cubic"]
Axis = int | str
"""Size of an axis, or its label if it is dynamic."""
_DETECTIONS = "detections"
PostprocessingType = Literal["softmax", "sigmoid", "boxes", "top_boxes", "segmentation", "depth"]


def of_pixels(axis: Axis) -> Axis:
    """Return an axis of an output, with the size of pixel values under another name than the image's."""
    return axis if isinstance(axis, int) else re.sub(r"\b(height|width)\b", r"pixel_\1", axis)


@dataclass(frozen=True)
class ImagePreprocessing:
    """Describe how `pixel_values` are made of an image.

    The steps are: resize, crop the center, and multiply each channel by its scale and add its offset.

    Attributes:
        rule: how the size after resizing follows from the image's. `none`: the image isn't resized. `image`: it is the
            image's, before it is rounded. `fixed`: height and width are the numbers. `shortest_edge`: the shortest edge
            is the number, and the aspect ratio is kept. `edges`: the same, but the longest edge is at most the second
            number. `bounds`: the largest size within height and width that keeps the aspect ratio. `aspect_multiple`:
            the aspect ratio is kept, the edge whose size changes less gets its number, and both are rounded to
            multiples of the third.
        sizes: the rule's numbers.
        divisor: both edges are rounded to multiples of it.
        rounds_up: whether they are rounded up.
        filter: filter of the resampling, with antialiasing.
        crop: height and width of the center that is kept; None for the whole image.
        scale: factor of each channel.
        offset: offset of each channel.
        reverse: whether the order of channels is reversed, before scale and offset.
    """

    rule: SizeRule = "none"
    sizes: tuple[int, ...] = ()
    divisor: int = 1
    rounds_up: bool = False
    filter: Filter = "linear"
    crop: tuple[int, int] | None = None
    scale: tuple[float, ...] = (1.0, 1.0, 1.0)
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)
    reverse: bool = False

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of `pixel_values`; None if they depend on the image's."""
        if self.crop is not None:
            return self.crop
        return (self.sizes[0], self.sizes[1]) if self.rule == "fixed" else None


@dataclass(frozen=True)
class ImagePostprocessing:
    """Describe what a graph computes of its outputs.

    Attributes:
        type: `softmax`, `sigmoid`: `scores` [batch, labels] of `logits`. `boxes`: `scores` and `labels` [batch,
            queries], and `boxes` [batch, queries, 4] in pixels, of the best label of each query. `top_boxes`: the same
            of the best pairs of a query and a label. `segmentation`: `segmentation` [batch, image_height, image_width],
            the label of each pixel. `depth`: `depth` [batch, image_height, image_width], `predicted_depth` in the size
            of the image.
        count: number of boxes; 0 for that of the queries.
    """

    type: PostprocessingType
    count: int = 0

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the results, in the graph's order."""
        if self.type in ("boxes", "top_boxes"):
            return ("scores", "labels", "boxes")
        return ({"softmax": "scores", "sigmoid": "scores"}.get(self.type, self.type),)

    @property
    def source(self) -> str:
        """Name of the model's output whose axes those of the results follow from."""
        return "predicted_depth" if self.type == "depth" else "logits"

    def dtype(self, name: str) -> str:
        """Return the element type of a result."""
        return "int64" if name in ("labels", "segmentation") else "float32"

    def axes(self, name: str, source: Sequence[Axis]) -> tuple[Axis, ...]:
        """Return the axes of a result.

        Args:
            name: the result.
            source: axes of the output `source`.
        """
        if self.type in ("softmax", "sigmoid"):
            return tuple(source)
        if self.type in ("segmentation", "depth"):
            return (source[0], HEIGHT, WIDTH)
        count = _DETECTIONS if self.count else source[1]
        return (source[0], count, 4) if name == "boxes" else (source[0], count)


@dataclass(frozen=True)
class ImageProcessing:
    """Describe the pre- and postprocessing of a graph.

    Attributes:
        before: how its `pixel_values` are made.
        after: what it computes of its outputs; None for nothing.
    """

    before: ImagePreprocessing
    after: ImagePostprocessing | None = None

    @property
    def results(self) -> tuple[str, ...]:
        """Names of the results."""
        return () if self.after is None else self.after.outputs
