"""Clamping of float16 hidden states, which many encoder-decoders do only where a value isn't finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class _Unknown:
    """A boolean tensor with values that are unknown while tracing: not all are true, any may be."""

    def all(self) -> bool:
        return False

    def any(self) -> bool:
        return True


def clamps_always(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor | _Unknown]:
    """Report float16 values as infinite, so that the clamp that follows is part of the graph.

    Args:
        original: `torch.isfinite` or `torch.isinf`.
    """

    def check(tensor: torch.Tensor, *arguments: Any) -> torch.Tensor | _Unknown:
        import torch

        return _Unknown() if tensor.dtype == torch.float16 else original(tensor, *arguments)

    return check
