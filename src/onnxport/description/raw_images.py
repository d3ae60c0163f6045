"""Describe a graph that takes raw images instead of pixel values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.description.delegating import DelegatingOnnxConfig
from onnxport.description.description import GraphDescription, Runnable, input_specs
from onnxport.description.image_processing import HEIGHT, IMAGES, PIXEL_MASK, PIXEL_VALUES, WIDTH

if TYPE_CHECKING:
    from numpy.typing import NDArray

Preprocess = Callable[["NDArray[Any]"], "NDArray[Any]"]
"""Makes pixel values, float32 [batch, channels, height, width], of images, uint8 [batch, height, width, channels]."""
_SIZE = {HEIGHT: 96, WIDTH: 128}
_CHANNELS = 3


class RawImagesOnnxConfig(DelegatingOnnxConfig):
    """Describe a graph that takes `images` instead of `pixel_values`, and no `pixel_mask`.

    Attributes:
        preprocess: makes pixel values; the same as the graph does, so that both compute with the same values.

    Args:
        trunk: the description with pixel values.
        preprocess: see above.
    """

    def __init__(self, trunk: OnnxConfig, preprocess: Preprocess) -> None:
        super().__init__(trunk)
        self.preprocess = preprocess

    @property
    def inputs(self) -> Axes:
        """The inputs of the other description, with images."""
        inputs = self._trunk.inputs
        images = {0: inputs[PIXEL_VALUES][0], 1: HEIGHT, 2: WIDTH}
        named = {IMAGES if name == PIXEL_VALUES else name: axes for name, axes in inputs.items()}
        return {name: images if name == IMAGES else axes for name, axes in named.items() if name != PIXEL_MASK}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Any, *sizes: Any, **named: Any
    ) -> Mapping[str, Any]:
        """Make the inputs of the other description, with random images; see `OnnxConfig`."""
        import torch

        inputs = dict(self._trunk.generate_dummy_inputs(preprocessor, *sizes, **named))
        shape = (len(inputs.pop(PIXEL_VALUES)), *_SIZE.values(), _CHANNELS)
        inputs.pop(PIXEL_MASK, None)
        generator = torch.Generator().manual_seed(0)
        return {**inputs, IMAGES: torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model on the pixel values of the images."""
        import torch

        model, inputs = model_of(forward), dict(arguments)
        pixels = torch.from_numpy(self.preprocess(inputs.pop(IMAGES).cpu().numpy())).to(model.device, model.dtype)
        if PIXEL_MASK in self._trunk.inputs:
            inputs[PIXEL_MASK] = torch.ones_like(pixels[:, 0], dtype=torch.int64)
        return self._trunk.run(forward, {**inputs, PIXEL_VALUES: pixels})


def with_raw_images(graph: GraphDescription, preprocess: Preprocess) -> GraphDescription:
    """Return the description of a graph with images instead of pixel values.

    Args:
        graph: the description, with code.
        preprocess: see `RawImagesOnnxConfig`.
    """
    runnable = Runnable(RawImagesOnnxConfig(graph.code.config, preprocess), graph.code.preprocessor)
    kept = {symbol: size for symbol, size in graph.sizes.items() if symbol not in ("height", "width")}
    sizes = {**kept, **_SIZE}
    dtype = next((spec.dtype for spec in graph.inputs if spec.dtype.startswith(("float", "bfloat"))), "float32")
    inputs = input_specs(runnable, runnable.layout(sizes), dtype, graph.fixed_sizes)
    return replace(graph, inputs=inputs, sizes=sizes, runnable=runnable)
