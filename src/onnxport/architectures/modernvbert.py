"""ModernVBERT: its images are tiles, as Idefics3's are; Transformers maps no image processor to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, always
from onnxport.architectures.idefics3 import TiledImageEncoderOnnxConfig
from onnxport.configs._base import model_of
from onnxport.description.image_text_encoder import with_features
from onnxport.description.image_text_model import ImageTextModelOnnxConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from onnxport.configs import OnnxConfig
    from onnxport.description.preprocessor import Preprocessor


class ColModernVBertOnnxConfig(ImageTextModelOnnxConfig):
    """Describe a retriever of prompts, whose placeholder tokens are replaced by the features of tiles."""

    def placeholder_of(self, config: PreTrainedConfig) -> int:
        """Return the placeholder token of the inner model."""
        return int(config.vlm_config.image_token_id)

    def describe_images(self, model: PreTrainedModel, preprocessor: Preprocessor) -> OnnxConfig:
        """Describe the encoder of tiles."""
        return TiledImageEncoderOnnxConfig(model.config.vlm_config)

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the retriever on embeddings with the features of the tiles that aren't padding."""
        vlm, tokens = model_of(forward).vlm, arguments["input_ids"]
        embeds = vlm.get_input_embeddings()(tokens)
        embeds = with_features(embeds, tokens == self._token, self.features(vlm, arguments))
        return super().run(forward, {"inputs_embeds": embeds, "attention_mask": arguments["attention_mask"]})

    def features(self, forward: Any, arguments: Mapping[str, Any]) -> torch.Tensor:
        """Return the features of tiles; see `ImageTextModelOnnxConfig`."""
        model = model_of(forward)
        return super().features(getattr(model, "vlm", model), arguments)


def _vision_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    return TiledImageEncoderOnnxConfig(model.config)


ARCHITECTURES = (
    Architecture(
        ("modernvbert", "ultravbert"),
        encoders={"vision_encoder": _vision_encoder},
        image_processor="Idefics3ImageProcessorPil",
    ),
    Architecture(
        ("colmodernvbert",), model=always(ColModernVBertOnnxConfig), image_processor="Idefics3ImageProcessorPil"
    ),
)
