"""List the model types of 4.37.2, with the description and the features of each.

The tables are literal; `load_config_class` imports a description's module.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxport.configs import OnnxConfig


@dataclass(frozen=True)
class ModelType:
    """Description and features of a model type.

    Attributes:
        config: `module:class` of the description.
        features: names of the features, in the order of 4.37.2.
    """

    config: str
    features: tuple[str, ...]


ENCODER_DECODER_MODELS = ["vision-encoder-decoder"]
"""Model types that are exported as two graphs; 4.37.2 has this list in `__main__`."""
_IMAGES = (
    "default",
    "image-classification",
)
_ENCODER = (
    "default",
    "masked-lm",
    "sequence-classification",
    "multiple-choice",
    "token-classification",
    "question-answering",
)
_ENCODER_CAUSAL = (
    "default",
    "masked-lm",
    "causal-lm",
    "sequence-classification",
    "multiple-choice",
    "token-classification",
    "question-answering",
)
_SEQ2SEQ = (
    "default",
    "default-with-past",
    "seq2seq-lm",
    "seq2seq-lm-with-past",
)
_DECODER = ("default", "default-with-past", "causal-lm", "causal-lm-with-past")
_DECODER_AND_SEQ2SEQ = (*_DECODER, "seq2seq-lm", "seq2seq-lm-with-past")

CONFIG_CLASSES: dict[str, str] = {
    "AlbertOnnxConfig": "onnxport.configs.text_encoders:AlbertOnnxConfig",
    "BartOnnxConfig": "onnxport.configs.encoder_decoders:BartOnnxConfig",
    "BeitOnnxConfig": "onnxport.configs.vision:BeitOnnxConfig",
    "BertOnnxConfig": "onnxport.configs.text_encoders:BertOnnxConfig",
    "BigBirdOnnxConfig": "onnxport.configs.text_encoders:BigBirdOnnxConfig",
    "BigBirdPegasusOnnxConfig": "onnxport.configs.encoder_decoders:BigBirdPegasusOnnxConfig",
    "BlenderbotOnnxConfig": "onnxport.configs.encoder_decoders:BlenderbotOnnxConfig",
    "BlenderbotSmallOnnxConfig": "onnxport.configs.encoder_decoders:BlenderbotSmallOnnxConfig",
    "BloomOnnxConfig": "onnxport.configs.decoders:BloomOnnxConfig",
    "CLIPOnnxConfig": "onnxport.configs.vision:CLIPOnnxConfig",
    "CamembertOnnxConfig": "onnxport.configs.text_encoders:CamembertOnnxConfig",
    "ChineseCLIPOnnxConfig": "onnxport.configs.vision:ChineseCLIPOnnxConfig",
    "CodeGenOnnxConfig": "onnxport.configs.decoders:CodeGenOnnxConfig",
    "ConditionalDetrOnnxConfig": "onnxport.configs.vision:ConditionalDetrOnnxConfig",
    "ConvBertOnnxConfig": "onnxport.configs.text_encoders:ConvBertOnnxConfig",
    "ConvNextOnnxConfig": "onnxport.configs.vision:ConvNextOnnxConfig",
    "Data2VecTextOnnxConfig": "onnxport.configs.text_encoders:Data2VecTextOnnxConfig",
    "Data2VecVisionOnnxConfig": "onnxport.configs.vision:Data2VecVisionOnnxConfig",
    "DebertaOnnxConfig": "onnxport.configs.text_encoders:DebertaOnnxConfig",
    "DebertaV2OnnxConfig": "onnxport.configs.text_encoders:DebertaV2OnnxConfig",
    "DeiTOnnxConfig": "onnxport.configs.vision:DeiTOnnxConfig",
    "DetrOnnxConfig": "onnxport.configs.vision:DetrOnnxConfig",
    "Dinov2OnnxConfig": "onnxport.configs.vision:Dinov2OnnxConfig",
    "DistilBertOnnxConfig": "onnxport.configs.text_encoders:DistilBertOnnxConfig",
    "EfficientNetOnnxConfig": "onnxport.configs.vision:EfficientNetOnnxConfig",
    "ElectraOnnxConfig": "onnxport.configs.text_encoders:ElectraOnnxConfig",
    "ErnieOnnxConfig": "onnxport.configs.text_encoders:ErnieOnnxConfig",
    "FlaubertOnnxConfig": "onnxport.configs.text_encoders:FlaubertOnnxConfig",
    "GPT2OnnxConfig": "onnxport.configs.decoders:GPT2OnnxConfig",
    "GPTJOnnxConfig": "onnxport.configs.decoders:GPTJOnnxConfig",
    "GPTNeoOnnxConfig": "onnxport.configs.decoders:GPTNeoOnnxConfig",
    "GroupViTOnnxConfig": "onnxport.configs.vision:GroupViTOnnxConfig",
    "IBertOnnxConfig": "onnxport.configs.text_encoders:IBertOnnxConfig",
    "ImageGPTOnnxConfig": "onnxport.configs.vision:ImageGPTOnnxConfig",
    "LayoutLMOnnxConfig": "onnxport.configs.text_encoders:LayoutLMOnnxConfig",
    "LayoutLMv3OnnxConfig": "onnxport.configs.text_encoders:LayoutLMv3OnnxConfig",
    "LevitOnnxConfig": "onnxport.configs.vision:LevitOnnxConfig",
    "LongT5OnnxConfig": "onnxport.configs.encoder_decoders:LongT5OnnxConfig",
    "LongformerOnnxConfig": "onnxport.architectures.longformer:LongformerOnnxConfig",
    "M2M100OnnxConfig": "onnxport.configs.encoder_decoders:M2M100OnnxConfig",
    "MBartOnnxConfig": "onnxport.configs.encoder_decoders:MBartOnnxConfig",
    "MT5OnnxConfig": "onnxport.configs.encoder_decoders:MT5OnnxConfig",
    "MarianOnnxConfig": "onnxport.configs.encoder_decoders:MarianOnnxConfig",
    "MegaOnnxConfig": "onnxport.configs.text_encoders:MegaOnnxConfig",
    "MobileBertOnnxConfig": "onnxport.configs.text_encoders:MobileBertOnnxConfig",
    "MobileNetV1OnnxConfig": "onnxport.configs.vision:MobileNetV1OnnxConfig",
    "MobileNetV2OnnxConfig": "onnxport.configs.vision:MobileNetV2OnnxConfig",
    "MobileViTOnnxConfig": "onnxport.configs.vision:MobileViTOnnxConfig",
    "MobileViTV2OnnxConfig": "onnxport.configs.vision:MobileViTV2OnnxConfig",
    "OwlViTOnnxConfig": "onnxport.configs.vision:OwlViTOnnxConfig",
    "PLBartOnnxConfig": "onnxport.configs.encoder_decoders:PLBartOnnxConfig",
    "PerceiverOnnxConfig": "onnxport.configs.text_encoders:PerceiverOnnxConfig",
    "PoolFormerOnnxConfig": "onnxport.configs.vision:PoolFormerOnnxConfig",
    "PvtOnnxConfig": "onnxport.configs.vision:PvtOnnxConfig",
    "RemBertOnnxConfig": "onnxport.configs.text_encoders:RemBertOnnxConfig",
    "ResNetOnnxConfig": "onnxport.configs.vision:ResNetOnnxConfig",
    "RoFormerOnnxConfig": "onnxport.configs.text_encoders:RoFormerOnnxConfig",
    "RobertaOnnxConfig": "onnxport.configs.text_encoders:RobertaOnnxConfig",
    "RobertaPreLayerNormOnnxConfig": "onnxport.configs.text_encoders:RobertaPreLayerNormOnnxConfig",
    "SegformerOnnxConfig": "onnxport.configs.vision:SegformerOnnxConfig",
    "SqueezeBertOnnxConfig": "onnxport.configs.text_encoders:SqueezeBertOnnxConfig",
    "SwiftFormerOnnxConfig": "onnxport.configs.vision:SwiftFormerOnnxConfig",
    "SwinOnnxConfig": "onnxport.configs.vision:SwinOnnxConfig",
    "T5OnnxConfig": "onnxport.configs.encoder_decoders:T5OnnxConfig",
    "TableTransformerOnnxConfig": "onnxport.configs.vision:TableTransformerOnnxConfig",
    "UMT5OnnxConfig": "onnxport.configs.encoder_decoders:UMT5OnnxConfig",
    "ViTOnnxConfig": "onnxport.configs.vision:ViTOnnxConfig",
    "VisionEncoderDecoderDecoderOnnxConfig": "onnxport.configs.decoders:VisionEncoderDecoderDecoderOnnxConfig",
    "VisionEncoderDecoderEncoderOnnxConfig": "onnxport.configs.decoders:VisionEncoderDecoderEncoderOnnxConfig",
    "VisionEncoderDecoderOnnxConfig": "onnxport.configs.decoders:VisionEncoderDecoderOnnxConfig",
    "WhisperOnnxConfig": "onnxport.configs.encoder_decoders:WhisperOnnxConfig",
    "XLMOnnxConfig": "onnxport.configs.text_encoders:XLMOnnxConfig",
    "XLMRobertaOnnxConfig": "onnxport.configs.text_encoders:XLMRobertaOnnxConfig",
    "XLMRobertaXLOnnxConfig": "onnxport.configs.text_encoders:XLMRobertaXLOnnxConfig",
    "XmodOnnxConfig": "onnxport.configs.text_encoders:XmodOnnxConfig",
    "YolosOnnxConfig": "onnxport.configs.vision:YolosOnnxConfig",
}
"""Every configuration class of 4.37.2 by name, as `module:class`."""


def _type(name: str, *features: str) -> ModelType:
    return ModelType(CONFIG_CLASSES[name], features)


MODEL_TYPES: dict[str, ModelType] = {
    "albert": _type("AlbertOnnxConfig", *_ENCODER),
    "bart": _type("BartOnnxConfig", *_DECODER_AND_SEQ2SEQ, "sequence-classification", "question-answering"),
    "beit": _type("BeitOnnxConfig", *_IMAGES),
    "bert": _type("BertOnnxConfig", *_ENCODER_CAUSAL),
    "big-bird": _type("BigBirdOnnxConfig", *_ENCODER_CAUSAL),
    "bigbird-pegasus": _type(
        "BigBirdPegasusOnnxConfig", *_DECODER_AND_SEQ2SEQ, "sequence-classification", "question-answering"
    ),
    "blenderbot": _type("BlenderbotOnnxConfig", *_DECODER_AND_SEQ2SEQ),
    "blenderbot-small": _type("BlenderbotSmallOnnxConfig", *_DECODER_AND_SEQ2SEQ),
    "bloom": _type("BloomOnnxConfig", *_DECODER, "sequence-classification", "token-classification"),
    "camembert": _type("CamembertOnnxConfig", *_ENCODER_CAUSAL),
    "clip": _type("CLIPOnnxConfig", "default"),
    "codegen": _type("CodeGenOnnxConfig", "default", "causal-lm"),
    "convbert": _type("ConvBertOnnxConfig", *_ENCODER),
    "convnext": _type("ConvNextOnnxConfig", *_IMAGES),
    "data2vec-text": _type("Data2VecTextOnnxConfig", *_ENCODER),
    "data2vec-vision": _type("Data2VecVisionOnnxConfig", *_IMAGES),
    "deberta": _type(
        "DebertaOnnxConfig",
        "default",
        "masked-lm",
        "sequence-classification",
        "token-classification",
        "question-answering",
    ),
    "deberta-v2": _type("DebertaV2OnnxConfig", *_ENCODER),
    "deit": _type("DeiTOnnxConfig", *_IMAGES),
    "detr": _type("DetrOnnxConfig", "default", "object-detection", "image-segmentation"),
    "distilbert": _type("DistilBertOnnxConfig", *_ENCODER),
    "electra": _type("ElectraOnnxConfig", *_ENCODER_CAUSAL),
    "flaubert": _type("FlaubertOnnxConfig", *_ENCODER_CAUSAL),
    "gpt2": _type("GPT2OnnxConfig", *_DECODER, "sequence-classification", "token-classification"),
    "gptj": _type("GPTJOnnxConfig", *_DECODER, "question-answering", "sequence-classification"),
    "gpt-neo": _type("GPTNeoOnnxConfig", *_DECODER, "sequence-classification"),
    "groupvit": _type("GroupViTOnnxConfig", "default"),
    "ibert": _type("IBertOnnxConfig", *_ENCODER),
    "imagegpt": _type("ImageGPTOnnxConfig", *_IMAGES),
    "layoutlm": _type("LayoutLMOnnxConfig", "default", "masked-lm", "sequence-classification", "token-classification"),
    "layoutlmv3": _type(
        "LayoutLMv3OnnxConfig", "default", "question-answering", "sequence-classification", "token-classification"
    ),
    "levit": _type("LevitOnnxConfig", *_IMAGES),
    "longt5": _type("LongT5OnnxConfig", *_SEQ2SEQ),
    "longformer": _type(
        "LongformerOnnxConfig",
        "default",
        "masked-lm",
        "multiple-choice",
        "question-answering",
        "sequence-classification",
        "token-classification",
    ),
    "marian": _type("MarianOnnxConfig", *_SEQ2SEQ, "causal-lm", "causal-lm-with-past"),
    "mbart": _type("MBartOnnxConfig", *_DECODER_AND_SEQ2SEQ, "sequence-classification", "question-answering"),
    "mobilebert": _type("MobileBertOnnxConfig", *_ENCODER),
    "mobilenet-v1": _type("MobileNetV1OnnxConfig", *_IMAGES),
    "mobilenet-v2": _type("MobileNetV2OnnxConfig", *_IMAGES),
    "mobilevit": _type("MobileViTOnnxConfig", *_IMAGES),
    "mt5": _type("MT5OnnxConfig", *_SEQ2SEQ),
    "m2m-100": _type("M2M100OnnxConfig", *_SEQ2SEQ),
    "owlvit": _type("OwlViTOnnxConfig", "default"),
    "perceiver": _type("PerceiverOnnxConfig", "image-classification", "masked-lm", "sequence-classification"),
    "poolformer": _type("PoolFormerOnnxConfig", *_IMAGES),
    "rembert": _type("RemBertOnnxConfig", *_ENCODER_CAUSAL),
    "resnet": _type("ResNetOnnxConfig", *_IMAGES),
    "roberta": _type("RobertaOnnxConfig", *_ENCODER_CAUSAL),
    "roformer": _type(
        "RoFormerOnnxConfig",
        "default",
        "masked-lm",
        "causal-lm",
        "sequence-classification",
        "token-classification",
        "multiple-choice",
        "question-answering",
    ),
    "segformer": _type("SegformerOnnxConfig", "default", "image-classification", "semantic-segmentation"),
    "squeezebert": _type("SqueezeBertOnnxConfig", *_ENCODER),
    "swin": _type("SwinOnnxConfig", *_IMAGES),
    "t5": _type("T5OnnxConfig", *_SEQ2SEQ),
    "vision-encoder-decoder": _type("VisionEncoderDecoderOnnxConfig", "vision2seq-lm"),
    "vit": _type("ViTOnnxConfig", *_IMAGES),
    "whisper": _type("WhisperOnnxConfig", "default", "default-with-past", "speech2seq-lm", "speech2seq-lm-with-past"),
    "xlm": _type("XLMOnnxConfig", *_ENCODER_CAUSAL),
    "xlm-roberta": _type("XLMRobertaOnnxConfig", *_ENCODER_CAUSAL),
    "yolos": _type("YolosOnnxConfig", "default", "object-detection"),
}
"""Registered model types, in the order of 4.37.2, with "-" for "_"."""

MODEL_FOLDERS: dict[str, tuple[str, ...]] = {
    "albert": ("AlbertOnnxConfig",),
    "bart": ("BartOnnxConfig",),
    "beit": ("BeitOnnxConfig",),
    "bert": ("BertOnnxConfig",),
    "big_bird": ("BigBirdOnnxConfig",),
    "bigbird_pegasus": ("BigBirdPegasusOnnxConfig",),
    "blenderbot": ("BlenderbotOnnxConfig",),
    "blenderbot_small": ("BlenderbotSmallOnnxConfig",),
    "bloom": ("BloomOnnxConfig",),
    "camembert": ("CamembertOnnxConfig",),
    "chinese_clip": ("ChineseCLIPOnnxConfig",),
    "clip": ("CLIPOnnxConfig",),
    "codegen": ("CodeGenOnnxConfig",),
    "conditional_detr": ("ConditionalDetrOnnxConfig",),
    "convbert": ("ConvBertOnnxConfig",),
    "convnext": ("ConvNextOnnxConfig",),
    "data2vec": ("Data2VecTextOnnxConfig", "Data2VecVisionOnnxConfig"),
    "deberta": ("DebertaOnnxConfig",),
    "deberta_v2": ("DebertaV2OnnxConfig",),
    "deit": ("DeiTOnnxConfig",),
    "detr": ("DetrOnnxConfig",),
    "dinov2": ("Dinov2OnnxConfig",),
    "distilbert": ("DistilBertOnnxConfig",),
    "efficientnet": ("EfficientNetOnnxConfig",),
    "electra": ("ElectraOnnxConfig",),
    "ernie": ("ErnieOnnxConfig",),
    "flaubert": ("FlaubertOnnxConfig",),
    "gpt2": ("GPT2OnnxConfig",),
    "gpt_neo": ("GPTNeoOnnxConfig",),
    "gptj": ("GPTJOnnxConfig",),
    "groupvit": ("GroupViTOnnxConfig",),
    "ibert": ("IBertOnnxConfig",),
    "imagegpt": ("ImageGPTOnnxConfig",),
    "layoutlm": ("LayoutLMOnnxConfig",),
    "layoutlmv3": ("LayoutLMv3OnnxConfig",),
    "levit": ("LevitOnnxConfig",),
    "longformer": ("LongformerOnnxConfig",),
    "longt5": ("LongT5OnnxConfig",),
    "m2m_100": ("M2M100OnnxConfig",),
    "marian": ("MarianOnnxConfig",),
    "mbart": ("MBartOnnxConfig",),
    "mega": ("MegaOnnxConfig",),
    "mobilebert": ("MobileBertOnnxConfig",),
    "mobilenet_v1": ("MobileNetV1OnnxConfig",),
    "mobilenet_v2": ("MobileNetV2OnnxConfig",),
    "mobilevit": ("MobileViTOnnxConfig",),
    "mobilevitv2": ("MobileViTV2OnnxConfig",),
    "mt5": ("MT5OnnxConfig",),
    "owlvit": ("OwlViTOnnxConfig",),
    "perceiver": ("PerceiverOnnxConfig",),
    "plbart": ("PLBartOnnxConfig",),
    "poolformer": ("PoolFormerOnnxConfig",),
    "pvt": ("PvtOnnxConfig",),
    "rembert": ("RemBertOnnxConfig",),
    "resnet": ("ResNetOnnxConfig",),
    "roberta": ("RobertaOnnxConfig",),
    "roberta_prelayernorm": ("RobertaPreLayerNormOnnxConfig",),
    "roformer": ("RoFormerOnnxConfig",),
    "segformer": ("SegformerOnnxConfig",),
    "squeezebert": ("SqueezeBertOnnxConfig",),
    "swiftformer": ("SwiftFormerOnnxConfig",),
    "swin": ("SwinOnnxConfig",),
    "t5": ("T5OnnxConfig",),
    "table_transformer": ("TableTransformerOnnxConfig",),
    "umt5": ("UMT5OnnxConfig",),
    "vision_encoder_decoder": (
        "VisionEncoderDecoderEncoderOnnxConfig",
        "VisionEncoderDecoderDecoderOnnxConfig",
        "VisionEncoderDecoderOnnxConfig",
    ),
    "vit": ("ViTOnnxConfig",),
    "whisper": ("WhisperOnnxConfig",),
    "xlm": ("XLMOnnxConfig",),
    "xlm_roberta": ("XLMRobertaOnnxConfig",),
    "xlm_roberta_xl": ("XLMRobertaXLOnnxConfig",),
    "xmod": ("XmodOnnxConfig",),
    "yolos": ("YolosOnnxConfig",),
}
"""Package in `transformers.models` to its configuration classes in 4.37.2."""


def load_config_class(name: str) -> Any:
    """Import a configuration class.

    Args:
        name: name of the class in 4.37.2, or `module:class`.

    Returns:
        The class, a subclass of `OnnxConfig`.

    Raises:
        KeyError: no class has this name.
    """
    module, _, attribute = (name if ":" in name else CONFIG_CLASSES[name]).partition(":")
    config_class: type[OnnxConfig] = getattr(import_module(module), attribute)
    return config_class
