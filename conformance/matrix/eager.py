"""Run the encoders of a tiny checkpoint eagerly on what its preprocessor makes: a tiny model may be broken itself."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

_ENCODERS = {"get_image_features": "AutoImageProcessor", "get_audio_features": "AutoFeatureExtractor"}
"""Methods by which Transformers' models encode a modality, to the class that loads the modality's preprocessor."""


def eager_failure(model: Any, directory: Path) -> str:
    """Return how PyTorch refuses a modality, empty where it takes each that its preprocessor makes.

    Only what tensor operators raise counts, as for shapes that don't fit: an encoder that wants more than its
    preprocessor makes raises other errors, and says nothing about the checkpoint.

    Args:
        model: the model.
        directory: its checkpoint, with the preprocessors.
    """
    import torch

    for name, loader in _ENCODERS.items():
        method = getattr(model, name, None)
        if method is None or not (directory / "preprocessor_config.json").is_file():
            continue
        inputs = _inputs(loader, directory)
        known = inspect.signature(method).parameters
        any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
        try:
            with torch.no_grad():
                method(**{key: value for key, value in inputs.items() if any_name or key in known})
        except RuntimeError as error:
            return f"{name}: {type(error).__name__}: {' '.join(str(error).split())}"[:300]
        except (TypeError, AttributeError, ValueError, KeyError, IndexError):
            continue
    return ""


def _inputs(loader: str, directory: Path) -> dict[str, Any]:
    """Return what the preprocessor makes of two images or two seconds of noise."""
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
