"""Clamp float16 hidden states, which many encoder-decoders do only if a value isn't finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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
