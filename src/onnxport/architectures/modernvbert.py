"""ModernVBERT: its images are tiles, as Idefics3's are; Transformers maps no image processor to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.architectures.idefics3 import TiledImageEncoderOnnxConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.configs import OnnxConfig
    from onnxport.description.preprocessor import Preprocessor


def _vision_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    return TiledImageEncoderOnnxConfig(model.config)


ARCHITECTURES = (
    Architecture(
        ("modernvbert", "ultravbert"),
        encoders={"vision_encoder": _vision_encoder},
        image_processor="Idefics3ImageProcessorPil",
    ),
    Architecture(("colmodernvbert",), image_processor="Idefics3ImageProcessorPil"),
)
