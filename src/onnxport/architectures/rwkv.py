"""RWKV: its description, and its recurrence for sequences of any length.

Transformers keeps five tensors of [batch, hidden, layers], which every layer writes to in place. In the graph each
layer has separate states: `conv`, the last inputs of its two token shifts (feed-forward, attention), and `recurrent`,
the weighted sum of values, the sum of weights, and the exponent of both. All are zeros before the first token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, always
from onnxport.description.arguments import PAST
from onnxport.description.cache_layout import CacheLayout, CacheTensor
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.models.rwkv.modeling_rwkv import RwkvBlock, RwkvFeedForward, RwkvSelfAttention

    States = tuple[torch.Tensor, torch.Tensor]
    """`conv` and `recurrent` of one layer."""

_SHIFTS, _SUMS = 2, 3
_LOWEST = -1e38
"""Exponent of empty sums, as in Transformers."""
_NO_STATES: tuple[Any, Any] = (None, None)


class RwkvOnnxConfig(DerivedOnnxConfig):
    """Describe RWKV, with its states or without."""

    cache_names = ("state",)

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Make inputs; see `DerivedOnnxConfig`. Sums of weights are above zero, as after any token."""
        import torch

        inputs = dict(super().generate_dummy_inputs(*arguments, **named))
        for _, sums in inputs.get(PAST, ()):
            sums.copy_(torch.linspace(0.5, 2.0, sums.numel()).reshape(sums.shape))
        return inputs

    def describe_cache(self, model: PreTrainedModel, cache: object) -> CacheLayout:
        """Describe the states of every layer."""
        size, depth = model.config.hidden_size, model.config.num_hidden_layers
        layers = (
            (
                CacheTensor(index, "conv_states", "conv", (_SHIFTS, size)),
                CacheTensor(index, "recurrent_states", "recurrent", (_SUMS, size)),
            )
            for index in range(depth)
        )
        return CacheLayout(tuple(layers), depth)

    def past_to_cache(self, past: Sequence[States], arguments: Mapping[str, Any]) -> Sequence[States]:
        """Return the states unchanged; `run` converts them to Transformers' tensors."""
        return past

    def cache_to_past(self, cache: Sequence[States]) -> Sequence[States]:
        """Return the states unchanged; `run` converted them from Transformers' tensors."""
        return cache

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the model; see `OnnxConfig`.

        Transformers mixes the sequences of a batch with each other where each has one token, so that such sequences are
        run one after another.
        """
        import torch

        if PAST not in arguments:
            return super().run(forward, arguments)
        if torch.compiler.is_exporting():
            return super().run(forward, {**arguments, PAST: list(arguments[PAST])})
        batch, tokens = arguments["input_ids"].shape
        if tokens > 1 or batch == 1:
            return self._run_original(forward, arguments)
        outputs = []
        for row in range(batch):
            past = [tuple(tensor[row : row + 1] for tensor in layer) for layer in arguments[PAST]]
            inputs = {name: value[row : row + 1] for name, value in arguments.items() if name != PAST}
            outputs.append(self._run_original(forward, {**inputs, PAST: past}))
        layers = zip(*(output[PAST] for output in outputs), strict=True)
        joined = [tuple(torch.cat(parts) for parts in zip(*layer, strict=True)) for layer in layers]
        return {"logits": torch.cat([output["logits"] for output in outputs]), PAST: joined}

    def _run_original(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        outputs = super().run(forward, {**arguments, PAST: _stacked(arguments[PAST])})
        dtype = arguments[PAST][0][1].dtype
        return {**outputs, PAST: [(conv, sums.to(dtype)) for conv, sums in _by_layer(outputs[PAST])]}


def _stacked(past: Sequence[States]) -> list[torch.Tensor]:
    """Return Transformers' five tensors, [batch, hidden, layers], from the states of every layer."""
    import torch

    shifts = torch.stack([conv for conv, _ in past], dim=-1)
    sums = torch.stack([_with_lowest_exponent(recurrent) for _, recurrent in past], dim=-1)
    return [tensor.clone() for tensor in (*shifts.unbind(1), *sums.float().unbind(1))]


def _by_layer(state: Sequence[torch.Tensor]) -> list[States]:
    """Return the states of every layer, [batch, 2, hidden] and [batch, 3, hidden], from Transformers' five tensors."""
    import torch

    shifts, sums = torch.stack(list(state[:_SHIFTS]), dim=1), torch.stack(list(state[_SHIFTS:]), dim=1)
    return list(zip(shifts.unbind(-1), sums.unbind(-1), strict=True))


def _with_lowest_exponent(recurrent: torch.Tensor) -> torch.Tensor:
    """Return sums, [batch, 3, hidden], with the lowest exponent where they are empty (a sum of weights of zero)."""
    import torch

    values, weights, exponent = recurrent.float().unbind(1)
    return torch.stack([values, weights, exponent.masked_fill(weights == 0, _LOWEST)], dim=1)


def _block(
    self: RwkvBlock,
    hidden: torch.Tensor,
    state: list[States] | None = None,
    use_cache: bool = False,
    output_attentions: bool = False,
) -> tuple[torch.Tensor, list[States] | None, None]:
    """Compute `RwkvBlock.forward`; the first layer is recognized by its `pre_ln` instead of its layer index."""
    hidden = self.pre_ln(hidden) if hasattr(self, "pre_ln") else hidden
    scale = _scale(self)
    attention, state = self.attention(self.ln1(hidden), state=state)
    hidden = hidden + attention / scale
    update, state = self.feed_forward(self.ln2(hidden), state=state)
    return hidden + update / scale, state, None


def _scale(block: RwkvBlock) -> int:
    """Return the divisor of the outputs that are added to the residual stream.

    Transformers divides the weights of those projections in place when a model first runs (`rescale_every`).
    """
    every = block.config.rescale_every
    return int(2 ** (block.layer_id // every)) if every > 0 else 1


def _shifted(hidden: torch.Tensor, last: torch.Tensor | None) -> torch.Tensor:
    """Shift hidden states by one token, [batch, tokens, hidden]: `last` or zeros come first."""
    import torch

    first = torch.zeros_like(hidden[:, :1]) if last is None else last[:, None]
    return torch.cat([first, hidden[:, :-1]], dim=1)


def _mixed(hidden: torch.Tensor, shifted: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    return hidden * ratio + shifted * (1 - ratio)


def _feed_forward(
    self: RwkvFeedForward, hidden: torch.Tensor, state: list[States] | None = None
) -> tuple[torch.Tensor, list[States] | None]:
    """Compute `RwkvFeedForward.forward`, and update the layer's shift state."""
    import torch

    shifts, sums = _NO_STATES if state is None else state[self.layer_id]
    shifted = _shifted(hidden, None if shifts is None else shifts[:, 0])
    key = torch.square(torch.relu(self.key(_mixed(hidden, shifted, self.time_mix_key))))
    receptance = torch.sigmoid(self.receptance(_mixed(hidden, shifted, self.time_mix_receptance)))
    if state is not None:
        state[self.layer_id] = (torch.stack([hidden[:, -1], shifts[:, 1]], dim=1), sums)
    return receptance * self.value(key), state


def _attend(
    self: RwkvSelfAttention, hidden: torch.Tensor, state: list[States] | None = None, use_cache: bool = False
) -> tuple[torch.Tensor, list[States] | None]:
    """Compute `RwkvSelfAttention.forward` with the states of the layer, and update them."""
    import torch

    shifts, sums = _NO_STATES if state is None else state[self.layer_id]
    shifted = _shifted(hidden, None if shifts is None else shifts[:, 1])
    key = self.key(_mixed(hidden, shifted, self.time_mix_key))
    value = self.value(_mixed(hidden, shifted, self.time_mix_value))
    receptance = torch.sigmoid(self.receptance(_mixed(hidden, shifted, self.time_mix_receptance)))
    output, after = weighted_sums(self.time_decay, self.time_first, key, value, sums)
    if state is not None:
        state[self.layer_id] = (torch.stack([shifts[:, 0], hidden[:, -1]], dim=1), after.to(sums.dtype))
    return self.output(receptance * output.to(value.dtype)), state


def weighted_sums(
    decay: torch.Tensor, first: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sums: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute RWKV's recurrence token by token: averages of all values so far, whose weights decay.

    Args:
        decay: logarithm of the decay rate, Transformers' `time_decay`, [size].
        first: bonus of the current token's exponent, Transformers' `time_first`, [size].
        key: exponents of weights, [batch, tokens, size].
        value: like `key`.
        sums: sum of values, sum of weights, and exponent of both, [batch, 3, size]; None for empty sums.

    Returns:
        Averages like `value` in float32, and the sums after the last token.
    """
    import torch
    from torch._higher_order_ops.scan import scan

    if sums is None:
        sums = torch.zeros(key.shape[0], _SUMS, key.shape[2], dtype=torch.float32, device=key.device)
    inputs = [tensor.float().transpose(0, 1) for tensor in (key, key + first, value)]
    inputs.append((-torch.exp(decay.float())).expand_as(inputs[0]))
    after, averages = scan(_step, _with_lowest_exponent(sums), tuple(tensor.contiguous() for tensor in inputs))
    return averages.transpose(0, 1), after


def _step(sums: torch.Tensor, token: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    key, current_key, value, decay = token
    values, weights, exponent = sums.unbind(1)
    largest = torch.maximum(exponent, current_key)
    before, current = torch.exp(exponent - largest), torch.exp(current_key - largest)
    average = (before * values + current * value) / (before * weights + current)
    exponent = exponent + decay
    largest = torch.maximum(exponent, key)
    before, current = torch.exp(exponent - largest), torch.exp(key - largest)
    return torch.stack([before * values + current * value, before * weights + current, largest], dim=1), average


def _patch(name: str, forward: Callable[..., tuple[Any, ...]]) -> Patch:
    return Patch(
        f"transformers.models.rwkv.modeling_rwkv:{name}.forward",
        lambda _: forward,
        "every layer writes to one tensor of all layers' states in place, in a loop that specializes the length",
        EAGER,
        "Transformers keeps the states of each layer in separate tensors, as its other recurrent models do",
    )


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("rwkv",),
        model=always(RwkvOnnxConfig),  # the model without a head loops over tokens, too
        patches=(
            _patch("RwkvBlock", _block),
            _patch("RwkvSelfAttention", _attend),
            _patch("RwkvFeedForward", _feed_forward),
        ),
    ),
)
