"""Describe RWKV, and compute its recurrence so that a trace is valid for any number of tokens.

Transformers has five state tensors of [batch, hidden_size, layers], which every layer updates in place. In the graph
each layer has separate states: `conv`, the last inputs of its two token shifts (feed-forward, attention), and
`recurrent`, the weighted sum of values, the sum of weights, and the exponent of both. The initial states are zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxport._transformers_api import PAST
from onnxport.architectures._architecture import Architecture, always
from onnxport.configs._base import model_of
from onnxport.description.cache_layout import CacheLayout, CacheTensor
from onnxport.description.derived import DerivedOnnxConfig, tokens_of
from onnxport.patching.patch import EAGER, Patch, Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_SHIFTS, _SUMS = 2, 3
_EMPTY_EXPONENT = -1e38
"""Exponent of empty sums, as in Transformers."""
_NO_STATES: tuple[Any, Any] = (None, None)


class RwkvOnnxConfig(DerivedOnnxConfig):
    """Describe RWKV for generation, with or without its state."""

    cache_name = "state"

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Create dummy inputs; the sums of weights are positive, as after any token."""
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
                CacheTensor(index, "conv_states", "conv", (_SHIFTS, size)),
                CacheTensor(index, "recurrent_states", "recurrent", (_SUMS, size)),
            )
            for index in range(depth)
        )
        return CacheLayout(tuple(layers), depth)

    def past_to_cache(self, past: Any, arguments: Mapping[str, Any]) -> Any:
        """Return the states unchanged; `run` converts them to the model's format."""
        return past

    def cache_to_past(self, cache: Any) -> Any:
        """Return the states unchanged; `run` splits them by layer."""
        return cache

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model; see `OnnxConfig`.

        Transformers' code mixes the sequences of a batch if each has a single token, so such sequences are run one by
        one.
        """
        import torch

        if torch.compiler.is_exporting():
            states = {PAST: list(arguments[PAST])} if PAST in arguments else {}
            model = model_of(forward)
            # Transformers rescales the weights in its first forward; in the graph, which has the checkpoint's weights,
            # `_block` rescales the outputs instead.
            with patching(Replacement(getattr(model, "rwkv", model), "layers_are_rescaled", True)):
                return super().run(forward, {**arguments, **states})
        if PAST not in arguments:
            return super().run(forward, arguments)
        batch, tokens = tokens_of(arguments).shape[:2]
        if tokens > 1 or batch == 1:
            return self._run_original(forward, arguments)
        results = []
        for index in range(batch):
            past = [tuple(tensor[index : index + 1] for tensor in layer) for layer in arguments[PAST]]
            sequence = {name: value[index : index + 1] for name, value in arguments.items() if name != PAST}
            results.append(self._run_original(forward, {**sequence, PAST: past}))
        layers = zip(*(result[PAST] for result in results), strict=True)
        batched = [tuple(torch.cat(states) for states in zip(*layer, strict=True)) for layer in layers]
        return {"logits": torch.cat([result["logits"] for result in results]), PAST: batched}

    def _run_original(self, forward: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
        result = super().run(forward, {**arguments, PAST: _stack_layers(arguments[PAST])})
        dtype = arguments[PAST][0][1].dtype
        return {**result, PAST: [(conv, sums.to(dtype)) for conv, sums in _split_layers(result[PAST])]}


def _stack_layers(past: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    """Return Transformers' five state tensors, [batch, hidden_size, layers], from the states of every layer."""
    import torch

    shifts = torch.stack([conv for conv, _ in past], dim=-1)
    sums = torch.stack([_with_empty_exponents(recurrent) for _, recurrent in past], dim=-1)
    return [tensor.clone() for tensor in (*shifts.unbind(1), *sums.float().unbind(1))]


def _split_layers(state: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the states of every layer, [batch, 2, hidden_size] and [batch, 3, hidden_size], from the five tensors."""
    import torch

    shifts, sums = torch.stack(list(state[:_SHIFTS]), dim=1), torch.stack(list(state[_SHIFTS:]), dim=1)
    return list(zip(shifts.unbind(-1), sums.unbind(-1), strict=True))


def _with_empty_exponents(recurrent: torch.Tensor) -> torch.Tensor:
    """Return a recurrent state with `_EMPTY_EXPONENT` as the exponent of empty sums, whose weights are 0."""
    import torch

    values, weights, exponent = recurrent.float().unbind(1)
    return torch.stack([values, weights, exponent.masked_fill(weights == 0, _EMPTY_EXPONENT)], dim=1)


def _block(
    self: Any, hidden: torch.Tensor, state: Any = None, use_cache: bool = False, output_attentions: bool = False
) -> tuple[Any, ...]:
    """Compute `RwkvBlock.forward`; the first layer is recognized by its `pre_ln`, not by its index."""
    hidden = self.pre_ln(hidden) if hasattr(self, "pre_ln") else hidden
    scale = _scale(self)
    attention, state = self.attention(self.ln1(hidden), state=state)
    hidden = hidden + attention / scale
    fed, state = self.feed_forward(self.ln2(hidden), state=state)
    return hidden + fed / scale, state, None


def _scale(block: Any) -> int:
    """Return the divisor by which Transformers rescales a block's output weights before its first forward."""
    every = block.config.rescale_every
    return int(2 ** (block.layer_id // every)) if every > 0 else 1


def _shifted(hidden: torch.Tensor, last: torch.Tensor | None) -> torch.Tensor:
    """Return hidden states shifted by one token, [batch, tokens, hidden_size], with zeros before the first token."""
    import torch

    first = torch.zeros_like(hidden[:, :1]) if last is None else last[:, None]
    return torch.cat([first, hidden[:, :-1]], dim=1)


def _time_mix(hidden: torch.Tensor, shifted: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return hidden * weight + shifted * (1 - weight)


def _feed_forward(self: Any, hidden: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
    """Compute `RwkvFeedForward.forward`, and update its shift state; the attention has updated the others."""
    import torch

    shifts, sums = _NO_STATES if state is None else state[self.layer_id]
    shifted = _shifted(hidden, None if shifts is None else shifts[:, 0])
    key = torch.square(torch.relu(self.key(_time_mix(hidden, shifted, self.time_mix_key))))
    receptance = torch.sigmoid(self.receptance(_time_mix(hidden, shifted, self.time_mix_receptance)))
    if state is not None:
        state[self.layer_id] = (torch.stack([hidden[:, -1], shifts[:, 1]], dim=1), sums)
    return receptance * self.value(key), state


def _attention(self: Any, hidden: torch.Tensor, state: Any = None, use_cache: bool = False) -> tuple[torch.Tensor, Any]:
    """Compute `RwkvSelfAttention.forward` with separate states for each layer."""
    import torch

    shifts, sums = _NO_STATES if state is None else state[self.layer_id]
    shifted = _shifted(hidden, None if shifts is None else shifts[:, 1])
    key = self.key(_time_mix(hidden, shifted, self.time_mix_key))
    value = self.value(_time_mix(hidden, shifted, self.time_mix_value))
    receptance = torch.sigmoid(self.receptance(_time_mix(hidden, shifted, self.time_mix_receptance)))
    output, new_sums = weighted_sums(self.time_decay, self.time_first, key, value, sums)
    if state is not None:
        state[self.layer_id] = (torch.stack([shifts[:, 0], hidden[:, -1]], dim=1), new_sums.to(sums.dtype))
    return self.output(receptance * output.to(value.dtype)), state


def weighted_sums(
    decay: torch.Tensor, first: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sums: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute RWKV's recurrence as a scan over tokens: averages of all values so far, with decaying weights.

    Args:
        decay: logarithm of the decay rate, [size].
        first: bonus added to the exponent of the current token, [size].
        key: exponents of weights, [batch, tokens, size].
        value: values, [batch, tokens, size].
        sums: sum of values, sum of weights, and exponent of both, [batch, 3, size]; empty sums if None.

    Returns:
        Averages, [batch, tokens, size] in float32, and the sums after the last token, [batch, 3, size].
    """
    import torch
    from torch._higher_order_ops.scan import scan

    if sums is None:
        sums = torch.zeros(key.shape[0], _SUMS, key.shape[2], dtype=torch.float32, device=key.device)
    tokens = [tensor.float().transpose(0, 1) for tensor in (key, key + first, value)]
    tokens.append((-torch.exp(decay.float())).expand_as(tokens[0]))
    new_sums, averages = scan(_step, _with_empty_exponents(sums), tuple(tensor.contiguous() for tensor in tokens))
    return averages.transpose(0, 1), new_sums


def _step(sums: torch.Tensor, token: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    key, current_key, value, decay = token
    values, weights, exponent = sums.unbind(1)
    maximum = torch.maximum(exponent, current_key)
    past_weight, weight = torch.exp(exponent - maximum), torch.exp(current_key - maximum)
    average = (past_weight * values + weight * value) / (past_weight * weights + weight)
    exponent = exponent + decay
    maximum = torch.maximum(exponent, key)
    past_weight, weight = torch.exp(exponent - maximum), torch.exp(key - maximum)
    new_sums = (past_weight * values + weight * value, past_weight * weights + weight, maximum)
    return torch.stack(new_sums, dim=1), average


def _patch(name: str, forward: Callable[..., tuple[Any, ...]]) -> Patch:
    return Patch(
        f"transformers.models.rwkv.modeling_rwkv:{name}.forward",
        lambda _: forward,
        "every layer updates a tensor of all layers' states in place, in a loop that specializes the sequence length",
        EAGER,
        "Transformers has separate states for each layer, as in its other recurrent models",
    )


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("rwkv",),
        model=always(RwkvOnnxConfig),  # the base model loops over tokens, too
        patches=(
            _patch("RwkvBlock", _block),
            _patch("RwkvSelfAttention", _attention),
            _patch("RwkvFeedForward", _feed_forward),
        ),
    ),
)
