"""SAM and its relatives as Transformers models: one graph, or an encoder of images and a decoder of prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from onnxport.description.components import IMAGE_EMBEDDINGS
from onnxport.runtime.light import encode_images, run_prompts
from onnxport.runtime.models import OnnxModel, as_arrays
from onnxport.runtime.outputs import model_output

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers.utils import ModelOutput

    from onnxport.runtime.graph import Graph

    Tensor = torch.Tensor | NDArray[Any]


class OnnxMaskGenerator(OnnxModel):
    """Run SAM and its relatives, whose pipeline encodes an image once and prompts it many times.

    The graph encodes the image together with each batch of prompts, which takes longer.
    """

    def get_image_embeddings(self, pixel_values: Tensor) -> Tensor:
        """Return the images themselves, [batch, channels, height, width], which `forward` takes as embeddings."""
        return pixel_values

    def forward(self, *arguments: Any, image_embeddings: Tensor | None = None, **inputs: Any) -> ModelOutput:
        """Run the graph; see `OnnxModel.forward`.

        Args:
            *arguments: at most one, the images.
            image_embeddings: the result of `get_image_embeddings`, instead of `pixel_values`.
            **inputs: see `OnnxModel.forward`.
        """
        images = {} if image_embeddings is None else {"pixel_values": image_embeddings}
        return super().forward(*arguments, **inputs, **images)


class OnnxPrompts(OnnxModel):
    """Run both graphs: the encoder once for each image, the decoder for its prompts."""

    def _main_graph(self) -> Graph:
        return self.directory.graph("vision_encoder")

    def forward(self, *arguments: Any, **inputs: Any) -> ModelOutput:
        """Run the decoder of prompts, and the encoder unless embeddings are passed.

        Args:
            *arguments: at most one, `pixel_values`.
            **inputs: tensors or arrays by input name: `pixel_values`, [batch, channels, height, width], or
                `image_embeddings` of an earlier call, a tuple if there are several; and the prompts, `input_points`,
                `input_labels`, `input_boxes` and `input_masks`, each of which may be left out.

        Returns:
            The outputs of the decoder, and the embeddings.

        Raises:
            OptionError: an input is missing or has the wrong shape.
        """
        nested = {name: value for name, value in inputs.items() if name.endswith("_embeddings")}
        lists = {name: value for name, value in nested.items() if isinstance(value, tuple | list)}
        flat = {f"{name}.{index}": item for name, value in lists.items() for index, item in enumerate(value)}
        return super().forward(*arguments, **{k: v for k, v in inputs.items() if k not in lists}, **flat)

    def _run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return run_prompts(self.directory, arrays)

    def get_image_embeddings(self, pixel_values: Tensor) -> Any:
        """Return the embeddings of images, which a call takes as `image_embeddings` instead of `pixel_values`.

        Args:
            pixel_values: images, [batch, channels, height, width].

        Returns:
            A tensor; a list of tensors of different sizes (SAM 2); or the embeddings and the intermediate ones, which
            the decoder requires, too (SAM-HQ).
        """
        embeddings = encode_images(self.directory, as_arrays({"pixel_values": pixel_values}))
        outputs = model_output({name: torch.from_numpy(array) for name, array in embeddings.items()})
        found = outputs[IMAGE_EMBEDDINGS]
        if _INTERMEDIATE in outputs:
            return found, list(outputs[_INTERMEDIATE])
        return list(found) if isinstance(found, tuple) else found


_INTERMEDIATE = "intermediate_embeddings"
