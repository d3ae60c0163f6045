"""The value of masked scores, for the patches of speech encoders whose padded frames mask every key.

Transformers' attention for exports returns zeros where all scores are the dtype's minimum, and the model's eager
attention returns the mean of all values (Transformers 5.23).
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from onnxport.patching.patch import Patch

if TYPE_CHECKING:
    import torch


class _HalfMinimum:
    """The module torch, with a `finfo` whose minimum is half of the dtype's."""

    def __init__(self, original: ModuleType) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def finfo(self, dtype: torch.dtype) -> SimpleNamespace:
        """Return the limits of a dtype that masks are made with."""
        return SimpleNamespace(min=self._original.finfo(dtype).min / 2)


def mask_value_patch(module: str) -> Patch:
    """Return the patch of a modeling file.

    Args:
        module: name of the file's module.
    """
    return Patch(
        f"{module}:torch",
        _HalfMinimum,
        "padded frames mask every key: attention for exports returns zeros for them, and the model the mean of all",
        "none known: only frames of padding differ",
        "both return the same",
    )
