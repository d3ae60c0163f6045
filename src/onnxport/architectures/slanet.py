"""SLANet and SLANeXt: the structure of a table, token by token, until each sequence of the batch has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.modeling_outputs import BaseModelOutput
    from transformers.models.slanet.modeling_slanet import SLANetSLAHead


def _scan_all_steps(_: object) -> Callable[..., BaseModelOutput]:
    """Compute all steps in one loop, and drop those after the one in which the last sequence ends."""

    def forward(self: SLANetSLAHead, hidden_states: torch.Tensor, *_: Any, **__: Any) -> BaseModelOutput:
        import torch
        from torch._higher_order_ops.scan import scan
        from torch.nn import functional
        from transformers.modeling_outputs import BaseModelOutput

        tokens, steps, batch = self.config.out_channels, self.config.max_text_length + 1, hidden_states.shape[0]

        def step(carry: tuple[torch.Tensor, ...], states: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], Any]:
            features, token, ended = carry
            features, _ = self.structure_attention_cell(features, states, functional.one_hot(token, tokens).float())
            logits = self.structure_generator(features)
            token = logits.argmax(dim=1)
            ended = torch.maximum(ended, (token == tokens - 1).long())
            return (features, token, ended), (logits, ended.min())

        states = hidden_states.float()
        first = torch.zeros(batch, self.config.hidden_size, device=states.device)
        none = torch.zeros(batch, dtype=torch.long, device=states.device)
        _, (logits, all_ended) = scan(step, (first, none, none.clone()), states.expand(steps, -1, -1, -1).contiguous())
        count = (1 - all_ended[:-1]).sum().item()
        torch._check(count >= 0)  # type: ignore[no-untyped-call]
        torch._check(count < steps)  # type: ignore[no-untyped-call]
        logits = logits.transpose(0, 1)[:, : count + 1]
        return BaseModelOutput(last_hidden_state=logits.softmax(-1).to(hidden_states.dtype))

    return forward


def _patch(module: str, prefix: str) -> Patch:
    return Patch(
        f"{module}:{prefix}SLAHead.forward",
        _scan_all_steps,
        "the loop ends where all sequences have ended, which depends on values",
        EAGER,
        "Transformers has a loop that torch.export captures",
    )


_MODELS = "transformers.models"

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(("slanet",), patches=(_patch(f"{_MODELS}.slanet.modeling_slanet", "SLANet"),)),
    Architecture(("slanext",), patches=(_patch(f"{_MODELS}.slanext.modeling_slanext", "SLANeXt"),)),
)
