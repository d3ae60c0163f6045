"""Write the preprocessors of a tiny checkpoint: a tokenizer, an image processor, a feature extractor.

The parameters of the model's forward determine which of them it has.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conformance.matrix.shrink import tiny_of
from conformance.preprocessors import make_image_processor, make_tokenizer

_TEXT_CONFIGS = ("text_config", "decoder", "text_encoder", "thinker_config", "text_model_config", "language_config")
_VISION_CONFIGS = (
    "vision_config",
    "backbone_config",
    "image_config",
    "encoder",
    "thinker_config",
    "vision_model_config",
)
_AUDIO_CONFIGS = (
    "audio_config",
    "asr_config",
    "encoder_config",
    "speech_encoder",
    "thinker_config",
    "audio_encoder_config",
)


def save_preprocessors(model_class: Any, config: Any, directory: Path) -> None:
    """Write the preprocessors of a model.

    Args:
        model_class: the model's class.
        config: the model's configuration.
        directory: the checkpoint's directory.
    """
    names = tuple(inspect.signature(model_class.forward).parameters)
    if config.model_type == "imagegpt":  # its image processor returns token ids, one for each colour
        make_image_processor("ImageGPTImageProcessor", 16, config).save_pretrained(directory)
        return
    if "input_ids" in names:
        tokenizer_for(config, names).save_pretrained(directory)
    if "pixel_values" in names:
        image_processor_for(config).save_pretrained(directory)
    elif input_name := next((name for name in ("input_values", "input_features") if name in names), None):
        feature_extractor_for(config, input_name).save_pretrained(directory)


def tokenizer_for(config: Any, names: tuple[str, ...]) -> Any:
    """Build a tokenizer of characters, with token ids in the model's vocabulary."""
    configs = [config, *_subconfigs(config, _TEXT_CONFIGS)]
    sizes = [size for one in configs if isinstance(size := getattr(one, "vocab_size", None), int) and size > 1]
    ids = {token: _first(configs, f"{token}_token_id") for token in ("pad", "bos", "eos")}
    return make_tokenizer(
        config.model_type,
        min(sizes, default=100),
        2,
        "<unk>",
        token_type_ids="token_type_ids" in names and (_first(configs, "type_vocab_size") or 2) > 1,
        ids=ids,
    )


def image_processor_for(config: Any) -> Any:
    """Build the image processor of a model type, with the image size of the configuration.

    If it requires more than images, or a package that isn't installed, ViT's image processor is used.
    """
    import transformers
    from PIL import Image
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    height, width = image_size(config)
    entry = _mapping_entry(IMAGE_PROCESSOR_MAPPING_NAMES, config.model_type) or {}
    for name in (entry.get("pil"), "ViTImageProcessorPil"):
        image_class = getattr(transformers, name, None) if name else None
        if image_class is None:
            continue
        try:
            processor = image_class(**_image_arguments(image_class, height, width))
            first = next(iter(processor.model_input_names))
            pixels = processor(images=[Image.new("RGB", (40, 40))] * 2, return_tensors="pt").get(first)
            is_own = config.model_type in IMAGE_PROCESSOR_MAPPING_NAMES  # an encoder alone takes single tiles
            if first == "pixel_values" and pixels is not None and (is_own or pixels.ndim <= 4):
                return processor
        except Exception:  # processors raise any exception
            continue
    raise ValueError(f"no image processor for {config.model_type}")


def _mapping_entry(mapping: Any, model_type: str) -> Any:
    """Return the entry of a model type in a mapping; for a submodel's type without one, that of the whole model."""
    whole = re.sub(r"_(vision|audio|image|text)?_?(model|encoder|decoder|vision|audio|tower)?$", "", model_type)
    return mapping.get(model_type) or mapping.get(whole)


def image_size(config: Any) -> tuple[int, int]:
    """Return height and width of a model's images."""
    if (size := tiny_of(config.model_type).image_size) is not None:
        return size
    for one in (config, *_subconfigs(config, _VISION_CONFIGS)):
        size = getattr(one, "image_size", None)
        if isinstance(size, int):
            return size, size
        if isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(side, int) for side in size):
            return size[0], size[1]
    return 64, 64


def _image_arguments(image_class: Any, height: int, width: int) -> dict[str, Any]:
    square = {"height": height, "width": width}
    default = getattr(image_class, "size", None) or {}
    edges = {edge: height for edge in ("shortest_edge", "longest_edge") if edge in default}
    arguments: dict[str, Any] = {"size": edges or square}
    if getattr(image_class, "crop_size", None):
        arguments["crop_size"] = square
    if getattr(image_class, "high_res_size", None):
        arguments["high_res_size"] = square
    if getattr(image_class, "pad_size", None):
        arguments["pad_size"] = square
    if getattr(image_class, "apply_ocr", None):
        arguments["apply_ocr"] = False
    return arguments


def feature_extractor_for(config: Any, input_name: str) -> Any:
    """Build the feature extractor of a model type, with the configuration's number of mel bins."""
    import numpy
    import transformers
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES

    tiny = tiny_of(config.model_type)
    class_name = tiny.feature_extractor or _mapping_entry(FEATURE_EXTRACTOR_MAPPING_NAMES, config.model_type) or ""
    configs = [config, *_subconfigs(config, _AUDIO_CONFIGS)]
    bins = tiny.num_mel_bins or _first(
        configs,
        *("feature_projection_input_dim", "input_dim", "input_size", "num_mel_bins", "n_mels", "mel_dim"),
        "input_feat_size",
    )
    default = "WhisperFeatureExtractor" if class_name in ("", "WhisperFeatureExtractor") else _FRAMES_FIRST
    for name in (class_name, default if input_name == "input_features" else "Wav2Vec2FeatureExtractor"):
        extractor_class = getattr(transformers, name, None) if name else None
        if extractor_class is None:
            continue
        try:
            arguments = _audio_arguments(extractor_class, input_name, bins)
            extractor = extractor_class(**arguments, **tiny.feature_extractor_arguments)
            outputs = extractor([numpy.zeros(_SAMPLES)] * 2, sampling_rate=extractor.sampling_rate, return_tensors="pt")
            if input_name in outputs:
                return extractor
        except Exception:  # feature extractors raise any exception
            continue
    raise ValueError(f"no feature extractor for {config.model_type}")


_FRAMES_FIRST = "SeamlessM4TFeatureExtractor"
"""Returns features of shape [clips, frames, mel bins], as most models except Whisper take them."""
_SAMPLES = 24000


def _audio_arguments(extractor_class: Any, input_name: str, bins: int | None) -> dict[str, Any]:
    parameters = inspect.signature(extractor_class.__init__).parameters
    if getattr(extractor_class, "__name__", "") == "ClapFeatureExtractor":
        return {"truncation": "rand_trunc"}  # for models without feature fusion
    if not bins or input_name != "input_features":
        return {}
    if "stride" in parameters and "num_mel_bins" in parameters:
        return {"num_mel_bins": bins // 2, "feature_size": bins // 2, "stride": 2}
    return {"feature_size": bins} if "feature_size" in parameters else {}


def _subconfigs(config: Any, names: tuple[str, ...]) -> Iterator[Any]:
    for name in names:
        subconfig = getattr(config, name, None)
        if subconfig is not None and hasattr(subconfig, "to_dict"):
            yield subconfig
            yield from _subconfigs(subconfig, names)


def _first(configs: list[Any], *names: str) -> Any:
    values = (getattr(config, name, None) for config in configs for name in names)
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), None)
