"""An `int` and a `min` that keep symbolic sizes, for the patches of models that call them on sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def symbolic_int(original: Callable[..., int]) -> Callable[..., int | torch.SymInt]:
    """Return an `int` that keeps symbolic sizes symbolic.

    Args:
        original: `int`, or Transformers' `torch_int`.
    """

    def to_int(value: Any) -> int | torch.SymInt:
        import torch

        if isinstance(value, torch.SymInt | torch.SymFloat):
            return torch.sym_int(value)  # type: ignore[no-any-return, no-untyped-call]
        return original(value)

    return to_int


def symbolic_min(_: object) -> Callable[[int | torch.SymInt, int | torch.SymInt], Any]:
    """Return a minimum of two sizes that doesn't decide which is smaller."""
    import torch

    return torch.sym_min
