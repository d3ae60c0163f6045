"""Describe the vision encoder of LFM2-VL, which takes the number of patch rows and columns of each image.

Transformers loops over the images to join patches to blocks (pixel unshuffle); here a block's patches are gathered by
their indices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport.architectures._architecture import Architecture
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor

_SHAPES = ((4, 6), (6, 2))
"""Rows and columns of dummy images, in half sides of a block; the second has padding."""


class Lfm2VlVisionOnnxConfig(OnnxConfig):
    """Describe an encoder of packed patches.

    Args:
        model: the whole model.
    """

    _output: ClassVar[str] = "image_features"

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model.config, task="default")

    @property
    def inputs(self) -> Axes:
        """Patches, [batch, patches, values], mask of those that aren't padding, and rows and columns, [batch, 2]."""
        patches = {0: "batch", 1: "patches"}
        return {"pixel_values": patches, "pixel_attention_mask": patches, "spatial_shapes": {0: "batch"}}

    @property
    def outputs(self) -> Axes:
        """Features of all images, concatenated, [placeholder tokens, hidden size]."""
        return {self._output: {}}

    def generate_dummy_inputs(
        self, preprocessor: Preprocessor, batch_size: int = -1, **named: Any
    ) -> Mapping[str, Any]:  # type: ignore[override]
        """Make images of two sizes in turn."""
        import torch

        count = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        side = self._config.downsample_factor
        shapes = torch.tensor([_SHAPES[i % len(_SHAPES)] for i in range(count)]) * side // 2
        lengths, vision = shapes.prod(-1), self._config.vision_config
        patches = int(_SHAPES[0][0] * _SHAPES[0][1] * side**2 // 4)
        mask = (torch.arange(patches)[None] < lengths[:, None]).long()
        values = torch.zeros(count, patches, vision.num_channels * vision.patch_size**2)
        return {"pixel_values": values, "pixel_attention_mask": mask, "spatial_shapes": shapes}

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; while it is traced, without the loop over images."""
        import torch

        model = model_of(forward)
        if not torch.compiler.is_exporting():
            features = model.get_image_features(**arguments, return_dict=True).pooler_output
            return {self._output: torch.cat(list(features))}
        model = model.model
        hidden_states = model.vision_tower(**arguments, return_dict=True).last_hidden_state
        blocks, valid = _blocks(hidden_states, arguments["spatial_shapes"], self._config.downsample_factor)
        projector = model.multi_modal_projector
        with patching(Replacement(projector, "pixel_unshuffle", _unchanged)):
            return {self._output: projector(blocks)[valid]}


def _unchanged(hidden_states: torch.Tensor) -> torch.Tensor:
    return hidden_states


def _blocks(hidden_states: torch.Tensor, shapes: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Join square blocks of patches, as the projector's `pixel_unshuffle` does.

    Args:
        hidden_states: [batch, patches, size].
        shapes: rows and columns of patches of each image, [batch, 2].
        side: rows and columns of a block.

    Returns:
        Blocks of each image, padded to the maximum number, [batch, blocks, size * side**2], and the mask of those that
        aren't padding, [batch, blocks].
    """
    import torch

    batch, patches, size = hidden_states.shape
    rows, columns = shapes[:, :1], shapes[:, 1:]
    block = torch.arange(patches // side**2, device=hidden_states.device)[None]
    valid = block < rows * columns // side**2
    block_columns = columns // side
    first = (block // block_columns * columns + block % block_columns) * side
    offset = torch.arange(side, device=hidden_states.device)
    indices = first[..., None, None] + offset[:, None] * columns[..., None, None] + offset
    indices = indices.where(valid[..., None, None], 0).flatten(1)
    joined = hidden_states.gather(1, indices[..., None].expand(-1, -1, size))
    return joined.reshape(batch, -1, side**2 * size), valid


def _vision_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    return Lfm2VlVisionOnnxConfig(model)


ARCHITECTURES = (Architecture(("lfm2_vl",), encoders={"vision_encoder": _vision_encoder}),)
