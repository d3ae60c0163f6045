"""Provide `transformers.onnx.utils`: sizes of parameters and axes, and loading a checkpoint's preprocessor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxport.configs import ParameterFormat, compute_effective_axis_dimension, compute_serialized_parameters_size
from onnxport.loading.preprocessors import check_audio_tokenizer

__all__ = [
    "ParameterFormat",
    "compute_effective_axis_dimension",
    "compute_serialized_parameters_size",
    "get_preprocessor",
]


def get_preprocessor(model_name: str, cache_dir: str | None = None) -> Any:
    """Load the preprocessor of a checkpoint.

    Args:
        model_name: directory, or Hub repository.
        cache_dir: directory for downloads; an addition to the API of 4.37.2.

    Returns:
        A processor, tokenizer, feature extractor or image processor; None if the checkpoint has none.

    Raises:
        ValueError: the checkpoint has a tokenizer and a feature extractor, but no processor that combines them.
        CorruptCheckpointError: a local directory's processor has an audio tokenizer outside that directory.
    """
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, AutoTokenizer

    processor = _try(AutoProcessor, model_name, cache_dir)
    if processor is not None and not _is_vision_only(model_name):
        return processor
    tokenizer = None if _is_vision_only(model_name) else _try(AutoTokenizer, model_name, cache_dir)
    extractor = _try(AutoFeatureExtractor, model_name, cache_dir) or _try(AutoImageProcessor, model_name, cache_dir)
    if tokenizer is not None and extractor is not None:
        raise ValueError(
            f"Couldn't auto-detect preprocessor for {model_name}. Found both a tokenizer and a feature extractor."
        )
    return tokenizer if tokenizer is not None else extractor


def _is_vision_only(model_name: str) -> bool:
    """Return whether a directory has an image processor and no tokenizer.

    Transformers 5's AutoProcessor may build a tokenizer without a vocabulary for such a directory.
    """
    directory = Path(model_name)
    return (directory / "preprocessor_config.json").is_file() and not any(
        (directory / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json", "processor_config.json")
    )


def _try(auto_class: Any, model_name: str, cache_dir: str | None) -> Any:
    """Load with an Auto class; return None if the checkpoint has no files for it.

    Nothing is downloaded for a local directory, whose processor may refer to an audio tokenizer elsewhere.
    """
    is_local = Path(model_name).is_dir()
    if is_local:
        check_audio_tokenizer(Path(model_name))
    try:
        return auto_class.from_pretrained(
            model_name, cache_dir=cache_dir, trust_remote_code=False, local_files_only=is_local
        )
    except (ValueError, OSError, KeyError, ImportError):
        return None
