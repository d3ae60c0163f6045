"""Describe the vision encoder of LFM2-VL, which takes the rows and columns of patches of each image.

Transformers loops over the images to join patches to blocks; here a block's patches are looked up by their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport.architectures._architecture import Architecture
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor

_SHAPES = ((4, 6), (6, 2))
"""Rows and columns of example images, in blocks' half sides; the second leaves patches unused."""


class Lfm2VlVisionOnnxConfig(OnnxConfig):
    """Describe an encoder of patches with their rows and columns.

    Args:
        model: the whole model.
    """

    _output: ClassVar[str] = "image_features"

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model.config, task="default")

    @property
    def inputs(self) -> Axes:
        """Patches, [images, patches, values], which of them are an image's, and rows and columns, [images, 2]."""
        patches = {0: "batch", 1: "patches"}
        return {"pixel_values": patches, "pixel_attention_mask": patches, "spatial_shapes": {0: "batch"}}

    @property
    def outputs(self) -> Axes:
        """The features of all images, concatenated, [rows, hidden size]."""
        return {self._output: {}}

    def generate_dummy_inputs(self, preprocessor: Any, batch_size: int = -1, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Make images, one of which is smaller than the others."""
        import torch

        count = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        side = self._config.downsample_factor
        shapes = torch.tensor([_SHAPES[i % len(_SHAPES)] for i in range(count)]) * side // 2
        lengths, vision = shapes.prod(-1), self._config.vision_config
        patches = int(_SHAPES[0][0] * _SHAPES[0][1] * side**2 // 4)
        mask = (torch.arange(patches)[None] < lengths[:, None]).long()
        values = torch.zeros(count, patches, vision.num_channels * vision.patch_size**2)
        return {"pixel_values": values, "pixel_attention_mask": mask, "spatial_shapes": shapes}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; while it is traced, without its loop."""
        import torch

        model = model_of(forward)
        if not torch.compiler.is_exporting():
            features = model.get_image_features(**arguments, return_dict=True).pooler_output
            return {self._output: torch.cat(list(features))}
        model = model.model
        states = model.vision_tower(**arguments, return_dict=True).last_hidden_state
        blocks, full = _blocks(states, arguments["spatial_shapes"], self._config.downsample_factor)
        projector = model.multi_modal_projector
        with patching(Replacement(projector, "pixel_unshuffle", _as_they_are)):
            return {self._output: projector(blocks)[full]}


def _as_they_are(states: Any) -> Any:
    return states


def _blocks(states: Any, shapes: Any, side: int) -> tuple[Any, Any]:
    """Join square blocks of patches.

    Args:
        states: [images, patches, size].
        shapes: rows and columns of each image, [images, 2].
        side: rows and columns of a block.

    Returns:
        Blocks of each image, as many as patches would do for, [images, blocks, size of a block]; and which of them
        an image has.
    """
    import torch

    images, patches, size = states.shape
    rows, columns = shapes[:, :1], shapes[:, 1:]
    number = torch.arange(patches // side**2, device=states.device)[None]
    full = number < rows * columns // side**2
    across = columns // side
    first = (number // across * columns + number % across) * side
    within = torch.arange(side, device=states.device)
    places = first[..., None, None] + within[:, None] * columns[..., None, None] + within
    places = places.where(full[..., None, None], 0).flatten(1)
    chosen = states.gather(1, places[..., None].expand(-1, -1, size))
    return chosen.reshape(images, -1, side**2 * size), full


def _vision_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    return Lfm2VlVisionOnnxConfig(model)


ARCHITECTURES = (Architecture(("lfm2_vl",), encoders={"vision_encoder": _vision_encoder}),)
