"""Build a model whose parameters have shapes and no values: nothing is allocated, nothing is initialised.

Non-persistent buffers (rotary tables, position numbers, masks) are computed by the constructors as ever and stay real;
persistent ones come from the checkpoint, so they are fake like the parameters.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def build_fake(model_class: Any, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Construct a model with fake parameters, in evaluation mode.

    Args:
        model_class: a model class of Transformers.
        config: its configuration.
        dtype: floating-point dtype of the parameters.
    """
    from transformers.initialization import no_init_weights

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with patching(_fake_parameters(mode)), no_init_weights(), _LargeAreFake(mode):
        model: PreTrainedModel = model_class._from_config(config, dtype=dtype)
    model.tie_weights()
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                module._buffers[name] = fake_like(buffer, mode)
    return model.eval()


def like_full(model: PreTrainedModel, full: PreTrainedModel) -> PreTrainedModel:
    """Make a fake model agree with the one that a checkpoint was bound to, in place.

    The checkpoint decides which poolers there are, which parameters share a tensor, and, where some stay in fp32, their
    dtypes.

    Args:
        model: made by `build_fake`, perhaps with fewer layers.
        full: the bound model.
    """
    for name, module in full.named_modules():
        for child, value in module._modules.items():
            if value is None:
                with contextlib.suppress(AttributeError):
                    model.get_submodule(name)._modules[child] = None
    bound = dict(full.named_parameters(remove_duplicate=False))
    shared: dict[int, torch.nn.Parameter] = {}
    taken: set[int] = set()
    for name, module in model.named_modules():
        for key, own in module._parameters.items():
            wanted = bound.get(f"{name}.{key}" if name else key)
            if own is None or wanted is None:
                continue
            if id(wanted) not in shared:
                is_own = own.dtype == wanted.dtype and id(own) not in taken
                shared[id(wanted)] = own if is_own else _separate(own, wanted.dtype)
                taken.add(id(shared[id(wanted)]))
            module._parameters[key] = shared[id(wanted)]
    return model


def _separate(own: torch.nn.Parameter, dtype: torch.dtype) -> torch.nn.Parameter:
    """Return a fake parameter of its own, like another but for the dtype."""
    mode = own.data.fake_mode  # type: ignore[attr-defined]
    meta = torch.empty_strided(own.shape, own.stride(), dtype=dtype, device="meta")
    return torch.nn.Parameter(FakeTensor(mode, meta, torch.device("cpu")), requires_grad=False)


def fake_like(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    """Return a tensor of the same shape, dtype and strides that has no values; a fake one is returned as it is."""
    if isinstance(tensor, FakeTensor):
        return tensor
    meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return FakeTensor(mode, meta, torch.device("cpu"))


def is_fake(tensor: Any) -> bool:
    """Say whether a tensor, or the parameter around it, has no values."""
    return isinstance(tensor, FakeTensor) or isinstance(getattr(tensor, "data", None), FakeTensor)


class _LargeAreFake(TorchFunctionMode):
    """Make tensors fake from the start where their memory alone would take long, or isn't there."""

    LARGE = 2**24
    """Elements; a table that a constructor computes has fewer."""

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self._fake = fake

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.empty, torch.zeros, torch.ones, torch.randn, torch.rand) and _elements(args) >= self.LARGE:
            with self._fake:
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def _elements(sizes: Any) -> int:
    flat = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (list, tuple)) else sizes
    return math.prod(size for size in flat if isinstance(size, int))


def _fake_parameters(mode: FakeTensorMode) -> Replacement:
    """Make every parameter that a module registers a fake one; its memory is given back before the next is made."""
    original = torch.nn.Module.register_parameter

    def register_parameter(self: torch.nn.Module, name: str, param: torch.nn.Parameter | None) -> None:
        original(self, name, param)
        if param is not None and not is_fake(param):
            self._parameters[name] = torch.nn.Parameter(fake_like(param.data, mode), requires_grad=False)

    return Replacement(torch.nn.Module, "register_parameter", register_parameter)
