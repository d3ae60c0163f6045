"""Change the mask value of attention scores, for the patches of speech encoders whose padding frames mask every key.

If all scores are the dtype's minimum, Transformers' attention for exports returns zeros, whereas the model's eager
attention returns the mean of all values (Transformers 5.23).
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from onnxport.patching.patch import Patch

if TYPE_CHECKING:
    import torch


class _TorchWithHalfMinimum:
    """The module torch, with a `finfo` whose minimum is half of the dtype's."""

    def __init__(self, original: ModuleType) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def finfo(self, dtype: torch.dtype) -> SimpleNamespace:
        """Return the limits of a dtype that attention masks are created with."""
        return SimpleNamespace(min=self._original.finfo(dtype).min / 2)


def mask_value_patch(module: str) -> Patch:
    """Return the patch of a modeling module.

    Args:
        module: name of the module.
    """
    return Patch(
        f"{module}:torch",
        _TorchWithHalfMinimum,
        "padding frames mask every key: attention for exports returns zeros for them, eager attention the mean of all",
        "none known: only padding frames differ",
        "both return the same",
    )
