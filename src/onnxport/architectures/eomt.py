"""EoMT and EoMT on DINOv3: masked attention, which mask annealing phases out during training.

Whether a block masks its attention depends on the value of a buffer, `attn_mask_probs`, which is a tensor in a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.eomt.modeling_eomt import EomtForUniversalSegmentation


class _Probability:
    """A probability that compares as greater than zero, the only comparison that Transformers makes."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    def __gt__(self, _: object) -> bool:
        return True


class _Probabilities:
    """The mask probabilities of all blocks."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values

    def __getitem__(self, block: int) -> _Probability:
        return _Probability(self._values[block])


def _always_mask(original: Callable[..., Any]) -> Callable[..., Any]:
    """Compute the mask of every block, even if its probability is zero."""

    def attribute(self: EomtForUniversalSegmentation, name: str) -> Any:
        value = original(self, name)
        return _Probabilities(value) if name == "attn_mask_probs" else value

    return attribute


def _mask_by_probability(_: object) -> staticmethod[..., torch.Tensor]:
    """Unmask a query unless a random number is below the probability: never if it is 1, always if it is 0."""

    def disable(
        attn_mask: torch.Tensor,
        prob: _Probability,
        num_query_tokens: int,
        encoder_start_tokens: int,
        device: torch.device,
    ) -> torch.Tensor:
        import torch

        unmasked = torch.rand(attn_mask.shape[0], num_query_tokens, device=device) >= prob.value
        attn_mask[:, :num_query_tokens, encoder_start_tokens:] |= unmasked[..., None]
        return attn_mask

    return staticmethod(disable)


def _patches(target: str) -> tuple[Patch, ...]:
    return tuple(
        Patch(
            f"{target}.{method}",
            replacement,
            "whether a block masks its attention depends on the value of a buffer",
            EAGER,
            "Transformers computes the mask from the buffer with tensors",
        )
        for method, replacement in (("__getattr__", _always_mask), ("_disable_attention_mask", _mask_by_probability))
    )


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(("eomt",), patches=_patches("transformers.models.eomt.modeling_eomt:EomtForUniversalSegmentation")),
    Architecture(
        ("eomt_dinov3",),
        patches=_patches("transformers.models.eomt_dinov3.modeling_eomt_dinov3:EomtDinov3ForUniversalSegmentation"),
    ),
)
