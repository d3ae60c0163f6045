"""Write what a tiny checkpoint ships beside its weights: a tokenizer, an image processor, a feature extractor.

Which of them is told by what the model's forward takes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conformance.matrix.shrink import tiny_of
from conformance.preprocessors import make_image_processor, make_tokenizer

_TEXTS = ("text_config", "decoder", "text_encoder", "thinker_config", "text_model_config", "language_config")
_IMAGES = ("vision_config", "backbone_config", "image_config", "encoder", "thinker_config", "vision_model_config")
_AUDIOS = ("audio_config", "asr_config", "encoder_config", "speech_encoder", "thinker_config", "audio_encoder_config")


def save_sides(model_class: Any, config: Any, directory: Path) -> None:
    """Write the preprocessors of a model.

    Args:
        model_class: its class.
        config: its configuration.
        directory: the checkpoint's directory.
    """
    names = tuple(inspect.signature(model_class.forward).parameters)
    if config.model_type == "imagegpt":  # its tokens are colours
        make_image_processor("ImageGPTImageProcessor", 16, config).save_pretrained(directory)
        return
    if "input_ids" in names:
        tokenizer_for(config, names).save_pretrained(directory)
    if "pixel_values" in names:
        image_processor_for(config).save_pretrained(directory)
    elif kind := next((name for name in ("input_values", "input_features") if name in names), None):
        feature_extractor_for(config, kind).save_pretrained(directory)


def tokenizer_for(config: Any, names: tuple[str, ...]) -> Any:
    """Build a tokenizer of letters whose tokens are all in the model's vocabulary."""
    parts = [config, *_parts(config, _TEXTS)]
    sizes = [size for part in parts if isinstance(size := getattr(part, "vocab_size", None), int) and size > 1]
    ids = {kind: _first(parts, f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
    return make_tokenizer(
        config.model_type,
        min(sizes, default=100),
        2,
        "<unk>",
        token_type_ids="token_type_ids" in names and (_first(parts, "type_vocab_size") or 2) > 1,
        ids=ids,
    )


def image_processor_for(config: Any) -> Any:
    """Build the image processor of a model type, at the size of pictures that the configuration says.

    One that needs more than a picture, or a package that isn't installed, gives way to ViT's.
    """
    import transformers
    from PIL import Image
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    height, width = image_size(config)
    entry = _named(IMAGE_PROCESSOR_MAPPING_NAMES, config.model_type) or {}
    for name in (entry.get("pil"), "ViTImageProcessorPil"):
        image_class = getattr(transformers, name, None) if name else None
        if image_class is None:
            continue
        try:
            made = image_class(**_image_arguments(image_class, height, width))
            first = next(iter(made.model_input_names))
            pixels = made(images=[Image.new("RGB", (40, 40))] * 2, return_tensors="pt").get(first)
            own = config.model_type in IMAGE_PROCESSOR_MAPPING_NAMES  # the encoder of a model sees single tiles
            if first == "pixel_values" and pixels is not None and (own or pixels.ndim <= 4):
                return made
        except Exception:  # processors raise whatever they like
            continue
    raise ValueError(f"no image processor for {config.model_type}")


def _named(names: Any, model_type: str) -> Any:
    """Return what a mapping says of a model type; for a part of a model, what it says of the whole."""
    whole = re.sub(r"_(vision|audio|image|text)?_?(model|encoder|decoder|vision|audio|tower)?$", "", model_type)
    return names.get(model_type) or names.get(whole)


def image_size(config: Any) -> tuple[int, int]:
    """Return height and width of the pictures that a model takes."""
    if (size := tiny_of(config.model_type).image_size) is not None:
        return size
    for part in (config, *_parts(config, _IMAGES)):
        size = getattr(part, "image_size", None)
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


def feature_extractor_for(config: Any, kind: str) -> Any:
    """Build the feature extractor of a model type, with as many mel bins as the configuration says."""
    import numpy
    import transformers
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES

    tiny = tiny_of(config.model_type)
    own = tiny.feature_extractor or _named(FEATURE_EXTRACTOR_MAPPING_NAMES, config.model_type) or ""
    parts = [config, *_parts(config, _AUDIOS)]
    bins = tiny.num_mel_bins or _first(
        parts,
        *("feature_projection_input_dim", "input_dim", "input_size", "num_mel_bins", "n_mels", "mel_dim"),
        "input_feat_size",
    )
    usual = "WhisperFeatureExtractor" if own in ("", "WhisperFeatureExtractor") else _BY_TIME
    for name in (own, usual if kind == "input_features" else "Wav2Vec2FeatureExtractor"):
        extractor_class = getattr(transformers, name, None) if name else None
        if extractor_class is None:
            continue
        try:
            made = extractor_class(**_audio_arguments(extractor_class, kind, bins), **tiny.feature_extractor_arguments)
            if kind in made([numpy.zeros(_SAMPLES)] * 2, sampling_rate=made.sampling_rate, return_tensors="pt"):
                return made
        except Exception:  # extractors raise whatever they like
            continue
    raise ValueError(f"no feature extractor for {config.model_type}")


_BY_TIME = "SeamlessM4TFeatureExtractor"
"""Gives features of shape [sounds, time, bins], as most models but Whisper's take them."""
_SAMPLES = 24000


def _audio_arguments(extractor_class: Any, kind: str, bins: int | None) -> dict[str, Any]:
    known = inspect.signature(extractor_class.__init__).parameters
    if getattr(extractor_class, "__name__", "") == "ClapFeatureExtractor":
        return {"truncation": "rand_trunc"}  # as models without fusion have it
    if not bins or kind != "input_features":
        return {}
    if "stride" in known and "num_mel_bins" in known:
        return {"num_mel_bins": bins // 2, "feature_size": bins // 2, "stride": 2}
    return {"feature_size": bins} if "feature_size" in known else {}


def _parts(config: Any, names: tuple[str, ...]) -> Iterator[Any]:
    for name in names:
        part = getattr(config, name, None)
        if part is not None and hasattr(part, "to_dict"):
            yield part
            yield from _parts(part, names)


def _first(parts: list[Any], *names: str) -> Any:
    values = (getattr(part, name, None) for part in parts for name in names)
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), None)
