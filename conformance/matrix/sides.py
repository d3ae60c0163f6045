"""Write the preprocessors of a tiny checkpoint: a tokenizer, an image processor, a feature extractor.

The parameters of the model's forward determine which of them it has.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from conformance.matrix.shrink import tiny_of
from conformance.preprocessors import make_image_processor, make_tokenizer
from onnxport.architectures.describe import image_defaults
from onnxport.description.default_preprocessor import (
    ImageDefaults,
    feature_extractor_of,
    first_int,
    image_processor_of,
    image_size_of,
    sub_configs,
)

_TEXT_CONFIGS = ("text_config", "decoder", "text_encoder", "thinker_config", "text_model_config", "language_config")
_IMAGE_SIZE = (64, 64)


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
        _saved(image_processor_of(config, _image_defaults(config)), config, directory)
    elif input_name := next((name for name in ("input_values", "input_features") if name in names), None):
        tiny = tiny_of(config.model_type)
        extractor = feature_extractor_of(
            config,
            input_name,
            class_name=tiny.feature_extractor,
            mel_bins=tiny.num_mel_bins,
            arguments=tiny.feature_extractor_arguments,
        )
        _saved(extractor, config, directory)


def _saved(preprocessor: Any, config: Any, directory: Path) -> None:
    if preprocessor is None:
        raise ValueError(f"Transformers has no preprocessor for {config.model_type}")
    preprocessor.save_pretrained(directory)


def _image_defaults(config: Any) -> ImageDefaults:
    known = image_defaults(config)
    size = tiny_of(config.model_type).image_size or known.size or image_size_of(config) or _IMAGE_SIZE
    return ImageDefaults(size, known.processor)


def tokenizer_for(config: Any, names: tuple[str, ...]) -> Any:
    """Build a tokenizer of characters, with token ids in the model's vocabulary."""
    configs = [config, *sub_configs(config, _TEXT_CONFIGS)]
    sizes = [size for one in configs if isinstance(size := getattr(one, "vocab_size", None), int) and size > 1]
    ids = {token: first_int(configs, f"{token}_token_id") for token in ("pad", "bos", "eos")}
    return make_tokenizer(
        config.model_type,
        min(sizes, default=100),
        2,
        "<unk>",
        token_type_ids="token_type_ids" in names and (first_int(configs, "type_vocab_size") or 2) > 1,
        ids=ids,
    )
