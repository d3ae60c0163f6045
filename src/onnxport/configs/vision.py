"""Describe vision models, and dual encoders of images and text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from packaging.version import Version

from onnxport.configs import OnnxConfig, compute_effective_axis_dimension
from onnxport.configs._dummies import zeros

if TYPE_CHECKING:
    from transformers import ProcessorMixin

    from onnxport.configs._dummies import Framework, Preprocessor

Axes = Mapping[str, Mapping[int, str]]
_PIXELS = {0: "batch", 1: "num_channels", 2: "height", 3: "width"}


class VisionOnnxConfig(OnnxConfig):
    """Describe a vision model with class attributes.

    Attributes:
        atol: absolute tolerance of validation.
        opset: minimum opset, as in 4.37.2.
        pooled: whether outputs have no sequence axis, and the base model also returns `pooler_output`.
        pixel_axes: dynamic axes of `pixel_values`.
    """

    torch_onnx_minimum_version = Version("1.11")
    atol: ClassVar[float] = 1e-4
    opset: ClassVar[int] = 11
    pooled: ClassVar[bool] = False
    pixel_axes: ClassVar[dict[int, str]] = _PIXELS

    @property
    def inputs(self) -> Axes:
        """Inputs of the graph."""
        return {"pixel_values": dict(self.pixel_axes)}

    @property
    def outputs(self) -> Axes:
        """Outputs of the graph."""
        if not self.pooled:
            return super().outputs
        names = ("logits",) if self.task == "image-classification" else ("last_hidden_state", "pooler_output")
        return {name: {0: "batch"} for name in names}

    @property
    def atol_for_validation(self) -> float:
        """Absolute tolerance of validation."""
        return self.atol

    @property
    def default_onnx_opset(self) -> int:
        """Minimum opset, as in 4.37.2."""
        return self.opset

    def generate_dummy_inputs(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """Create dummy images, without other outputs of Transformers 5's image processors (a mask for YOLOS)."""
        generated = super().generate_dummy_inputs(*args, **kwargs)
        return {name: value for name, value in generated.items() if name in self.inputs}


class BeitOnnxConfig(VisionOnnxConfig):
    """Describe BEiT."""


class ConvNextOnnxConfig(VisionOnnxConfig):
    """Describe ConvNeXt."""

    atol = 1e-5


class Data2VecVisionOnnxConfig(VisionOnnxConfig):
    """Describe Data2VecVision."""


class DeiTOnnxConfig(VisionOnnxConfig):
    """Describe DeiT."""


class Dinov2OnnxConfig(VisionOnnxConfig):
    """Describe DINOv2."""


class EfficientNetOnnxConfig(VisionOnnxConfig):
    """Describe EfficientNet."""

    atol = 1e-5


class LevitOnnxConfig(VisionOnnxConfig):
    """Describe LeViT."""


class MobileNetV1OnnxConfig(VisionOnnxConfig):
    """Describe MobileNetV1."""

    pooled = True
    pixel_axes: ClassVar[dict[int, str]] = {0: "batch"}


class MobileNetV2OnnxConfig(MobileNetV1OnnxConfig):
    """Describe MobileNetV2."""


class MobileViTOnnxConfig(VisionOnnxConfig):
    """Describe MobileViT."""

    pooled = True


class MobileViTV2OnnxConfig(MobileViTOnnxConfig):
    """Describe MobileViTV2."""


class PoolFormerOnnxConfig(VisionOnnxConfig):
    """Describe PoolFormer."""

    atol = 2e-3


class PvtOnnxConfig(VisionOnnxConfig):
    """Describe PVT."""

    opset = 12


class ResNetOnnxConfig(VisionOnnxConfig):
    """Describe ResNet."""

    atol = 1e-3


class SegformerOnnxConfig(VisionOnnxConfig):
    """Describe SegFormer."""

    opset = 12


class SwiftFormerOnnxConfig(VisionOnnxConfig):
    """Describe SwiftFormer."""


class SwinOnnxConfig(VisionOnnxConfig):
    """Describe Swin Transformer."""


class ViTOnnxConfig(VisionOnnxConfig):
    """Describe ViT."""


class YolosOnnxConfig(VisionOnnxConfig):
    """Describe YOLOS."""

    opset = 12


class DetrOnnxConfig(VisionOnnxConfig):
    """Describe DETR, which takes a mask for the padding of images with different sizes."""

    atol = 1e-5
    opset = 12

    @property
    def inputs(self) -> Axes:
        """Inputs of the graph."""
        return {"pixel_values": dict(_PIXELS), "pixel_mask": {0: "batch"}}


class ConditionalDetrOnnxConfig(DetrOnnxConfig):
    """Describe Conditional DETR."""


class TableTransformerOnnxConfig(DetrOnnxConfig):
    """Describe Table Transformer."""


class ImageGPTOnnxConfig(OnnxConfig):
    """Describe ImageGPT, which takes images as sequences of color cluster ids."""

    @property
    def inputs(self) -> Axes:
        """Inputs of the graph."""
        return {"input_ids": {0: "batch", 1: "sequence"}}

    def generate_dummy_inputs(  # type: ignore[override]  # the original's signature
        self,
        preprocessor: Preprocessor,
        batch_size: int = 1,
        seq_length: int = -1,
        is_pair: bool = False,
        framework: Framework = None,
        num_channels: int = 3,
        image_width: int = 32,
        image_height: int = 32,
    ) -> Mapping[str, Any]:
        """Create dummy images as color cluster ids.

        Args:
            preprocessor: an ImageGPT image processor; without one, all pixels have the first color.
            batch_size: number of images; -1 for the default.
            seq_length: ignored; the image processor determines it.
            is_pair: ignored.
            framework: `pt` or `np`.
            num_channels: channels of the images.
            image_width: width of the images, in pixels.
            image_height: height of the images, in pixels.
        """
        batch = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        if not hasattr(preprocessor, "clusters"):
            ids = zeros((batch, self._config.n_positions), framework)
            return {"input_ids": ids.long() if hasattr(ids, "long") else ids.astype("int64")}
        images = self._generate_dummy_images(batch, num_channels, image_height, image_width)
        return dict(preprocessor(images=images, return_tensors=framework))


class CLIPOnnxConfig(OnnxConfig):
    """Describe CLIP, which returns embeddings and similarity scores of text and images."""

    @property
    def inputs(self) -> Axes:
        """Inputs of the graph."""
        text = {0: "batch", 1: "sequence"}
        return {"input_ids": text, "pixel_values": dict(_PIXELS), "attention_mask": dict(text)}

    @property
    def outputs(self) -> Axes:
        """Outputs of the graph."""
        names = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")
        return {name: {0: "batch"} for name in names}

    @property
    def atol_for_validation(self) -> float:
        """Absolute tolerance of validation."""
        return 1e-4

    @property
    def default_onnx_opset(self) -> int:
        """Minimum opset, as in 4.37.2."""
        return 14

    def generate_dummy_inputs(  # type: ignore[override]  # the original's signature
        self, processor: ProcessorMixin, batch_size: int = -1, seq_length: int = -1, framework: Framework = None
    ) -> Mapping[str, Any]:
        """Create dummy sequences and images with the same batch size.

        Args:
            processor: a processor with a tokenizer and an image processor.
            batch_size: number of sequences and of images; -1 for the default.
            seq_length: sequence length; -1 for the default.
            framework: `pt` or `np`.
        """
        generate = super().generate_dummy_inputs
        tokens = generate(processor.tokenizer, batch_size=batch_size, seq_length=seq_length, framework=framework)
        images = generate(processor.image_processor, batch_size=batch_size, framework=framework)
        return {**tokens, **images}


class ChineseCLIPOnnxConfig(CLIPOnnxConfig):
    """Describe Chinese-CLIP."""


class GroupViTOnnxConfig(CLIPOnnxConfig):
    """Describe GroupViT."""


class OwlViTOnnxConfig(CLIPOnnxConfig):
    """Describe OWL-ViT."""
