"""Describe text encoders: token ids and a mask, some with token type ids, bounding boxes or images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from packaging.version import Version

from onnxport.configs import OnnxConfig
from onnxport.configs._dummies import framework_name, to_tensor
from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    from transformers import ProcessorMixin

    from onnxport.configs._dummies import Framework, Preprocessor

Axes = Mapping[str, Mapping[int, str]]


class TextOnnxConfig(OnnxConfig):
    """Describe a text encoder with class attributes.

    Attributes:
        input_names: inputs, in order; the axes of each are batch, (choice,) sequence.
        atol: absolute tolerance of validation.
        opset: minimum opset, as in 4.37.2.
    """

    input_names: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")
    atol: ClassVar[float] = 1e-5
    opset: ClassVar[int] = 11

    @property
    def inputs(self) -> Axes:
        """Inputs of the graph, with a choice axis for multiple choice."""
        axes = {0: "batch", 1: "sequence"}
        if self.task == "multiple-choice":
            axes = {0: "batch", 1: "choice", 2: "sequence"}
        return {name: dict(axes) for name in self.input_names}

    @property
    def atol_for_validation(self) -> float:
        """Absolute tolerance of validation."""
        return self.atol

    @property
    def default_onnx_opset(self) -> int:
        """Minimum opset, as in 4.37.2."""
        return self.opset


class SegmentedTextOnnxConfig(TextOnnxConfig):
    """Describe a text encoder with token type ids."""

    input_names: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask", "token_type_ids")


class AlbertOnnxConfig(SegmentedTextOnnxConfig):
    """Describe ALBERT."""


class BertOnnxConfig(SegmentedTextOnnxConfig):
    """Describe BERT."""


class BigBirdOnnxConfig(TextOnnxConfig):
    """Describe BigBird."""


class CamembertOnnxConfig(TextOnnxConfig):
    """Describe CamemBERT."""


class ConvBertOnnxConfig(SegmentedTextOnnxConfig):
    """Describe ConvBERT."""


class Data2VecTextOnnxConfig(TextOnnxConfig):
    """Describe Data2VecText."""


class DistilBertOnnxConfig(TextOnnxConfig):
    """Describe DistilBERT."""


class ElectraOnnxConfig(SegmentedTextOnnxConfig):
    """Describe ELECTRA."""


class ErnieOnnxConfig(SegmentedTextOnnxConfig):
    """Describe ERNIE, which also takes task type ids."""

    input_names = ("input_ids", "attention_mask", "token_type_ids", "task_type_ids")


class FlaubertOnnxConfig(TextOnnxConfig):
    """Describe FlauBERT."""


class IBertOnnxConfig(TextOnnxConfig):
    """Describe I-BERT."""


class MegaOnnxConfig(TextOnnxConfig):
    """Describe MEGA, which Transformers 5 no longer includes."""


class MobileBertOnnxConfig(SegmentedTextOnnxConfig):
    """Describe MobileBERT."""


class RemBertOnnxConfig(SegmentedTextOnnxConfig):
    """Describe RemBERT."""

    atol = 1e-4


class RobertaOnnxConfig(TextOnnxConfig):
    """Describe RoBERTa."""


class RobertaPreLayerNormOnnxConfig(TextOnnxConfig):
    """Describe RoBERTa-PreLayerNorm."""


class RoFormerOnnxConfig(SegmentedTextOnnxConfig):
    """Describe RoFormer."""


class SqueezeBertOnnxConfig(SegmentedTextOnnxConfig):
    """Describe SqueezeBERT."""


class XLMOnnxConfig(SegmentedTextOnnxConfig):
    """Describe XLM."""


class XLMRobertaOnnxConfig(TextOnnxConfig):
    """Describe XLM-RoBERTa."""


class XLMRobertaXLOnnxConfig(TextOnnxConfig):
    """Describe XLM-RoBERTa-XL."""


class XmodOnnxConfig(TextOnnxConfig):
    """Describe X-MOD."""


class DebertaOnnxConfig(TextOnnxConfig):
    """Describe DeBERTa, which has token type ids if its `type_vocab_size` isn't 0."""

    opset = 12

    @property
    def inputs(self) -> Axes:
        """Inputs of the graph."""
        inputs = dict(super().inputs)
        if self._config.type_vocab_size > 0:
            inputs["token_type_ids"] = dict(inputs["input_ids"])
        return inputs

    def generate_dummy_inputs(self, preprocessor: Preprocessor, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """Create dummy token inputs, without token type ids if the model has none."""
        generated = super().generate_dummy_inputs(preprocessor, *args, **kwargs)
        return {name: value for name, value in generated.items() if name in self.inputs}


class DebertaV2OnnxConfig(DebertaOnnxConfig):
    """Describe DeBERTa-v2 and v3."""


class LayoutLMOnnxConfig(TextOnnxConfig):
    """Describe LayoutLM, where every token has a bounding box."""

    input_names = ("input_ids", "bbox", "attention_mask", "token_type_ids")
    box: ClassVar[tuple[int, ...]] = (48, 84, 73, 128)
    """Left, top, right and bottom of the dummy tokens, normalized to a page of 1000 by 1000."""

    def generate_dummy_inputs(self, preprocessor: Preprocessor, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """Create dummy token inputs with the same bounding box for all tokens.

        Raises:
            NotImplementedError: `framework` isn't PyTorch.
        """
        import torch

        inputs = dict(super().generate_dummy_inputs(preprocessor, *args, **kwargs))
        if not isinstance(inputs["input_ids"], torch.Tensor):
            raise NotImplementedError("Exporting the model to ONNX is currently only supported for PyTorch.")
        batch, length = inputs["input_ids"].shape
        inputs["bbox"] = torch.tensor(self.box).expand(batch, length, 4).clone()
        return inputs


class PerceiverOnnxConfig(OnnxConfig):
    """Describe Perceiver, whose main input is called `inputs` for all modalities."""

    @property
    def inputs(self) -> Axes:
        """Inputs of the graph."""
        axes = (
            {0: "batch", 1: "choice", 2: "sequence"} if self.task == "multiple-choice" else {0: "batch", 1: "sequence"}
        )
        return {"inputs": axes, "attention_mask": dict(axes)}

    @property
    def atol_for_validation(self) -> float:
        """Absolute tolerance of validation."""
        return 1e-4

    def generate_dummy_inputs(self, preprocessor: Preprocessor, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """Create dummy token ids or pixel values with the name `inputs`."""
        generated = dict(super().generate_dummy_inputs(preprocessor, *args, **kwargs))
        for name in ("input_ids", "pixel_values"):
            if name in generated:
                generated = {"inputs": generated.pop(name), **generated}
        return generated


class LayoutLMv3OnnxConfig(OnnxConfig):
    """Describe LayoutLMv3, which takes tokens, their bounding boxes, and the page image."""

    torch_onnx_minimum_version = Version("1.12")

    @property
    def inputs(self) -> Axes:
        """Inputs of the graph, in the order of the head's `forward`."""
        text = {0: "batch", 1: "sequence"}
        pixels = {0: "batch", 1: "num_channels", 2: "height", 3: "width"}
        if self.task in ("question-answering", "sequence-classification"):
            return {"input_ids": text, "attention_mask": dict(text), "bbox": dict(text), "pixel_values": pixels}
        fixed_size = {0: "batch", 1: "num_channels"}
        return {"input_ids": text, "bbox": dict(text), "attention_mask": dict(text), "pixel_values": fixed_size}

    @property
    def default_onnx_opset(self) -> int:
        """Minimum opset, as in 4.37.2."""
        return 12

    def generate_dummy_inputs(  # type: ignore[override]  # only a processor fits, as in the original
        self,
        processor: ProcessorMixin,
        batch_size: int = -1,
        seq_length: int = -1,
        is_pair: bool = False,
        framework: Framework = None,
        num_channels: int = 3,
        image_width: int = 40,
        image_height: int = 40,
    ) -> Mapping[str, Any]:
        """Create dummy pages: an image, and one word per token, all with the same bounding box.

        Args:
            processor: a LayoutLMv3 processor, or a tokenizer and an image processor, which aren't combined.
            batch_size: number of pages; -1 for the default.
            seq_length: tokens per page; -1 for the default.
            is_pair: whether to count the special tokens of a pair.
            framework: `pt` or `np`.
            num_channels: channels of the images.
            image_width: width of the images, in pixels.
            image_height: height of the images, in pixels.
        """
        from onnxport.configs import compute_effective_axis_dimension

        batch = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        if not callable(processor):
            generate = super().generate_dummy_inputs
            tokens = generate(processor.tokenizer, batch, seq_length, is_pair=is_pair, framework=framework)
            page = generate(processor.image_processor, batch, framework=framework)
            boxes = [[list(LayoutLMOnnxConfig.box)] * tokens["input_ids"].shape[1]] * batch
            inputs = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"], **page}
            return {**inputs, "bbox": to_tensor(boxes, framework_name(framework))}
        special = processor.tokenizer.num_special_tokens_to_add(is_pair)
        length = compute_effective_axis_dimension(seq_length, self.default_sequence_length, special)
        words = [[processor.tokenizer.unk_token] * length] * batch
        boxes = [[list(LayoutLMOnnxConfig.box)] * length] * batch
        images = self._generate_dummy_images(batch, num_channels, image_height, image_width)
        with patching(Replacement(processor.image_processor, "apply_ocr", False)):
            return dict(processor(images, text=words, boxes=boxes, return_tensors=framework))
