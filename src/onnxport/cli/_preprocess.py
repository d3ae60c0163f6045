"""Make a graph's inputs from text, images and audio with the directory's tokenizer or processor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport._foreign_errors import translating
from onnxport.cli._request import RunRequest
from onnxport.description.image_processing import IMAGES
from onnxport.errors import MissingDependencyError, OptionError
from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching
from onnxport.runtime.directory import Directory
from onnxport.runtime.generators import has_transformers
from onnxport.runtime.raw_images import raw_images

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

Arrays = dict[str, "NDArray[Any]"]


def load(directory: Directory, auto_class: str) -> Any:
    """Load a tokenizer, image processor or feature extractor of an exported directory.

    Args:
        directory: the exported directory.
        auto_class: name of the Auto class that loads it.

    Raises:
        MissingDependencyError: torch or Transformers isn't installed.
        CheckpointNotFoundError: the directory has none.
    """
    if not has_transformers():
        raise MissingDependencyError(
            f"{auto_class} needs torch and transformers: pip install 'onnxport[export]'; without them, onnxport run "
            "supports --text and --input-ids"
        )
    from onnxport.runtime.prompts import load_required

    return load_required(auto_class, directory)


def token_inputs(tokenizer: PreTrainedTokenizerBase, request: RunRequest) -> Arrays:
    """Tokenize the request's texts, [batch, length].

    Raises:
        OptionError: there is no text, or the tokenizer can't encode it.
    """
    if not request.texts:
        raise OptionError("pass at least one --text (or token ids with --input-ids)")
    padding = len(request.texts) > 1
    unpadded = padding and tokenizer.pad_token is None
    texts = list(request.texts)
    first, second = texts, list(request.text_pairs) or None
    if request.question:
        first, second = [request.question] * len(texts), texts
    replacements = (Replacement(tokenizer, "pad_token", tokenizer.eos_token),) if unpadded else ()
    with translating(_failed), patching(*replacements):
        return dict(tokenizer(first, second, padding=padding, truncation=True, return_tensors="np"))


def _failed(error: Exception) -> OptionError:
    return OptionError(f"the tokenizer can't encode the text ({type(error).__name__}: {error}); pass another one")


def image_inputs(directory: Directory, request: RunRequest) -> Arrays:
    """Preprocess the request's images, one batch; a graph that preprocesses them takes them as they are."""
    if IMAGES in directory.input_names:
        return {IMAGES: raw_images(list(request.load_images()))}
    processor = load(directory, "AutoImageProcessor")
    return _arrays(processor(images=list(request.load_images()), return_tensors="pt"))


def audio_inputs(directory: Directory, request: RunRequest) -> Arrays:
    """Preprocess the request's audio clips, one batch."""
    extractor = load(directory, "AutoFeatureExtractor")
    clips = list(request.load_audio(extractor.sampling_rate))
    options: dict[str, Any] = {"padding": True} if len(clips) > 1 else {}
    return _arrays(extractor(clips, sampling_rate=extractor.sampling_rate, return_tensors="np", **options))


def _arrays(features: Mapping[str, Any]) -> Arrays:
    """Return tensors and arrays as arrays; image processors of Transformers 5 return tensors only."""
    return {name: np.asarray(value) for name, value in features.items() if hasattr(value, "__array__")}
