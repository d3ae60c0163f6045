"""Run nn.LSTM's recurrence as a scan: its own operator has one sequence length when it is captured."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def scan_lstm(lstm: nn.LSTM, states: torch.Tensor, suffix: str) -> torch.Tensor:
    """Run one layer in one direction, from a state of zeros.

    Args:
        lstm: the module.
        states: inputs of the layer, [sequence, batch, features].
        suffix: suffix of the names of its parameters, such as `l0` or `l0_reverse`.

    Returns:
        Hidden states, [sequence, batch, hidden_size].
    """
    import torch
    from torch._higher_order_ops.scan import scan

    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weight_ih, weight_hh, bias_ih, bias_hh = (getattr(lstm, f"{name}_{suffix}") for name in names)
    gates = torch.nn.functional.linear(states, weight_ih, bias_ih + bias_hh).contiguous()
    zeros = torch.zeros_like(gates[0, :, : lstm.hidden_size])

    def step(
        carried: tuple[torch.Tensor, torch.Tensor], inputs: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
        hidden, cell = carried
        write, forget, value, read = (inputs + torch.nn.functional.linear(hidden, weight_hh)).chunk(4, dim=-1)
        cell = forget.sigmoid() * cell + write.sigmoid() * value.tanh()
        hidden = read.sigmoid() * cell.tanh()
        return (hidden, cell), hidden.clone()

    outputs: torch.Tensor = scan(step, (zeros, zeros.clone()), gates)[1]
    return outputs
