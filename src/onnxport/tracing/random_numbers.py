"""Replace the random numbers that a model draws by a constant, to compare it with its graph.

PyTorch and ONNX Runtime draw different numbers. What is computed of a number that is neither 0 nor 1 shows whether the
graph scales and adds it as the model does; its distribution isn't compared. `runtime.exact` does the same to the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from onnxport.description.tolerances import DRAWN

_DRAWS = frozenset({torch.randn, torch.randn_like, torch.rand, torch.rand_like})


class ConstantDraws(TorchFunctionMode):
    """Let PyTorch's standard normal and uniform numbers be `DRAWN`, except those of a generator (example inputs)."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch, and fill what it draws."""
        named = dict(kwargs or {})
        result = func(*args, **named)
        return result.fill_(DRAWN) if func in _DRAWS and named.get("generator") is None else result
