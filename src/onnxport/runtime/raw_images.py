"""Raw images as the input of a graph that preprocesses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RANK, _CHANNELS = 4, 3


def raw_images(images: Any) -> NDArray[np.uint8]:
    """Return images as an array, uint8 [batch, height, width, channels].

    Args:
        images: an image of Pillow, an array or tensor uint8 [height, width, channels], a list of them, or a batch.

    Raises:
        OptionError: they have another type or shape, or different sizes.
    """
    several = images if isinstance(images, list | tuple) else [images]
    arrays = [np.asarray(one.convert("RGB") if hasattr(one, "convert") else one) for one in several]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        sizes = ", ".join(str(list(shape)) for shape in sorted(shapes))
        raise OptionError(f"images have different shapes ({sizes}): pass them one by one")
    batch = np.stack(arrays) if arrays[0].ndim < _RANK else np.concatenate(arrays)
    if batch.dtype != np.uint8 or batch.ndim != _RANK or batch.shape[-1] != _CHANNELS:
        raise OptionError(
            f"images are {batch.dtype} {list(batch.shape)}: pass uint8, 0 to 255, [batch, height, width, 3], or images "
            "of Pillow"
        )
    return batch
