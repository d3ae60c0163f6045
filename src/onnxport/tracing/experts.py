"""Mixtures of experts whose loop over the experts that were chosen depends on values, in a form that has no such loop.

Where experts are rows of one parameter, tokens are sorted by their expert and multiplied in groups, as in Transformers'
other mixtures; where they are modules, each runs on every token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxport.patching.patch import Patch

if TYPE_CHECKING:
    import torch

_LOOP = "a loop over the experts that were chosen depends on values"


def by_expert(
    tokens: torch.Tensor,
    chosen: torch.Tensor,
    shares: torch.Tensor,
    experts: int,
    compute: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Sum what the chosen experts make of each token.

    Args:
        tokens: [tokens, size].
        chosen: numbers of experts, [tokens, choices].
        shares: what each choice counts, like `chosen`.
        experts: how many there are.
        compute: makes [rows, size] of rows sorted by expert, and of the end of each expert's rows.

    Returns:
        Like `tokens`.
    """
    import torch

    count, choices = chosen.shape
    numbers, order = chosen.reshape(-1).sort()
    ends = (numbers[None] <= torch.arange(experts, device=numbers.device)[:, None]).sum(-1).to(torch.int32)
    said = compute(tokens[order // choices], ends) * shares.reshape(-1)[order][:, None]
    places = order.argsort()
    return said[places].reshape(count, choices, -1).sum(1).to(tokens.dtype)


def product(rows: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Multiply each expert's rows by its matrix.

    Args:
        rows: sorted by expert, [rows, in].
        weight: [experts, in, out].
        ends: the end of each expert's rows, [experts].
    """
    from transformers.integrations import moe

    result: torch.Tensor = moe._grouped_mm(rows, weight, ends)
    return result


def _grouped(original: Any) -> Any:
    def get_interface(self: Any, experts_implementation: str, default: Any) -> Any:
        return original(self, "grouped_mm" if experts_implementation == "eager" else experts_implementation, default)

    return get_interface


def _dbrx(_: Any) -> Any:
    def forward(self: Any, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> Any:
        def compute(rows: Any, ends: Any) -> Any:
            w1, v1, w2 = (
                weight.view(self.num_experts, self.ffn_hidden_size, self.hidden_size)
                for weight in (self.mlp.w1, self.mlp.v1, self.mlp.w2)
            )
            gate = self.mlp.activation_fn(product(rows, w1.transpose(1, 2), ends))
            return product(gate * product(rows, v1.transpose(1, 2), ends), w2, ends)

        tokens = hidden_states.reshape(-1, self.hidden_size)
        return by_expert(tokens, top_k_index, top_k_weights, self.num_experts, compute).view(hidden_states.shape)

    return forward


def _longcat_flash(_: Any) -> Any:
    """Compute experts that have weights; the others return what they are given."""

    def forward(self: Any, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> Any:
        routed = self.num_routed_experts
        computed = top_k_index < routed

        def compute(rows: Any, ends: Any) -> Any:
            inner = product(rows, self.gate_up_proj.transpose(1, 2), ends)
            gate, up = inner.chunk(2, dim=-1)
            return product(self.act_fn(gate) * up, self.down_proj.transpose(1, 2), ends[:routed])

        kept = hidden_states * (top_k_weights * ~computed).sum(-1, keepdim=True)
        if self.gate_up_proj is None:
            return kept.to(hidden_states.dtype)
        chosen, shares = top_k_index.clamp(max=routed - 1), top_k_weights * computed
        return (by_expert(hidden_states, chosen, shares, self.total_experts, compute) + kept).to(hidden_states.dtype)

    return forward


def _step3p7(_: Any) -> Any:
    def forward(self: Any, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> Any:
        def compute(rows: Any, ends: Any) -> Any:
            inner = self._apply_gate(product(rows, self.gate_up_proj.transpose(1, 2), ends))
            return product(inner, self.down_proj.transpose(1, 2), ends)

        return by_expert(hidden_states, top_k_index, top_k_weights, self.num_experts, compute)

    return forward


def _switch_transformers(_: Any) -> Any:
    """Run every expert on every token; a token that finds no room at its expert gets nothing."""

    def forward(self: Any, hidden_states: Any, selected_experts: Any, routing_weights: Any) -> Any:
        total = hidden_states * 0
        for number in range(self.num_experts):
            share = selected_experts[:, 0, number, None] * routing_weights
            total = total + (self[f"expert_{number}"](hidden_states) * share).to(hidden_states.dtype)
        return total

    return forward


def _nllb_moe(_: Any) -> Any:
    """Run every expert on every token, and weigh what each says by the choices that name it."""

    def forward(self: Any, hidden_states: Any, router_mask: Any, router_probs: Any) -> Any:
        total = hidden_states * 0
        for number in range(self.num_experts):
            share = (router_probs * (router_mask == number)).sum(dim=-1, keepdim=True)
            said = self[f"expert_{number}"](hidden_states)
            total = total + (said * (share * (1 - self.moe_token_dropout))).to(hidden_states.dtype)
        return total

    return forward


def _cast_while_used(_: Any) -> Any:
    """Compute a router's logits in its dtype, without changing its weights for good."""

    def forward(self: Any, hidden_states: Any, padding_mask: Any = None) -> Any:
        from torch.nn import functional

        self.input_dtype, router = hidden_states.dtype, self.classifier
        bias = None if router.bias is None else router.bias.to(self.dtype)
        logits = functional.linear(hidden_states.to(self.dtype), router.weight.to(self.dtype), bias)
        return (*self.route_tokens(logits, self.input_dtype, padding_mask), logits)

    return forward


def _cast_switch(_: Any) -> Any:
    """Route each token to its best expert while there is room, without changing the router's weights for good."""

    def forward(self: Any, hidden_states: Any) -> Any:
        import torch
        from torch.nn import functional

        self.input_dtype, router = hidden_states.dtype, self.classifier
        bias = None if router.bias is None else router.bias.to(self.dtype)
        logits = functional.linear(hidden_states.to(self.dtype), router.weight.to(self.dtype), bias)
        shares = logits.softmax(-1).to(self.input_dtype)
        best, number = shares.max(dim=-1, keepdim=True)
        chosen = (number == torch.arange(self.num_experts, device=number.device)).to(torch.int64)
        return chosen * (chosen.cumsum(-2) <= self.expert_capacity), best, logits

    return forward


EXPERTS: tuple[Patch, ...] = (
    Patch(
        "transformers.integrations.moe:ExpertsInterface.get_interface",
        _grouped,
        f"{_LOOP}, in a model that asks for it by default (OpenAI's privacy filter)",
        "no model asks for it",
    ),
    *(
        Patch(
            f"transformers.models.{name}.modeling_{name}:{kind}.forward",
            replacement,
            _LOOP,
            "Transformers gives this model the form that its other mixtures of experts have",
        )
        for name, kind, replacement in (
            ("dbrx", "DbrxExperts", _dbrx),
            ("longcat_flash", "LongcatFlashExperts", _longcat_flash),
            ("step3p7", "Step3p7Experts", _step3p7),
            ("switch_transformers", "SwitchTransformersExperts", _switch_transformers),
            ("nllb_moe", "NllbMoeExperts", _nllb_moe),
        )
    ),
    *(
        Patch(
            f"transformers.models.{name}.modeling_{name}:{kind}.forward",
            replacement,
            "a module can't change the dtype of parameters that have no values",
            "Transformers casts the router's weights where it uses them",
        )
        for name, kind, replacement in (
            ("nllb_moe", "NllbMoeTop2Router", _cast_while_used),
            ("switch_transformers", "SwitchTransformersTop1Router", _cast_switch),
        )
    ),
)
