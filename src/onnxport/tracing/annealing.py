"""Masks of attention that training fades out: whether there is one is the value of a buffer, which a graph reads."""

from __future__ import annotations

from typing import Any

from onnxport.patching.patch import Patch


class _Probability:
    """Be a probability that may always be above zero."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __gt__(self, _: Any) -> bool:
        return True


class _Probabilities:
    """Hold a block's probabilities."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __getitem__(self, block: int) -> _Probability:
        return _Probability(self._values[block])


def _with_every_mask(original: Any) -> Any:
    """Let a model compute the mask of every block, also of those that don't use it any more."""

    def attribute(self: Any, name: str) -> Any:
        value = original(self, name)
        return _Probabilities(value) if name == "attn_mask_probs" else value

    return attribute


def _masked_by_chance(_: Any) -> Any:
    """Let a query look everywhere unless chance masks it: always with the probability 1, never with 0."""

    def disable(attn_mask: Any, prob: Any, num_query_tokens: int, encoder_start_tokens: int, device: Any) -> Any:
        import torch

        free = torch.rand(attn_mask.shape[0], num_query_tokens, device=device) >= prob.value
        attn_mask[:, :num_query_tokens, encoder_start_tokens:] |= free[..., None]
        return attn_mask

    return staticmethod(disable)


ANNEALING: tuple[Patch, ...] = tuple(
    Patch(
        f"transformers.models.{name}.modeling_{name}:{kind}.{method}",
        replacement,
        "whether a block masks its attention depends on the value of a buffer",
        "Transformers reads the buffer as part of the mask",
    )
    for name, kind in (("eomt", "EomtForUniversalSegmentation"), ("eomt_dinov3", "EomtDinov3ForUniversalSegmentation"))
    for method, replacement in (("__getattr__", _with_every_mask), ("_disable_attention_mask", _masked_by_chance))
)
"""For models that may not be imported."""
