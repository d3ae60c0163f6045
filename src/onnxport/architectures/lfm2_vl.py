"""Describe the vision encoder of LFM2-VL, which takes the patch grid of each image.

Transformers loops over the images to join patches into blocks; here the patches of a block are gathered by index.
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
"""Rows and columns of dummy images, in halves of a block's side; the second image has padding patches."""


class Lfm2VlVisionOnnxConfig(OnnxConfig):
    """Describe an encoder of padded patches with their spatial shapes.

    Args:
        model: the full model.
    """

    _output: ClassVar[str] = "image_features"

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model.config, task="default")

    @property
    def inputs(self) -> Axes:
        """Patches, [images, patches, values], their mask, [images, patches], and rows and columns, [images, 2]."""
        patches = {0: "batch", 1: "patches"}
        return {"pixel_values": patches, "pixel_attention_mask": patches, "spatial_shapes": {0: "batch"}}

    @property
    def outputs(self) -> Axes:
        """Concatenated features of all images, [features, hidden_size]."""
        return {self._output: {}}

    def generate_dummy_inputs(self, preprocessor: Any, batch_size: int = -1, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Create dummy images of different sizes."""
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
        """Run the encoder, without its loop over the images if it is being exported."""
        import torch

        model = model_of(forward)
        if not torch.compiler.is_exporting():
            features = model.get_image_features(**arguments, return_dict=True).pooler_output
            return {self._output: torch.cat(list(features))}
        model = model.base_model
        hidden_states = model.vision_tower(**arguments, return_dict=True).last_hidden_state
        blocks, mask = _join_blocks(hidden_states, arguments["spatial_shapes"], self._config.downsample_factor)
        projector = model.multi_modal_projector
        with patching(Replacement(projector, "pixel_unshuffle", _identity)):
            return {self._output: projector(blocks)[mask]}


def _identity(blocks: Any) -> Any:
    return blocks


def _join_blocks(hidden_states: Any, shapes: Any, side: int) -> tuple[Any, Any]:
    """Join the patches of square blocks.

    Args:
        hidden_states: [images, patches, hidden_size].
        shapes: rows and columns of each image, [images, 2].
        side: rows and columns of a block.

    Returns:
        Blocks, [images, patches // side**2, side**2 * hidden_size], and a mask of the blocks that aren't padding,
        [images, patches // side**2].
    """
    import torch

    images, patches, size = hidden_states.shape
    rows, columns = shapes[:, :1], shapes[:, 1:]
    block = torch.arange(patches // side**2, device=hidden_states.device)[None]
    mask = block < rows * columns // side**2
    blocks_per_row = columns // side
    first = (block // blocks_per_row * columns + block % blocks_per_row) * side
    offset = torch.arange(side, device=hidden_states.device)
    index = first[..., None, None] + offset[:, None] * columns[..., None, None] + offset
    index = index.where(mask[..., None, None], 0).flatten(1)
    gathered = hidden_states.gather(1, index[..., None].expand(-1, -1, size))
    return gathered.reshape(images, -1, side**2 * size), mask


def _vision_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    return Lfm2VlVisionOnnxConfig(model)


ARCHITECTURES = (Architecture(("lfm2_vl",), encoders={"vision_encoder": _vision_encoder}),)
