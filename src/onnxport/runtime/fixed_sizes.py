"""Preprocessors that make inputs of the sizes that a graph fixes, as `--fix` does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from onnxport.description.image_processing import PIXEL_VALUES

if TYPE_CHECKING:
    from onnxport.runtime.directory import Directory

_MARKS = {"tokenizer": "pad_token", "feature_extractor": "padding_value", "image_processor": "do_resize"}
"""Attribute of a processor to an attribute that a preprocessor of this kind has."""


def at_fixed_sizes(preprocessor: Any, directory: Directory) -> Any:
    """Make a preprocessor, or the parts of a processor, return inputs of the sizes that the graphs fix.

    Texts and audio are padded; longer ones aren't cut, unless the caller asks for it. Images are resized, or cropped if
    the image processor crops.

    Args:
        preprocessor: a tokenizer, feature extractor, image processor or processor of the directory, which is changed.
        directory: the exported directory.

    Returns:
        The preprocessor.
    """
    sizes: dict[str, Callable[[Any], None]] = {}
    for kind, name in (("tokenizer", "input_ids"), ("feature_extractor", "input_values")):
        if (length := directory.fixed_length(name)) is not None:
            sizes[kind] = partial(_pad_to, length=length)
    if (size := _image_size(directory)) is not None:
        sizes["image_processor"] = partial(_resize_to, size=size)
    for kind, change in sizes.items():
        part = preprocessor if hasattr(preprocessor, _MARKS[kind]) else getattr(preprocessor, kind, None)
        if part is not None:
            change(part)
    return preprocessor


class _Padding:
    """Pad inputs to one length; the class of a preprocessor follows in the order of methods."""

    padded_length: int

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Return what the preprocessor makes of the inputs, padded."""
        options |= {"padding": "max_length", "max_length": self.padded_length}
        return super().__call__(*arguments, **options)  # type: ignore[misc]  # of the preprocessor's class


def _pad_to(preprocessor: Any, length: int) -> None:
    original = type(preprocessor)
    preprocessor.__class__ = type(original.__name__, (_Padding, original), {"padded_length": length})
    if hasattr(preprocessor, "pad_token"):
        preprocessor.model_max_length = length
        preprocessor.pad_token = preprocessor.pad_token or preprocessor.eos_token


def _image_size(directory: Directory) -> dict[str, int] | None:
    """Return the height and width that `--fix` gave images; None if it gave none."""
    shape = directory.axes_of(PIXEL_VALUES)[-2:] if directory.manifest.options.get("fix") else ()
    sizes = {name: axis for name, axis in zip(("height", "width"), shape, strict=False) if isinstance(axis, int)}
    return sizes if len(sizes) == len(shape) > 0 else None


def _resize_to(processor: Any, size: dict[str, int]) -> None:
    if getattr(processor, "do_center_crop", None):
        processor.crop_size = size
        if min(dict(processor.size).values(), default=0) >= max(size.values()):
            return
    processor.size = size
