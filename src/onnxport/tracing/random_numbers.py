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
    """Let PyTorch draw constants, except from a generator (example inputs).

    Standard normal and uniform numbers are `DRAWN`; of a multinomial distribution, the first categories that aren't
    impossible are drawn, each at most once, as the patches of models that select samples take them.
    """

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
        if named.get("generator") is not None:
            return result
        if func is torch.multinomial:
            possible = (args[0] > 0).long().argsort(dim=-1, descending=True, stable=True)
            return possible[..., : result.shape[-1]]
        return result.fill_(DRAWN) if func in _DRAWS else result
