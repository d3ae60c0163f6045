"""Preprocessors for a checkpoint without any: of the classes that Transformers maps its model type to.

Their sizes are those of the configuration. They make dummy inputs, so that a graph's inputs don't depend on the files
beside the weights; they aren't written to an output.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from onnxport._foreign_errors import translating
from onnxport.configs.plain_tokenizer import plain_tokenizer
from onnxport.description.preprocessor import Preprocessor, Preprocessors
from onnxport.description.text_configs import text_config_of

if TYPE_CHECKING:
    from transformers import FeatureExtractionMixin, PreTrainedConfig, PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor

logger = logging.getLogger(__name__)

_IMAGE_INPUTS = ("pixel_values",)
_AUDIO_INPUTS = ("input_values", "input_features")
_IMAGE_CONFIGS = (
    "vision_config",
    "backbone_config",
    "image_config",
    "encoder",
    "thinker_config",
    "vision_model_config",
    "vlm_config",
    "sam_config",
)
_AUDIO_CONFIGS = (
    *("audio_config", "asr_config", "encoder_config", "speech_encoder", "thinker_config", "audio_encoder_config"),
)
_IMAGE_SIZES = ("image_size", "input_size", "img_size")
"""Configuration fields with the size of images, in pixels."""
_MEL_BINS = (
    *("feature_projection_input_dim", "input_dim", "input_size", "num_mel_bins", "n_mels", "mel_dim"),
    "input_feat_size",
)
"""Configuration fields with the number of mel bins of an audio frame."""
_PLACEHOLDER = re.compile(r"(image|video|audio)_token_(id|index)$")
_MORE_THAN_TEXTS = {"table", "boxes", "xpaths"}
"""Parameters of tokenizers that don't encode texts alone."""
_IMAGE_SIZE = (224, 224)
_SAMPLES = 24000
_TIME_FIRST = "SeamlessM4TFeatureExtractor"
"""Its `input_features` are [batch, frames, mel bins], as most models but Whisper take them."""


@dataclass(frozen=True)
class ImageDefaults:
    """Hold what neither a configuration nor Transformers' mapping says about a model's images.

    Attributes:
        size: height and width in pixels; None for the configuration's.
        processor: image processor class; empty for that of Transformers' mapping.
    """

    size: tuple[int, int] | None = None
    processor: str = ""


_NO_DEFAULTS = ImageDefaults()


def complete_preprocessor(
    model: PreTrainedModel, preprocessor: Preprocessor | None, images: ImageDefaults = _NO_DEFAULTS
) -> Preprocessor:
    """Return a checkpoint's preprocessor with those added that the model's inputs need and the checkpoint lacks.

    Args:
        model: the model, whose forward names its inputs.
        preprocessor: the checkpoint's, None if it has none.
        images: what neither the configuration nor Transformers' mapping says about images.
    """
    preprocessor = _taking_texts(model, preprocessor)
    names = inspect.signature(type(model).forward).parameters
    has_images, has_audio = (any(name in names for name in kind) for kind in (_IMAGE_INPUTS, _AUDIO_INPUTS))
    known = preprocessor if isinstance(preprocessor, Preprocessors) else None
    is_complete = known is None and preprocessor is not None and not _is_tokenizer(preprocessor)
    if is_complete or (preprocessor is not None and not (has_images or has_audio)):
        return cast("Preprocessor", preprocessor)
    tokenizer = preprocessor if known is None else cast("Preprocessor", known.tokenizer)
    if preprocessor is None and ("input_ids" in names or not (has_images or has_audio)):
        tokenizer = _tokenizer_of(model)
    part: dict[str, Any] = {}
    if has_images:
        part["image_processor"] = image_processor_of(model.config, images)
    if has_audio:
        audio_input = next(name for name in _AUDIO_INPUTS if name in names)
        part["feature_extractor"] = feature_extractor_of(model.config, audio_input)
    if known is not None:
        part |= {name: value for name in part if (value := getattr(known, name)) is not None}
    found = {name: value for name, value in part.items() if value is not None}
    if tokenizer is None:
        return cast("Preprocessor", next(iter(found.values()), None) or _tokenizer_of(model))
    return cast("Preprocessor", Preprocessors(cast("Any", tokenizer), **found)) if found else tokenizer


def _taking_texts(model: PreTrainedModel, preprocessor: Preprocessor | None) -> Preprocessor | None:
    """Replace a tokenizer that takes more than texts: TAPAS's takes a table, others words with boxes, or markup."""
    tokenizer = preprocessor if _is_tokenizer(preprocessor) else getattr(preprocessor, "tokenizer", None)
    if tokenizer is None or _MORE_THAN_TEXTS.isdisjoint(inspect.signature(type(tokenizer).__call__).parameters):
        return preprocessor
    plain, images = _tokenizer_of(model), getattr(preprocessor, "image_processor", None)
    return plain if images is None else cast("Preprocessor", Preprocessors(cast("Any", plain), images))


def _tokenizer_of(model: PreTrainedModel) -> Preprocessor:
    config = model.config if hasattr(model.config, "vocab_size") else text_config_of(model.config)
    placeholders = _placeholder_tokens(model.config)
    ends_with_eos = model.config.is_encoder_decoder
    return cast("Preprocessor", plain_tokenizer(config, ends_with_eos=ends_with_eos, placeholders=placeholders))


def _placeholder_tokens(config: PreTrainedConfig) -> set[int]:
    """Return the ids of placeholder tokens in a configuration and its sub-configurations."""
    fields = [field for part in (config, *sub_configs(config, _IMAGE_CONFIGS)) for field in vars(part).items()]
    return {value for name, value in fields if _PLACEHOLDER.search(name) and isinstance(value, int)}


def _is_tokenizer(preprocessor: Preprocessor | None) -> bool:
    from transformers import PreTrainedTokenizerBase

    return isinstance(preprocessor, PreTrainedTokenizerBase)


def image_processor_of(config: PreTrainedConfig, images: ImageDefaults = _NO_DEFAULTS) -> BaseImageProcessor | None:
    """Return an image processor of the class that Transformers maps a model type to, ViT's if there is none.

    Args:
        config: the model's configuration; `image_size` is the size of its images.
        images: size and class, instead of the configuration's and the mapping's.

    Returns:
        The processor; None if none of both classes makes `pixel_values` of images.
    """
    import transformers
    from PIL import Image
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    height, width = images.size or image_size_of(config) or _IMAGE_SIZE
    entry = _entry_of(IMAGE_PROCESSOR_MAPPING_NAMES, config.model_type) or {}
    for name in (images.processor or entry.get("pil"), "ViTImageProcessorPil"):
        image_class = getattr(transformers, name, None) if name else None
        if image_class is None:
            continue
        try:
            with translating(_Unusable):
                processor = image_class(
                    **_image_arguments(image_class, height, width), **_patch_arguments(image_class, config)
                )
                first = next(iter(processor.model_input_names))
                pixels = processor(images=[Image.new("RGB", (40, 40))] * 2, return_tensors="pt").get(first)
        except _Unusable as error:
            logger.debug("%s can't be used with default settings: %s", name, error)
            continue
        is_mapped = bool(images.processor) or config.model_type in IMAGE_PROCESSOR_MAPPING_NAMES
        takes_tiles = is_mapped or (pixels is not None and pixels.ndim <= 4)  # an encoder alone takes single tiles
        if first == "pixel_values" and pixels is not None and takes_tiles:
            return cast("BaseImageProcessor", processor)
    return None


class _Unusable(Exception):
    """A preprocessor's class raised an exception, of any type: it needs arguments or packages."""


def feature_extractor_of(
    config: PreTrainedConfig,
    audio_input: str,
    *,
    class_name: str | None = None,
    mel_bins: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> FeatureExtractionMixin | None:
    """Return a feature extractor of the class that Transformers maps a model type to, else of a usual one.

    Args:
        config: the model's configuration, which has the number of mel bins.
        audio_input: `input_values` or `input_features`.
        class_name: the class, instead of the mapped one.
        mel_bins: mel bins of each frame, instead of the configuration's.
        arguments: further arguments of the class.

    Returns:
        The feature extractor; None if no class makes that input.
    """
    import numpy
    import transformers
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES

    mapped = class_name or _entry_of(FEATURE_EXTRACTOR_MAPPING_NAMES, config.model_type) or ""
    bins = mel_bins or first_int([config, *sub_configs(config, _AUDIO_CONFIGS)], *_MEL_BINS)
    usual = "WhisperFeatureExtractor" if mapped in ("", "WhisperFeatureExtractor") else _TIME_FIRST
    for name in (mapped, usual if audio_input == "input_features" else "Wav2Vec2FeatureExtractor"):
        extractor_class = getattr(transformers, name, None) if name else None
        if extractor_class is None:
            continue
        try:
            with translating(_Unusable):
                extractor = extractor_class(**_audio_arguments(extractor_class, audio_input, bins), **(arguments or {}))
                audio = [numpy.zeros(_SAMPLES)] * 2
                features = extractor(audio, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        except _Unusable as error:
            logger.debug("%s can't be used with default settings: %s", name, error)
            continue
        if audio_input not in features:
            continue
        if not bins or audio_input != "input_features" or bins in features[audio_input].shape[1:]:
            return cast("FeatureExtractionMixin", extractor)
    return None


def _entry_of(mapping: Mapping[str, Any], model_type: str) -> Any:
    """Return a mapping's entry for a model type; for that of a submodel, the whole model's."""
    modality = re.sub(r"_(model|encoder|decoder)$", "", model_type)
    whole = re.sub(r"_(vision|audio|image|text)?_?(model|encoder|decoder|vision|audio)?$", "", model_type)
    return mapping.get(model_type) or mapping.get(modality) or mapping.get(whole)


def image_size_of(config: PreTrainedConfig) -> tuple[int, int] | None:
    """Return the height and width of a model's images, in pixels; None if its configuration has none."""
    configs = (config, *sub_configs(config, _IMAGE_CONFIGS))
    for size in (getattr(part, name, None) for part in configs for name in _IMAGE_SIZES):
        if isinstance(size, int):
            return size, size
        if isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(side, int) for side in size):
            return size[0], size[1]
    return None


def _image_arguments(image_class: Any, height: int, width: int) -> dict[str, Any]:
    square = {"height": height, "width": width}
    default = getattr(image_class, "size", None) or {}
    edges = {edge: height for edge in ("shortest_edge", "longest_edge") if edge in default}
    arguments: dict[str, Any] = {"size": edges or square}
    arguments |= {
        name: square for name in ("crop_size", "high_res_size", "pad_size") if getattr(image_class, name, None)
    }
    if getattr(image_class, "max_image_size", None):  # of a tile
        arguments["max_image_size"] = {"longest_edge": height}
    if getattr(image_class, "apply_ocr", None):  # it needs tesseract
        arguments["apply_ocr"] = False
    return arguments


def _patch_arguments(image_class: Any, config: PreTrainedConfig) -> dict[str, int]:
    """Return the sizes of patches for a class that makes packed patches (Qwen2-VL's and its relatives')."""
    if not hasattr(image_class, "merge_size"):
        return {}
    configs = [*sub_configs(config, _IMAGE_CONFIGS), config]
    names = {
        "patch_size": "patch_size",
        "temporal_patch_size": "temporal_patch_size",
        "merge_size": "spatial_merge_size",
    }
    found = {name: first_int(configs, field) for name, field in names.items() if hasattr(image_class, name)}
    return {name: size for name, size in found.items() if size is not None}


def _audio_arguments(extractor_class: Any, audio_input: str, bins: int | None) -> dict[str, Any]:
    known = inspect.signature(extractor_class.__init__).parameters
    if extractor_class.__name__ == "ClapFeatureExtractor":
        return {"truncation": "rand_trunc"}  # the setting of models without fusion
    if not bins or audio_input != "input_features":
        return {}
    if "stride" in known and "num_mel_bins" in known:
        return {"num_mel_bins": bins // 2, "feature_size": bins // 2, "stride": 2}
    return {"feature_size": bins} if "feature_size" in known else {}


def sub_configs(config: PreTrainedConfig, names: tuple[str, ...]) -> Iterator[PreTrainedConfig]:
    """Yield the sub-configurations in fields of these names, each followed by its own.

    One of the same class is the configuration itself under another name: WavTokenizer's encoder has an encoder.

    Args:
        config: a configuration; it isn't among them.
        names: names of fields.
    """
    for name in names:
        part = getattr(config, name, None)
        if hasattr(part, "to_dict") and type(part) is not type(config):
            yield part
            yield from sub_configs(part, names)


def first_int(configs: list[PreTrainedConfig], *names: str) -> int | None:
    """Return the first integer in fields of these names; None if there is none."""
    values = (getattr(config, name, None) for config in configs for name in names)
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), None)
