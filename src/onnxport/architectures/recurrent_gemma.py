"""RecurrentGemma: the states of its modules become inputs and outputs, and its recurrence is valid for any length.

Transformers stores the states of recurrent layers as attributes of the layers, and doesn't return the cache. Its code
discards the convolution state if it gets several tokens at once, so tokens after a past are run one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxport._transformers_api import PAST
from onnxport.architectures._architecture import Architecture, when_generating
from onnxport.configs._base import model_of
from onnxport.description.cache_layout import CacheLayout, CacheTensor
from onnxport.description.derived import DerivedOnnxConfig, tokens_of
from onnxport.patching.patch import EAGER, Patch, Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru

_MODULE = "transformers.models.recurrent_gemma.modeling_recurrent_gemma"
_STATES = "cached"
"""Attribute that passes states to and from a recurrent layer while it is traced."""


class RecurrentGemmaOnnxConfig(DerivedOnnxConfig):
    """Describe RecurrentGemma for generation, which caches keys and values of some layers, and states of others."""

    def describe_cache(self, model: PreTrainedModel, cache: Any) -> CacheLayout:
        """Describe the cache entries of every layer."""
        config, layers = model.config, []
        for index, layer in enumerate(model.model.layers):
            if _is_recurrent(layer):
                conv = CacheTensor(index, "conv_states", "conv", (config.lru_width, config.conv1d_width - 1))
                layers.append((conv, CacheTensor(index, "recurrent_states", "recurrent", (config.lru_width,))))
            else:
                shape = (config.num_key_value_heads, 0, config.head_dim)
                layers.append((CacheTensor(index, "keys", "key", shape), CacheTensor(index, "values", "value", shape)))
        return CacheLayout(tuple(layers), len(layers))

    def _fill_cache(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> None:
        """Do nothing: `describe_cache` needs no cache, only the configuration."""

    def past_to_cache(self, past: Any, arguments: Mapping[str, Any]) -> Any:
        """Return the cache entries unchanged; `run` passes them to the layers."""
        return past

    def cache_to_past(self, cache: Any) -> Any:
        """Return the cache entries unchanged; `run` reads them from the layers."""
        return cache

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model, token by token after a past unless it is being exported; see `OnnxConfig`."""
        import torch

        layers = model_of(forward).model.layers
        if PAST not in arguments:
            return super().run(forward, {**arguments, "use_cache": False})
        if torch.compiler.is_exporting():
            return self._run_with_states(layers, forward, arguments)
        count, step_arguments, logits = tokens_of(arguments).shape[1], dict(arguments), []
        for end in range(1, count + 1):
            for name in arguments.keys() & {"input_ids", "inputs_embeds", "position_ids"}:
                step_arguments[name] = arguments[name][:, end - 1 : end]
            step_arguments["attention_mask"] = arguments["attention_mask"][
                :, : arguments["attention_mask"].shape[1] - count + end
            ]
            result = self._run_with_states(layers, forward, step_arguments)
            step_arguments[PAST] = result[PAST]
            logits.append(result["logits"])
        return {"logits": torch.cat(logits[-1:] if self._kwargs else logits, dim=1), PAST: step_arguments[PAST]}

    def _run_with_states(self, layers: Any, forward: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
        cache = _key_value_cache(layers, arguments[PAST])
        with _with_states(layers, arguments[PAST]) as read_states:
            result = super().run(forward, {**arguments, PAST: cache, "use_cache": True})
            states = read_states()
        past = [
            states[index] if index in states else (cache.layers[index].keys, cache.layers[index].values)
            for index in range(len(layers))
        ]
        return {"logits": result["logits"], PAST: past}


def _is_recurrent(layer: Any) -> bool:
    return hasattr(layer.temporal_block, "rg_lru")


def _key_value_cache(layers: Any, past: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    """Build the cache of keys and values, which isn't truncated to the attention window: the mask excludes the rest."""
    from transformers.cache_utils import DummyLayer, DynamicCache, DynamicLayer

    class UntruncatedCache(DynamicCache):  # type: ignore[misc]
        """Report the attention layers as sliding, so that masks are created for their length."""

        @property
        def is_sliding(self) -> list[bool]:
            return [not _is_recurrent(layer) for layer in layers]

    cache = UntruncatedCache()
    cache.layers = [DummyLayer() if _is_recurrent(layer) else DynamicLayer() for layer in layers]
    for layer, cache_layer, tensors in zip(layers, cache.layers, past, strict=True):
        if not _is_recurrent(layer):
            cache_layer.update(*tensors)
    return cache


@contextmanager
def _with_states(layers: Any, past: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[Any]:
    """Set the states of recurrent layers within the block, and yield a function that returns them by layer index."""
    import torch

    blocks = {index: layer.temporal_block for index, layer in enumerate(layers) if _is_recurrent(layer)}
    changes: list[Replacement] = []
    for index, block in blocks.items():
        if torch.compiler.is_exporting():
            changes.append(Replacement(block, _STATES, past[index]))
            continue
        conv, recurrent = past[index]
        changes += [
            Replacement(block, "conv1d_state", conv),
            Replacement(block.rg_lru, "recurrent_states", recurrent.float()),
        ]

    def read_states() -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        if torch.compiler.is_exporting():
            return {index: getattr(block, _STATES) for index, block in blocks.items()}
        return {
            index: (block.conv1d_state, block.rg_lru.recurrent_states.to(past[index][1].dtype))
            for index, block in blocks.items()
        }

    with patching(*changes):
        yield read_states


def _recurrent_block(
    self: Any, input_states: torch.Tensor, position_ids: torch.Tensor, **_: Any
) -> tuple[torch.Tensor, None]:
    """Compute `RecurrentGemmaRecurrentBlock.forward` for any number of tokens, from its current states."""
    import torch

    states = getattr(self, _STATES, None)
    inputs = self.linear_x(input_states).transpose(1, 2)
    width = self.conv1d_width - 1
    conv_state = inputs.new_zeros(*inputs.shape[:2], width) if states is None else states[0]
    padded = torch.cat([conv_state, inputs], dim=-1)
    convolved = torch.nn.functional.conv1d(padded, self.conv_1d.weight, self.conv_1d.bias, groups=self.conv_1d.groups)
    self.rg_lru.recurrent_states = None if states is None else states[1]
    outputs = self.rg_lru(convolved.transpose(1, 2), position_ids)
    if states is not None:
        setattr(self, _STATES, (padded[..., -width:], self.rg_lru.recurrent_states.to(states[1].dtype)))
    self.rg_lru.recurrent_states = None
    return self.linear_out(outputs * self.act_fn(self.linear_y(input_states))), None


def _scan(_: object) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Return a replacement for `_rnn_scan` that computes the recurrence with `torch.scan`.

    Its parameters are the inputs of each token, [batch, tokens, width], the recurrent gates, [batch, tokens, width], a
    mask of tokens that reset the state, [batch, tokens, 1], and the initial state, [batch, width], zeros by default. It
    returns the states after each token, [batch, tokens, width], and the final state.
    """

    def rnn_scan(
        self: RecurrentGemmaRglru,
        hidden_states: torch.Tensor,
        recurrent_gate: torch.Tensor,
        reset: torch.Tensor,
        recurrent_states: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        import torch
        from torch._higher_order_ops.scan import scan

        gate = (recurrent_gate * ~reset).float().transpose(0, 1).contiguous()
        inputs = hidden_states.float().transpose(0, 1).contiguous()
        initial = torch.zeros_like(inputs[0]) if recurrent_states is None else recurrent_states.float().contiguous()
        final, states = scan(_step, initial, (gate, inputs))
        return states.transpose(0, 1).to(hidden_states.dtype), final

    return rnn_scan


def _step(state: torch.Tensor, token: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    gate, inputs = token
    state = state * gate + inputs
    return state, state.clone()


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("recurrent_gemma",),
        model=when_generating(RecurrentGemmaOnnxConfig),
        patches=(
            Patch(
                f"{_MODULE}:RecurrentGemmaRecurrentBlock.forward",
                lambda _: _recurrent_block,
                "the layer stores its states as attributes, and discards its convolution state after several tokens",
                EAGER,
                "Transformers stores the states in the cache that the caller passes",
            ),
            Patch(
                f"{_MODULE}:RecurrentGemmaRglru._rnn_scan",
                _scan,
                "a loop over the tokens specializes the sequence length",
                EAGER,
                "torch.export converts such a loop to a scan",
            ),
        ),
    ),
)
