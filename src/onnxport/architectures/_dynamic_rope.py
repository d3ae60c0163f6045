"""Compute dynamic NTK scaling (`rope_type="dynamic"`) as a function of the sequence length, for all rotary embeddings.

Transformers' `dynamic_rope_update` compares the length with the longest one before, and stores new frequencies on the
module: a branch on values, and a state. The length alone determines them, for sequences that grow token by token.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxport.patching.patch import Replacement

if TYPE_CHECKING:
    import torch

_TYPE = "dynamic"
"""Part of the names of the types that `dynamic_rope_update` rescales by the sequence length."""


def dynamic_rope(model: torch.nn.Module) -> tuple[Replacement, ...]:
    """Return replacements of the forwards of a model's rotary embeddings with dynamic NTK scaling.

    Args:
        model: the model, or a submodule.
    """
    classes = dict.fromkeys(type(module) for module in model.modules() if _is_dynamic(module))
    return tuple(Replacement(each, "forward", _without_state(each.forward)) for each in classes)


def _is_dynamic(module: torch.nn.Module) -> bool:
    types = getattr(module, "rope_type", None)
    found = types.values() if isinstance(types, dict) else (types,)
    return hasattr(module, "original_max_seq_len") and any(isinstance(one, str) and _TYPE in one for one in found)


class _Rescaled:
    """Stand in for a rotary embedding, with the frequencies for a sequence length.

    Args:
        module: the rotary embedding.
        values: attributes in place of the module's.
    """

    def __init__(self, module: torch.nn.Module, values: dict[str, Any]) -> None:
        self._module = module
        vars(self).update(values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _without_state(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return the forward below `dynamic_rope_update`, with frequencies that depend on the position ids."""
    forward = inspect.unwrap(original)

    def rescaled(
        self: Any, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        rope_type = self.rope_type if layer_type is None else self.rope_type[layer_type]
        chosen = {} if layer_type is None else {"layer_type": layer_type}
        if _TYPE not in rope_type:
            return original(self, x, position_ids, **chosen)  # type: ignore[no-any-return]
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        prefix = "" if layer_type is None else f"{layer_type}_"
        length = position_ids.max() + 1
        grown, _ = ROPE_INIT_FUNCTIONS[rope_type](self.config, x.device, seq_len=length, layer_type=layer_type)
        short = getattr(self, f"{prefix}original_inv_freq").to(x.device)
        frequencies = torch.where(length > self.original_max_seq_len, grown, short)
        with torch.no_grad():
            return forward(_Rescaled(self, {f"{prefix}inv_freq": frequencies}), x, position_ids, **chosen)  # type: ignore[no-any-return]

    return rescaled
