"""Create dummy text, images and audio of a specific size for the checkpoint's preprocessor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL import Image
    from transformers import (
        FeatureExtractionMixin,
        ImageProcessingMixin,
        PreTrainedTokenizerBase,
        ProcessorMixin,
        TensorType,
    )

    Framework: TypeAlias = str | TensorType | None
    Preprocessor: TypeAlias = PreTrainedTokenizerBase | ImageProcessingMixin | FeatureExtractionMixin | ProcessorMixin

_FALLBACK_TOKEN = "0"
_PLAIN_WORDS = (" a", " 0", " the")
_IMAGE_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_AUDIO_AMPLITUDE = 0.5


def framework_name(framework: Framework) -> str | None:
    """Return `framework` (a string, a `TensorType` or None) as a string for preprocessors.

    Raises:
        NotImplementedError: `framework` is TensorFlow, which Transformers 5 doesn't support.
    """
    name = framework.value if isinstance(framework, Enum) else framework
    if name in ("tf", "tensorflow"):
        raise NotImplementedError(
            "dummy inputs can't be TensorFlow tensors: TensorFlow is not in Transformers 5; use framework='pt'"
        )
    return None if name is None else str(name)


def tokenize_texts(
    tokenizer: PreTrainedTokenizerBase, batch: int, length: int, is_pair: bool, framework: str | None
) -> dict[str, Any]:
    """Tokenize `batch` sequences, or pairs, of `length` tokens each, plus special tokens.

    A sequence is one token repeated without separators: the unknown token or, if the tokenizer has none or merges
    repeated unknown tokens, a short word. The length is split between the two sequences of a pair.
    """
    first_length, second_length = (length - length // 2, length // 2) if is_pair else (length, 0)
    special = tokenizer.num_special_tokens_to_add(is_pair)
    result: dict[str, Any] | None = None
    for unit in _units(tokenizer):
        texts = [[unit * first_length] * batch]
        if is_pair:
            texts.append([unit * second_length] * batch)
        encoded = dict(tokenizer(*texts))
        result = encoded if result is None else result
        if all(len(ids) == max(length, 0) + special for ids in encoded.get("input_ids", ())):
            result = encoded
            break
    assert result is not None
    return {name: to_tensor(value, framework) for name, value in result.items()}


def tokenize_choices(
    tokenizer: PreTrainedTokenizerBase, batch: int, length: int, choices: int, framework: str | None
) -> dict[str, Any]:
    """Tokenize `batch` questions with `choices` answers each; every sequence has `length` tokens.

    Returns:
        Tensors of shape [batch, choices, sequence].
    """
    text = next(_units(tokenizer)) * length
    texts = [text] * batch * choices
    encoded = dict(tokenizer(texts, texts))
    return {
        name: to_tensor([values[start : start + choices] for start in range(0, len(values), choices)], framework)
        for name, values in encoded.items()
    }


def _units(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    yield str(tokenizer.unk_token) if tokenizer.unk_token else _FALLBACK_TOKEN
    yield from _PLAIN_WORDS


def images(batch: int, channels: int, height: int, width: int) -> list[Image.Image]:
    """Return `batch` random images with a fixed random seed.

    Raises:
        ValueError: `channels` isn't 1, 3 or 4.
    """
    import numpy
    from PIL import Image

    if channels not in _IMAGE_MODES:
        raise ValueError(f"can't make a dummy image with {channels} channels, only with 1, 3 or 4")
    random = numpy.random.default_rng(0)
    shape = (height, width) if channels == 1 else (height, width, channels)
    pixels = (random.integers(0, 256, shape, dtype=numpy.uint8) for _ in range(batch))
    return [Image.fromarray(array, _IMAGE_MODES[channels]) for array in pixels]


def audios(batch: int, rate: int, seconds: float, frequency: float) -> list[Any]:
    """Return `batch` copies of a sine wave of `frequency` Hz at a sampling rate of `rate` Hz, as NumPy arrays."""
    import numpy

    time = numpy.linspace(0, seconds, int(seconds * rate), endpoint=False)
    wave = _AUDIO_AMPLITUDE * numpy.sin(2 * numpy.pi * frequency * time)
    return [wave] * batch


def to_tensor(value: Any, framework: str | None) -> Any:
    """Return nested lists as a tensor of `framework`; unchanged if `framework` is None."""
    if framework is None:
        return value
    if framework == "pt":
        import torch

        return torch.as_tensor(value)
    import numpy

    return numpy.asarray(value)


def zeros(shape: Sequence[int], framework: str | None = "pt") -> Any:
    """Return float32 zeros: a NumPy array for `np`, a PyTorch tensor otherwise."""
    if framework == "np":
        import numpy

        return numpy.zeros(shape, dtype=numpy.float32)
    import torch

    return torch.zeros(*shape, dtype=torch.float32)


def extend_mask(mask: torch.Tensor | NDArray[Any], length: int) -> torch.Tensor | NDArray[Any]:
    """Return a [batch, sequence] mask with `length` ones of the same dtype appended to each sequence."""
    import numpy

    if isinstance(mask, numpy.ndarray):
        return numpy.concatenate([mask, numpy.ones((mask.shape[0], length), dtype=mask.dtype)], axis=1)
    import torch

    return torch.cat([mask, torch.ones(mask.shape[0], length, dtype=mask.dtype)], dim=1)
