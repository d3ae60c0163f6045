"""Construct a model whose parameters are fake tensors, without allocating or initializing them.

Non-persistent buffers (rotary tables, position ids, masks) are computed by the constructors and stay real. Persistent
buffers come from the checkpoint and are fake, like the parameters.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def build_fake(model_class: type[PreTrainedModel], config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Construct a model with fake parameters, in evaluation mode.

    Args:
        model_class: a Transformers model class.
        config: its configuration.
        dtype: floating-point dtype of the parameters.
    """
    from transformers.initialization import no_init_weights

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with patching(_fake_parameters(mode), _converted_parameters()), no_init_weights(), _LargeAreFake(mode):
        model: PreTrainedModel = model_class._from_config(config, dtype=dtype)
    model.tie_weights()
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                module._buffers[name] = fake_like(buffer, mode)
    return model.eval()


def like_full(model: PreTrainedModel, full: PreTrainedModel) -> PreTrainedModel:
    """Match a fake model to the model that was bound to a checkpoint, in place.

    The checkpoint determines which poolers exist, which parameters are tied, and the dtypes of parameters and buffers;
    some may stay in fp32.

    Args:
        model: result of `build_fake`, possibly with fewer layers.
        full: the bound model.
    """
    for name, module in full.named_modules():
        for child, value in module._modules.items():
            if value is None:
                with contextlib.suppress(AttributeError):
                    model.get_submodule(name)._modules[child] = None
    bound = dict(full.named_parameters(remove_duplicate=False))
    buffers = dict(full.named_buffers(remove_duplicate=False))
    shared: dict[int, torch.nn.Parameter] = {}
    used: set[int] = set()
    for name, module in model.named_modules():
        for key, fake in module._parameters.items():
            target = bound.get(f"{name}.{key}" if name else key)
            if fake is None or target is None:
                continue
            if id(target) not in shared:
                is_reusable = fake.dtype == target.dtype and id(fake) not in used
                shared[id(target)] = fake if is_reusable else _separate(fake, target.dtype)
                used.add(id(shared[id(target)]))
            module._parameters[key] = shared[id(target)]
        for key, buffer in module._buffers.items():
            kept = buffers.get(f"{name}.{key}" if name else key)
            if kept is not None and is_fake(buffer):
                module._buffers[key] = buffer.to(kept.dtype)
    return model


def _separate(parameter: torch.nn.Parameter, dtype: torch.dtype) -> torch.nn.Parameter:
    """Return a new fake parameter of the same shape and strides."""
    mode = parameter.data.fake_mode  # type: ignore[attr-defined]
    meta = torch.empty_strided(parameter.shape, parameter.stride(), dtype=dtype, device="meta")
    return torch.nn.Parameter(FakeTensor(mode, meta, torch.device("cpu")), requires_grad=False)


def fake_like(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    """Return a fake tensor of the same shape, dtype and strides; a fake tensor is returned unchanged."""
    if isinstance(tensor, FakeTensor):
        return tensor
    meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return FakeTensor(mode, meta, torch.device("cpu"))


def is_fake(tensor: object) -> bool:
    """Return whether a tensor, or the data of a parameter, is fake."""
    return isinstance(tensor, FakeTensor) or isinstance(getattr(tensor, "data", None), FakeTensor)


class _LargeAreFake(TorchFunctionMode):
    """Create large tensors, whose allocation would be slow or fail, as fake tensors."""

    LARGE = 2**24
    """Smallest element count of a tensor that is made fake; tables that constructors compute are smaller."""

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self._fake = fake

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func in (torch.empty, torch.zeros, torch.ones, torch.randn, torch.rand) and _elements(args) >= self.LARGE:
            with self._fake:
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def _elements(sizes: Sequence[object]) -> int:
    flat = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (list, tuple)) else sizes
    return math.prod(size for size in flat if isinstance(size, int))


def _fake_parameters(mode: FakeTensorMode) -> Replacement:
    """Return a replacement that makes each parameter fake when it is registered: at most one is allocated at a time.

    Constructing the entire model under `FakeTensorMode` or on the meta device would lose the values of its
    non-persistent buffers.
    """
    original = torch.nn.Module.register_parameter

    def register_parameter(self: torch.nn.Module, name: str, param: torch.nn.Parameter | None) -> None:
        original(self, name, param)
        if param is not None and not is_fake(param):
            self._parameters[name] = torch.nn.Parameter(fake_like(param.data, mode), requires_grad=False)

    return Replacement(torch.nn.Module, "register_parameter", register_parameter)


def _converted_parameters() -> Replacement:
    """Return a replacement that lets constructors convert their modules to a dtype (Inkling 2, Hunyuan v4).

    torch 2.13 exchanges a fake parameter with the converted one in place, which fails since both are weakly referenced.
    """

    def apply(self: torch.nn.Module, convert: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> object:
        for module in self.modules() if recurse else (self,):
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = torch.nn.Parameter(convert(parameter), requires_grad=False)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = convert(buffer)
        return self

    return Replacement(torch.nn.Module, "_apply", apply)
