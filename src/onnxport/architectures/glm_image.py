"""GLM-Image: the encoder's features are quantized to tokens of the text's vocabulary, which the graph embeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.configs._base import model_of
from onnxport.description.packed_patches import PackedPatchEncoderOnnxConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor


class GlmImageEncoderOnnxConfig(PackedPatchEncoderOnnxConfig):
    """Describe the encoder of source images, with the embeddings of their tokens as features."""

    def _encode(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Return the embeddings of the images' tokens: traced, those of all patches as one column."""
        import torch

        model = model_of(forward).base_model
        if torch.compiler.is_exporting():
            pixels, grids = arguments[self._patches_name], arguments[self._grid_name]
            images = [model.visual(pixels, grid_thw=grids, return_dict=True).pooler_output.transpose(0, 1)[:, :, None]]
        else:
            images = model.get_image_features(**arguments, return_dict=True).pooler_output
        return model.get_input_embeddings()(model.get_image_tokens(images))

    def _named_outputs(self, outputs: Any) -> dict[str, Any]:
        return {"image_features": outputs}


def _image_encoder(model: PreTrainedModel, _: Preprocessor) -> GlmImageEncoderOnnxConfig:
    return GlmImageEncoderOnnxConfig(model)


ARCHITECTURES = (
    Architecture(
        ("glm_image",),
        encoders={"vision_encoder": _image_encoder},
        tiny=Tiny(fields={"vq_config": {"...": 0, "latent_channels": 32, "num_embeddings": 64}}),
    ),
)
