"""Run the encoders of a tiny checkpoint eagerly on its preprocessor's output: a tiny model may itself be broken."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

_ENCODERS = {"get_image_features": "AutoImageProcessor", "get_audio_features": "AutoFeatureExtractor"}
"""Encoder methods of Transformers' models to the Auto class of the modality's preprocessor."""


def eager_failure(model: Any, directory: Path) -> str:
    """Return the error of an encoder on its preprocessor's output; empty if there is none.

    Only errors of tensor operators count, such as those for mismatched shapes. An encoder that requires other inputs
    than those of its preprocessor raises other errors, which don't show that the checkpoint is broken.

    Args:
        model: the model.
        directory: the checkpoint's directory, with the preprocessors.
    """
    import torch

    for name, loader in _ENCODERS.items():
        method = getattr(model, name, None)
        if method is None or not (directory / "preprocessor_config.json").is_file():
            continue
        inputs = _inputs(loader, directory)
        parameters = inspect.signature(method).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        try:
            with torch.no_grad():
                method(**{key: value for key, value in inputs.items() if takes_any or key in parameters})
        except RuntimeError as error:
            return f"{name}: {type(error).__name__}: {' '.join(str(error).split())}"[:300]
        except (TypeError, AttributeError, ValueError, KeyError, IndexError):
            continue
    return ""


def _inputs(loader: str, directory: Path) -> dict[str, Any]:
    """Return the preprocessor's output for two images, or for two audio clips of one second of noise."""
    import numpy
    import transformers
    from PIL import Image

    random = numpy.random.default_rng(0)
    try:
        preprocessor = getattr(transformers, loader).from_pretrained(directory)
        if loader == "AutoImageProcessor":
            pixels = random.integers(0, 255, (2, 40, 40, 3), dtype=numpy.uint8)
            return dict(preprocessor(images=[Image.fromarray(image) for image in pixels], return_tensors="pt"))
        rate = preprocessor.sampling_rate
        samples = list(random.standard_normal((2, rate)).astype(numpy.float32))
        return dict(preprocessor(samples, sampling_rate=rate, return_tensors="pt"))
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return {}
