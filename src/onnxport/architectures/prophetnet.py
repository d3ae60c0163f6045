"""ProphetNet: its decoder in one form for prompts and single tokens, with and without a cache.

Transformers has two implementations of the predicting streams, and the one for a past takes a single token. The other
permutes the relative position embeddings of several tokens among heads and streams. A graph without a cache reproduces
that; a graph with a cache returns for every token of a prompt what Transformers returns token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, when_generating
from onnxport.configs import PatchingSpec
from onnxport.description.arguments import PAST
from onnxport.description.component_types import encoder_decoder, generates_from_encoder
from onnxport.description.components import Component
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.encoder_decoder import DecoderOnnxConfig

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import Cache, PreTrainedModel
    from transformers.models.prophetnet.modeling_prophetnet import (
        ProphetNetDecoder,
        ProphetNetDecoderModelOutput,
        ProphetNetNgramSelfAttention,
    )

    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task


class ProphetNetOnnxConfig(DerivedOnnxConfig):
    """Describe ProphetNet in one graph, without a cache."""

    def patches_of(self, model: PreTrainedModel) -> list[PatchingSpec]:
        """Return the patches that make the decoder take any number of tokens."""
        return _decoder_patches() if model.config.is_encoder_decoder else super().patches_of(model)


class ProphetNetDecoderOnnxConfig(DecoderOnnxConfig):
    """Describe ProphetNet's decoder."""

    def patches_of(self, model: PreTrainedModel) -> list[PatchingSpec]:
        """Return the patches that make the decoder take any number of tokens."""
        return _decoder_patches()

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the model; see `OnnxConfig`. It runs token by token, unless it is traced."""
        import torch

        if torch.compiler.is_exporting():
            return super().run(forward, arguments)
        step, logits = dict(arguments), []
        for input_ids in arguments["input_ids"].split(1, dim=1):
            outputs = super().run(forward, {**step, "input_ids": input_ids})
            step[PAST] = outputs[PAST]
            logits.append(outputs["logits"])
        return {"logits": torch.cat(logits, dim=1), PAST: step[PAST]}


def _decoder_patches() -> list[PatchingSpec]:
    from transformers.models.prophetnet import modeling_prophetnet as modeling

    return [
        PatchingSpec(modeling.ProphetNetDecoder, "forward", _decode),
        PatchingSpec(modeling.ProphetNetNgramSelfAttention, "forward", _attend),
    ]


def _decode(
    self: ProphetNetDecoder,
    input_ids: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    encoder_attention_mask: torch.Tensor | None = None,
    past_key_values: Cache | None = None,
    **_: Any,
) -> ProphetNetDecoderModelOutput:
    """Compute `ProphetNetDecoder.forward`.

    Args:
        self: the decoder.
        input_ids: [batch, sequence].
        encoder_hidden_states: [batch, encoder sequence, hidden size].
        encoder_attention_mask: [batch, encoder sequence], 0 for padding.
        past_key_values: the cache, which is updated.
        **_: not used.
    """
    import torch
    from torch.nn import functional
    from transformers.models.prophetnet import modeling_prophetnet as modeling

    embeddings = self.word_embeddings(input_ids)
    past = 0 if past_key_values is None else past_key_values.get_seq_length()
    positions = torch.arange(embeddings.shape[1], device=embeddings.device) + past
    table, first = self.position_embeddings.weight, self.position_embeddings.padding_idx + 1
    next_positions = functional.embedding(positions + first + 1, table)
    streams = [embeddings + functional.embedding(positions + first, table)]
    for ngram in range(self.ngram):
        streams.append((self.ngram_embeddings.weight[ngram - 1] + next_positions).expand_as(embeddings))
    hidden_states = self.embeddings_layer_norm(torch.cat(streams, dim=1))
    keys = torch.arange(embeddings.shape[1] + past, device=embeddings.device)
    distance = keys[None, :] - positions[:, None]
    predicting = [(distance <= -ngram) | (keys == 0) for ngram in range(self.ngram)]
    buckets = [
        modeling.compute_relative_buckets(self.num_buckets, self.relative_max_distance, relative)
        for relative in (distance, *[distance - 1] * self.ngram)
    ]
    for layer in self.layers:
        hidden_states = layer(
            hidden_states,
            torch.stack([distance <= 0, *predicting]),
            encoder_hidden_states,
            encoder_attn_mask=_attention_bias(self, encoder_attention_mask, embeddings.dtype),
            main_relative_position_buckets=torch.stack(buckets).long(),
            past_key_values=past_key_values,
        )[0]
    length = embeddings.shape[1]
    return modeling.ProphetNetDecoderModelOutput(
        last_hidden_state=hidden_states[:, :length],
        last_hidden_state_ngram=hidden_states[:, length:],
        past_key_values=past_key_values,
    )


def _attention_bias(decoder: ProphetNetDecoder, mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Return the bias of cross-attention scores, [batch, heads, 1, encoder sequence]."""
    import torch

    if mask is None:
        return None
    bias = (1 - mask[:, None, None, :]).to(dtype) * torch.finfo(dtype).min
    return bias.expand(-1, decoder.config.num_decoder_attention_heads, -1, -1)


def _attend(
    self: ProphetNetNgramSelfAttention,
    hidden_states: torch.Tensor,
    past_key_values: Cache | None = None,
    attention_mask: torch.Tensor | None = None,
    main_relative_position_buckets: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None, None]:
    """Compute `ProphetNetNgramSelfAttention.forward` for all streams at once.

    Args:
        self: the attention module.
        hidden_states: [batch, streams * tokens, hidden size], the main stream first.
        past_key_values: the cache of the main stream's keys and values, which is updated.
        attention_mask: true for the keys that a token of a stream attends to, [streams, tokens, keys].
        main_relative_position_buckets: bucket index of the distance to each key, like `attention_mask`.
        **_: not used.
    """
    import torch

    assert attention_mask is not None and main_relative_position_buckets is not None, "the decoder always passes them"
    streams, tokens, keys = attention_mask.shape
    batch, heads = hidden_states.shape[0], self.num_attn_heads

    def split(projection: nn.Module) -> torch.Tensor:
        shape = (batch, streams, tokens, heads, self.head_dim)
        return projection(hidden_states).view(shape).transpose(2, 3)  # type: ignore[no-any-return]

    query, key, value = split(self.query_proj) / self.head_dim**0.5, split(self.key_proj), split(self.value_proj)
    main_key, main_value = key[:, 0], value[:, 0]
    if past_key_values is not None:
        cache = getattr(past_key_values, "self_attention_cache", past_key_values)
        main_key, main_value = cache.update(main_key, main_value, self.layer_idx)
    table = self.relative_pos_embeddings(hidden_states).view(batch, streams, tokens, self.num_buckets, heads)
    relative = table.permute(0, 1, 4, 2, 3)
    if past_key_values is None:
        permuted = table[:, 1:].permute(0, 2, 1, 4, 3).reshape(relative[:, 1:].shape)
        relative = torch.cat([relative[:, :1], permuted], dim=1)
    buckets = main_relative_position_buckets[None, :, None].expand(batch, streams, heads, tokens, keys)
    scores = query @ main_key[:, None].transpose(-1, -2) + torch.gather(relative, -1, buckets)
    lowest = torch.finfo(scores.dtype).min
    scores = scores.masked_fill(~attention_mask[None, :, None], lowest)
    self_scores = (query * key).sum(dim=-1, keepdim=True) + relative[..., :1]
    is_main = torch.arange(streams, device=self_scores.device)[None, :, None, None, None] == 0
    weights = torch.softmax(torch.cat([scores, self_scores.masked_fill(is_main, lowest)], dim=-1).float(), dim=-1)
    weights = weights.to(value.dtype)
    attended = weights[..., :-1] @ main_value[:, None] + weights[..., -1:] * value
    return self.out_proj(attended.transpose(2, 3).reshape(batch, streams * tokens, -1)), None, None


def _components(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor, _: bool
) -> tuple[Component, ...] | None:
    if not generates_from_encoder(model, task):
        return None
    return encoder_decoder(model, preprocessor, decoder=ProphetNetDecoderOnnxConfig)


ARCHITECTURES = (Architecture(("prophetnet",), components=_components, model=when_generating(ProphetNetOnnxConfig)),)
