"""`transformers.onnx.utils`: sizes, and the preprocessor that a checkpoint ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxport.configs import ParameterFormat, compute_effective_axis_dimension, compute_serialized_parameters_size

__all__ = [
    "ParameterFormat",
    "compute_effective_axis_dimension",
    "compute_serialized_parameters_size",
    "get_preprocessor",
]


def get_preprocessor(model_name: str, cache_dir: str | None = None) -> Any:
    """Load whatever preprocessor a checkpoint has.

    Args:
        model_name: directory, or repository on the hub.
        cache_dir: where downloads are kept; the original didn't have it.

    Returns:
        A processor, a tokenizer, a feature extractor or an image processor; None where there is none.

    Raises:
        ValueError: there are a tokenizer and a feature extractor that no processor holds together.
    """
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, AutoTokenizer

    whole = _try(AutoProcessor, model_name, cache_dir)
    if whole is not None and not _reads_images_only(model_name):
        return whole
    tokenizer = None if _reads_images_only(model_name) else _try(AutoTokenizer, model_name, cache_dir)
    extractor = _try(AutoFeatureExtractor, model_name, cache_dir) or _try(AutoImageProcessor, model_name, cache_dir)
    if tokenizer is not None and extractor is not None:
        raise ValueError(
            f"Couldn't auto-detect preprocessor for {model_name}. Found both a tokenizer and a feature extractor."
        )
    return tokenizer if tokenizer is not None else extractor


def _reads_images_only(model_name: str) -> bool:
    """Say whether a directory has an image processor and no tokenizer: AutoProcessor may make up a tokenizer."""
    directory = Path(model_name)
    return (directory / "preprocessor_config.json").is_file() and not any(
        (directory / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json", "processor_config.json")
    )


def _try(auto_class: Any, model_name: str, cache_dir: str | None) -> Any:
    """Load with an Auto class; None where the checkpoint has nothing for it."""
    try:
        return auto_class.from_pretrained(model_name, cache_dir=cache_dir, trust_remote_code=False)
    except (ValueError, OSError, KeyError, ImportError):
        return None
