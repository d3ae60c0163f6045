"""RWKV: its description, and its recurrence in a form whose trace is right for any number of tokens.

Transformers keeps five tensors of [batch, hidden, layers], which every layer writes to in place. In the graph a layer
has its own: `conv`, what its two shifts by one token saw last (feed-forward, attention), and `recurrent`, the weighted
sum of values, the sum of weights, and the exponent of both. States of zeros are those before the first token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, always
from onnxport.configs._base import model_of
from onnxport.description.arguments import PAST
from onnxport.description.cache_layout import CacheLayout, CacheTensor
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.patching.patch import EAGER, Patch, Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_SHIFTS, _SUMS = 2, 3
_NOTHING = -1e38
"""Exponent of sums of nothing, as in Transformers."""
_NO_STATES: tuple[Any, Any] = (None, None)


class RwkvOnnxConfig(DerivedOnnxConfig):
    """Describe RWKV for generation, with its state or without."""

    cache_names = ("state",)

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Make inputs; the sum of weights is above zero, as after any token."""
        import torch

        inputs = dict(super().generate_dummy_inputs(*arguments, **named))
        for _, sums in inputs.get(PAST, ()):
            sums.copy_(torch.linspace(0.5, 2.0, sums.numel()).reshape(sums.shape))
        return inputs

    def describe_cache(self, model: PreTrainedModel, cache: Any) -> CacheLayout:
        """Describe the states of every layer."""
        size, depth = model.config.hidden_size, model.config.num_hidden_layers
        layers = (
            (
                CacheTensor(number, "conv_states", "conv", (_SHIFTS, size)),
                CacheTensor(number, "recurrent_states", "recurrent", (_SUMS, size)),
            )
            for number in range(depth)
        )
        return CacheLayout(tuple(layers), depth)

    def past_to_cache(self, past: Any, arguments: Mapping[str, Any]) -> Any:
        """Return the states as they are; `run` gives the model what it takes."""
        return past

    def cache_to_past(self, cache: Any) -> Any:
        """Return the states as they are; `run` took them apart."""
        return cache

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model; see `OnnxConfig`.

        Transformers' code mixes the texts of a batch with each other where each gets one token, so that it gets such
        texts one after the other.
        """
        import torch

        if torch.compiler.is_exporting():
            states = {PAST: list(arguments[PAST])} if PAST in arguments else {}
            model = model_of(forward)
            # The first run divides the weights; `_block` does that in the graph, whose weights are the checkpoint's.
            with patching(Replacement(getattr(model, "rwkv", model), "layers_are_rescaled", True)):
                return super().run(forward, {**arguments, **states})
        if PAST not in arguments:
            return super().run(forward, arguments)
        batch, tokens = arguments["input_ids"].shape
        if tokens > 1 or batch == 1:
            return self._run_original(forward, arguments)
        rows = []
        for row in range(batch):
            past = [tuple(tensor[row : row + 1] for tensor in layer) for layer in arguments[PAST]]
            one = {name: value[row : row + 1] for name, value in arguments.items() if name != PAST}
            rows.append(self._run_original(forward, {**one, PAST: past}))
        layers = zip(*(result[PAST] for result in rows), strict=True)
        joined = [tuple(torch.cat(parts) for parts in zip(*layer, strict=True)) for layer in layers]
        return {"logits": torch.cat([result["logits"] for result in rows]), PAST: joined}

    def _run_original(self, forward: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
        result = super().run(forward, {**arguments, PAST: _stacked(arguments[PAST])})
        kept = arguments[PAST][0][1].dtype
        return {**result, PAST: [(conv, sums.to(kept)) for conv, sums in _by_layer(result[PAST])]}


def _stacked(past: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    """Return Transformers' five tensors, [batch, hidden, layers], from the states of every layer."""
    import torch

    shifts = torch.stack([conv for conv, _ in past], dim=-1)
    sums = torch.stack([_marked(recurrent) for _, recurrent in past], dim=-1)
    return [tensor.clone() for tensor in (*shifts.unbind(1), *sums.float().unbind(1))]


def _by_layer(state: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the states of every layer, [batch, 2, hidden] and [batch, 3, hidden], from Transformers' five tensors."""
    import torch

    shifts, sums = torch.stack(list(state[:_SHIFTS]), dim=1), torch.stack(list(state[_SHIFTS:]), dim=1)
    return list(zip(shifts.unbind(-1), sums.unbind(-1), strict=True))


def _marked(recurrent: torch.Tensor) -> torch.Tensor:
    """Return sums whose exponent is lowest where they are sums of nothing."""
    import torch

    values, weights, exponent = recurrent.float().unbind(1)
    return torch.stack([values, weights, exponent.masked_fill(weights == 0, _NOTHING)], dim=1)


def _block(
    self: Any, hidden: torch.Tensor, state: Any = None, use_cache: bool = False, output_attentions: bool = False
) -> tuple[Any, ...]:
    """Compute `RwkvBlock.forward`; the first layer is known by what it has, not by its number."""
    hidden = self.pre_ln(hidden) if hasattr(self, "pre_ln") else hidden
    scale = _scale(self)
    attention, state = self.attention(self.ln1(hidden), state=state)
    hidden = hidden + attention / scale
    fed, state = self.feed_forward(self.ln2(hidden), state=state)
    return hidden + fed / scale, state, None


def _scale(block: Any) -> int:
    """Return by what Transformers divides the weights that write to the stream, before it first runs a model."""
    every = block.config.rescale_every
    return int(2 ** (block.layer_id // every)) if every > 0 else 1


def _shifted(hidden: torch.Tensor, last: torch.Tensor | None) -> torch.Tensor:
    """Return what the token before each was, [batch, tokens, hidden], zeros before the first of all."""
    import torch

    first = torch.zeros_like(hidden[:, :1]) if last is None else last[:, None]
    return torch.cat([first, hidden[:, :-1]], dim=1)


def _mixed(hidden: torch.Tensor, shifted: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    return hidden * share + shifted * (1 - share)


def _feed_forward(self: Any, hidden: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
    """Compute `RwkvFeedForward.forward`, and write the layer's states: its attention left what it saw last."""
    import torch

    shifts, sums = _NO_STATES if state is None else state[self.layer_id]
    shifted = _shifted(hidden, None if shifts is None else shifts[:, 0])
    key = torch.square(torch.relu(self.key(_mixed(hidden, shifted, self.time_mix_key))))
    receptance = torch.sigmoid(self.receptance(_mixed(hidden, shifted, self.time_mix_receptance)))
    if state is not None:
        state[self.layer_id] = (torch.stack([hidden[:, -1], shifts[:, 1]], dim=1), sums)
    return receptance * self.value(key), state


def _attend(self: Any, hidden: torch.Tensor, state: Any = None, use_cache: bool = False) -> tuple[torch.Tensor, Any]:
    """Compute `RwkvSelfAttention.forward` with the layer's own states."""
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
        decay: logarithm of how fast weights decay, [size].
        first: what is added to a token's own exponent, [size].
        key: exponents of weights, [batch, tokens, size].
        value: like `key`.
        sums: sum of values, sum of weights, and exponent of both, [batch, 3, size]; those of nothing without.

    Returns:
        Averages like `value` in float32, and the sums after the last token.
    """
    import torch
    from torch._higher_order_ops.scan import scan

    if sums is None:
        sums = torch.zeros(key.shape[0], _SUMS, key.shape[2], dtype=torch.float32, device=key.device)
    tokens = [tensor.float().transpose(0, 1) for tensor in (key, key + first, value)]
    tokens.append((-torch.exp(decay.float())).expand_as(tokens[0]))
    after, averages = scan(_take, _marked(sums), tuple(tensor.contiguous() for tensor in tokens))
    return averages.transpose(0, 1), after


def _take(sums: torch.Tensor, token: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    key, now, value, decay = token
    values, weights, exponent = sums.unbind(1)
    most = torch.maximum(exponent, now)
    before, own = torch.exp(exponent - most), torch.exp(now - most)
    average = (before * values + own * value) / (before * weights + own)
    exponent = exponent + decay
    most = torch.maximum(exponent, key)
    before, own = torch.exp(exponent - most), torch.exp(key - most)
    return torch.stack([before * values + own * value, before * weights + own, most], dim=1), average


def _patch(name: str, forward: Callable[..., tuple[Any, ...]]) -> Patch:
    return Patch(
        f"transformers.models.rwkv.modeling_rwkv:{name}.forward",
        lambda _: forward,
        "every layer writes to one tensor of all layers' states in place, in a loop that specializes the length",
        EAGER,
        "Transformers keeps the states of each layer apart, as its other recurrent models do",
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
