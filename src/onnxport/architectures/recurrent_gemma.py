"""RecurrentGemma: its cache as inputs and outputs of the graph, and its recurrence for sequences of any length.

Transformers keeps the recurrent and the convolution states as attributes of the layers, and doesn't return the cache of
keys and values. Where a layer gets several tokens behind a past, it drops its convolution state; the reference results
are therefore computed token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, when_generating
from onnxport.configs._base import model_of
from onnxport.description.arguments import PAST
from onnxport.description.cache_layout import CacheLayout, CacheTensor
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.patching.patch import EAGER, Patch, Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import (
        RecurrentGemmaDecoderLayer,
        RecurrentGemmaRecurrentBlock,
        RecurrentGemmaRglru,
    )

    States = tuple[torch.Tensor, torch.Tensor]
    """Convolution and recurrent states, or keys and values, of one layer."""

_MODULE = "transformers.models.recurrent_gemma.modeling_recurrent_gemma"
_STATES = "traced_states"
"""Attribute of a recurrent block with its states while it is traced: first those before its forward, then after it."""


class RecurrentGemmaOnnxConfig(DerivedOnnxConfig):
    """Describe RecurrentGemma for generation: attention layers cache keys and values, the others their states."""

    def describe_cache(self, model: PreTrainedModel, cache: Cache | None) -> CacheLayout:
        """Describe the cache of every layer, from the configuration."""
        config, layers = model.config, []
        for index, layer in enumerate(model.model.layers):
            if _is_recurrent(layer):
                conv = CacheTensor(index, "conv_states", "conv", (config.lru_width, config.conv1d_width - 1))
                layers.append((conv, CacheTensor(index, "recurrent_states", "recurrent", (config.lru_width,))))
            else:
                shape = (config.num_key_value_heads, 0, config.head_dim)
                layers.append((CacheTensor(index, "keys", "key", shape), CacheTensor(index, "values", "value", shape)))
        return CacheLayout(tuple(layers), len(layers))

    def _given_cache(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> None:
        """Return no cache: the configuration has all that is needed to describe it."""

    def past_to_cache(self, past: Sequence[States], arguments: Mapping[str, Any]) -> Sequence[States]:
        """Return the cache entries unchanged; `run` passes them to the layers."""
        return past

    def cache_to_past(self, cache: Sequence[States]) -> Sequence[States]:
        """Return the cache entries unchanged; `run` took them from the layers."""
        return cache

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the model; see `OnnxConfig`. Behind a past, it runs token by token, unless it is traced."""
        import torch

        layers = model_of(forward).model.layers
        if PAST not in arguments:
            return super().run(forward, {**arguments, "use_cache": False})
        if torch.compiler.is_exporting():
            return self._run_with(layers, forward, arguments)
        tokens, mask = arguments["input_ids"].shape[1], arguments["attention_mask"]
        step, logits = dict(arguments), []
        for end in range(1, tokens + 1):
            for name in ("input_ids", "position_ids"):
                step[name] = arguments[name][:, end - 1 : end]
            step["attention_mask"] = mask[:, : mask.shape[1] - tokens + end]
            outputs = self._run_with(layers, forward, step)
            step[PAST] = outputs[PAST]
            logits.append(outputs["logits"])
        return {"logits": torch.cat(logits[-1:] if self._more else logits, dim=1), PAST: step[PAST]}

    def _run_with(
        self, layers: Sequence[RecurrentGemmaDecoderLayer], forward: Callable[..., Any], arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Run the model with the cache entries among its inputs, and return the new ones beside the logits."""
        cache = _key_value_cache(layers, arguments[PAST])
        with _recurrent_states(layers, arguments[PAST]) as states_after:
            outputs = super().run(forward, {**arguments, PAST: cache, "use_cache": True})
            states = states_after()
        entries = [
            states[index] if index in states else (cache.layers[index].keys, cache.layers[index].values)
            for index in range(len(layers))
        ]
        return {"logits": outputs["logits"], PAST: entries}


def _is_recurrent(layer: RecurrentGemmaDecoderLayer) -> bool:
    return hasattr(layer.temporal_block, "rg_lru")


def _key_value_cache(layers: Sequence[RecurrentGemmaDecoderLayer], past: Sequence[States]) -> Cache:
    """Build the cache of keys and values, not limited to the attention window: keys outside of it are masked."""
    from transformers.cache_utils import DummyLayer, DynamicCache, DynamicLayer

    class FullCache(DynamicCache):  # type: ignore[misc]
        """Let masks be made from the length of an attention layer."""

        @property
        def is_sliding(self) -> list[bool]:
            return [not _is_recurrent(layer) for layer in layers]

    cache = FullCache()
    cache.layers = [DummyLayer() if _is_recurrent(layer) else DynamicLayer() for layer in layers]
    for layer, cache_layer, tensors in zip(layers, cache.layers, past, strict=True):
        if not _is_recurrent(layer):
            cache_layer.update(*tensors)
    return cache


@contextmanager
def _recurrent_states(
    layers: Sequence[RecurrentGemmaDecoderLayer], past: Sequence[States]
) -> Iterator[Callable[[], dict[int, States]]]:
    """Set the states of recurrent layers in a block; the yielded function returns the current ones by layer index."""
    import torch

    blocks = {index: layer.temporal_block for index, layer in enumerate(layers) if _is_recurrent(layer)}
    replacements: list[Replacement] = []
    for index, block in blocks.items():
        if torch.compiler.is_exporting():
            replacements.append(Replacement(block, _STATES, past[index]))
            continue
        conv, recurrent = past[index]
        replacements += [
            Replacement(block, "conv1d_state", conv),
            Replacement(block.rg_lru, "recurrent_states", recurrent.float()),
        ]

    def states_after() -> dict[int, States]:
        if torch.compiler.is_exporting():
            return {index: getattr(block, _STATES) for index, block in blocks.items()}
        return {
            index: (block.conv1d_state, block.rg_lru.recurrent_states.to(past[index][1].dtype))
            for index, block in blocks.items()
        }

    with patching(*replacements):
        yield states_after


def _block(
    self: RecurrentGemmaRecurrentBlock, input_states: torch.Tensor, position_ids: torch.Tensor, **_: Any
) -> tuple[torch.Tensor, None]:
    """Compute `RecurrentGemmaRecurrentBlock.forward` for any number of tokens, starting from the block's states."""
    import torch

    states = getattr(self, _STATES, None)
    tokens = self.linear_x(input_states).transpose(1, 2)
    width = self.conv1d_width - 1
    initial = tokens.new_zeros(*tokens.shape[:2], width) if states is None else states[0]
    padded = torch.cat([initial, tokens], dim=-1)
    mixed = torch.nn.functional.conv1d(padded, self.conv_1d.weight, self.conv_1d.bias, groups=self.conv_1d.groups)
    self.rg_lru.recurrent_states = None if states is None else states[1]
    recurred = self.rg_lru(mixed.transpose(1, 2), position_ids)
    if states is not None:
        setattr(self, _STATES, (padded[..., -width:], self.rg_lru.recurrent_states.to(states[1].dtype)))
    self.rg_lru.recurrent_states = None
    return self.linear_out(recurred * self.act_fn(self.linear_y(input_states))), None


def _token_by_token(_: object) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Compute a recurrence as a scan.

    The replacement takes the input of each token, [batch, tokens, width], its recurrent gate, of the same shape, the
    tokens that reset the state, [batch, tokens, 1], and the initial state, [batch, width], zeros by default. It returns
    the states after each token, [batch, tokens, width], and the last one.
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
        first = torch.zeros_like(inputs[0]) if recurrent_states is None else recurrent_states.float().contiguous()
        last, states = scan(_step, first, (gate, inputs))
        return states.transpose(0, 1).to(hidden_states.dtype), last

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
                lambda _: _block,
                "the layer keeps its states as attributes, and drops its convolution state at several tokens",
                EAGER,
                "Transformers keeps the states in the cache that the caller passes",
            ),
            Patch(
                f"{_MODULE}:RecurrentGemmaRglru._rnn_scan",
                _token_by_token,
                "a loop over the tokens specializes the sequence length",
                EAGER,
                "torch.export makes a scan of such a loop",
            ),
        ),
    ),
)
