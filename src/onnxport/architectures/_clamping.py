"""Clamp float16 hidden states, which many encoder-decoders do only if a value isn't finite."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch


class _UnknownBool:
    """A boolean tensor whose values are unknown while tracing: `all` is false and `any` is true."""

    def all(self) -> bool:
        return False

    def any(self) -> bool:
        return True


def clamps_always(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor | _UnknownBool]:
    """Report float16 values as non-finite, so that the clamp that follows is part of the graph.

    Args:
        original: `torch.isfinite` or `torch.isinf`.
    """

    def check(tensor: torch.Tensor, *arguments: Any) -> torch.Tensor | _UnknownBool:
        import torch

        return _UnknownBool() if tensor.dtype == torch.float16 else original(tensor, *arguments)

    return check


class _TorchWithIsinf:
    """The module torch, with an `isinf` that reports float16 values as non-finite."""

    def __init__(self, original: ModuleType) -> None:
        self._original = original
        self.isinf = clamps_always(original.isinf)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def isinf_patch(module: str) -> Patch:
    """Return the patch of a modeling file that branches on `torch.isinf`; T5's has no branch, and needs its values.

    Args:
        module: the modeling file's module.
    """
    return Patch(
        f"{module}:torch",
        _TorchWithIsinf,
        "layers clamp float16 hidden states only if any is infinite, which is data-dependent",
        EAGER,
        "Transformers clamps them unconditionally",
        without_values=True,
    )
