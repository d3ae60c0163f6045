"""RecurrentGemma: what its modules cache becomes inputs and outputs, and its recurrence is right for any length.

Transformers keeps the states of recurrent layers as attributes of the layers, and none of the cache is returned. Its
code forgets what a convolution saw where it gets several tokens at once, so that those behind a past come one by one.
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
    from transformers import PreTrainedModel
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru

_MODULE = "transformers.models.recurrent_gemma.modeling_recurrent_gemma"
_GIVEN = "cached"
"""Attribute by which a recurrent layer gets its states while it is traced, and leaves them."""


class RecurrentGemmaOnnxConfig(DerivedOnnxConfig):
    """Describe RecurrentGemma for generation: keys and values of some layers, states of the others."""

    def describe_cache(self, model: PreTrainedModel, cache: Any) -> CacheLayout:
        """Describe what every layer caches."""
        config, layers = model.config, []
        for number, layer in enumerate(model.model.layers):
            if _recurs(layer):
                conv = CacheTensor(number, "conv_states", "conv", (config.lru_width, config.conv1d_width - 1))
                layers.append((conv, CacheTensor(number, "recurrent_states", "recurrent", (config.lru_width,))))
            else:
                shape = (config.num_key_value_heads, 0, config.head_dim)
                layers.append(
                    (CacheTensor(number, "keys", "key", shape), CacheTensor(number, "values", "value", shape))
                )
        return CacheLayout(tuple(layers), len(layers))

    def _fill_cache(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> None:
        """Look for no cache: what is described stands in the configuration."""

    def past_to_cache(self, past: Any, arguments: Mapping[str, Any]) -> Any:
        """Return what the layers cache as it is; `run` gives it to them."""
        return past

    def cache_to_past(self, cache: Any) -> Any:
        """Return what the layers cache as it is; `run` took it from them."""
        return cache

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model; see `OnnxConfig`. Tokens behind a past come one by one, unless it is traced."""
        import torch

        layers = model_of(forward).model.layers
        if PAST not in arguments:
            return super().run(forward, {**arguments, "use_cache": False})
        if torch.compiler.is_exporting():
            return self._run_with(layers, forward, arguments)
        count, now, logits = arguments["input_ids"].shape[1], dict(arguments), []
        for last in range(1, count + 1):
            for name in ("input_ids", "position_ids"):
                now[name] = arguments[name][:, last - 1 : last]
            now["attention_mask"] = arguments["attention_mask"][
                :, : arguments["attention_mask"].shape[1] - count + last
            ]
            result = self._run_with(layers, forward, now)
            now[PAST] = result[PAST]
            logits.append(result["logits"])
        return {"logits": torch.cat(logits[-1:] if self._kwargs else logits, dim=1), PAST: now[PAST]}

    def _run_with(self, layers: Any, forward: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
        cache = _cache(layers, arguments[PAST])
        with _remembering(layers, arguments[PAST]) as after:
            result = super().run(forward, {**arguments, PAST: cache, "use_cache": True})
            states = after()
        kept = [
            states[number] if number in states else (cache.layers[number].keys, cache.layers[number].values)
            for number in range(len(layers))
        ]
        return {"logits": result["logits"], PAST: kept}


def _recurs(layer: Any) -> bool:
    return hasattr(layer.temporal_block, "rg_lru")


def _cache(layers: Any, past: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    """Build the cache of keys and values, whole although attention has a window: what lies outside is masked."""
    from transformers.cache_utils import DummyLayer, DynamicCache, DynamicLayer

    class WholeCache(DynamicCache):  # type: ignore[misc]
        """Name the layers that masks are to be counted by."""

        @property
        def is_sliding(self) -> list[bool]:
            return [not _recurs(layer) for layer in layers]

    cache = WholeCache()
    cache.layers = [DummyLayer() if _recurs(layer) else DynamicLayer() for layer in layers]
    for layer, held, tensors in zip(layers, cache.layers, past, strict=True):
        if not _recurs(layer):
            held.update(*tensors)
    return cache


@contextmanager
def _remembering(layers: Any, past: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[Any]:
    """Give recurrent layers their states in a block, and yield what tells their states of now, by number."""
    import torch

    blocks = {number: layer.temporal_block for number, layer in enumerate(layers) if _recurs(layer)}
    states: list[Replacement] = []
    for number, block in blocks.items():
        if torch.compiler.is_exporting():
            states.append(Replacement(block, _GIVEN, past[number]))
            continue
        conv, recurrent = past[number]
        states += [
            Replacement(block, "conv1d_state", conv),
            Replacement(block.rg_lru, "recurrent_states", recurrent.float()),
        ]

    def after() -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        if torch.compiler.is_exporting():
            return {number: getattr(block, _GIVEN) for number, block in blocks.items()}
        return {
            number: (block.conv1d_state, block.rg_lru.recurrent_states.to(past[number][1].dtype))
            for number, block in blocks.items()
        }

    with patching(*states):
        yield after


def _block(self: Any, input_states: torch.Tensor, position_ids: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
    """Compute `RecurrentGemmaRecurrentBlock.forward` for any number of tokens, from the states that it was given."""
    import torch

    given = getattr(self, _GIVEN, None)
    tokens = self.linear_x(input_states).transpose(1, 2)
    width = self.conv1d_width - 1
    before = tokens.new_zeros(*tokens.shape[:2], width) if given is None else given[0]
    seen = torch.cat([before, tokens], dim=-1)
    mixed = torch.nn.functional.conv1d(seen, self.conv_1d.weight, self.conv_1d.bias, groups=self.conv_1d.groups)
    self.rg_lru.recurrent_states = None if given is None else given[1]
    recurred = self.rg_lru(mixed.transpose(1, 2), position_ids)
    if given is not None:
        setattr(self, _GIVEN, (seen[..., -width:], self.rg_lru.recurrent_states.to(given[1].dtype)))
    self.rg_lru.recurrent_states = None
    return self.linear_out(recurred * self.act_fn(self.linear_y(input_states))), None


def _token_by_token(_: object) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Compute a recurrence as a scan.

    The replacement takes the addend of each token, [batch, tokens, width], the factor of the state, of the same shape,
    where the factor is zero, [batch, tokens, 1], and the state so far, [batch, width], zeros by default; it returns the
    states after each token, [batch, tokens, width], and the last one.
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

        factor = (recurrent_gate * ~reset).float().transpose(0, 1).contiguous()
        added = hidden_states.float().transpose(0, 1).contiguous()
        first = torch.zeros_like(added[0]) if recurrent_states is None else recurrent_states.float().contiguous()
        last, states = scan(_step, first, (factor, added))
        return states.transpose(0, 1).to(hidden_states.dtype), last

    return rnn_scan


def _step(state: torch.Tensor, token: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    factor, added = token
    state = state * factor + added
    return state, state.clone()


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("recurrent_gemma",),
        model=when_generating(RecurrentGemmaOnnxConfig),
        patches=(
            Patch(
                f"{_MODULE}:RecurrentGemmaRecurrentBlock.forward",
                lambda _: _block,
                "the layer keeps its states as attributes, and drops what its convolution needs behind several tokens",
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
