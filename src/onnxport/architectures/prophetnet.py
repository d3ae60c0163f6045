"""ProphetNet: one implementation of its decoder for prompts and single tokens, with and without a cache.

Transformers has two implementations of the streams that predict later tokens. The one with a past supports a single
token. The one without a past mixes up the relative positions of several tokens, and a graph without a cache does the
same. A graph with a cache returns for each token of a prompt what Transformers returns for one token at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxport._transformers_api import PAST, cache_argument, cache_name
from onnxport.architectures._architecture import Architecture, when_generating
from onnxport.configs import PatchingSpec
from onnxport.description.component_types import encoder_decoder, generates_from_encoder
from onnxport.description.components import Component
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.encoder_decoder import Seq2SeqDecoderOnnxConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task


class ProphetNetOnnxConfig(DerivedOnnxConfig):
    """Describe ProphetNet as a single graph without a cache."""

    def patches_of(self, model: PreTrainedModel) -> list[PatchingSpec]:
        """Return the patches of the decoder for any number of tokens."""
        return _decoder_patches() if model.config.is_encoder_decoder else super().patches_of(model)


class ProphetNetDecoderOnnxConfig(Seq2SeqDecoderOnnxConfig):
    """Describe ProphetNet's decoder."""

    def patches_of(self, model: PreTrainedModel) -> list[PatchingSpec]:
        """Return the patches of the decoder for any number of tokens."""
        return _decoder_patches()

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model token by token, unless it is being exported; see `OnnxConfig`."""
        import torch

        if torch.compiler.is_exporting():
            return super().run(forward, arguments)
        step_arguments, logits = dict(arguments), []
        for token in arguments["input_ids"].split(1, dim=1):
            result = super().run(forward, {**step_arguments, "input_ids": token})
            step_arguments[PAST] = result[PAST]
            logits.append(result["logits"])
        return {"logits": torch.cat(logits, dim=1), PAST: step_arguments[PAST]}


def _decoder_patches() -> list[PatchingSpec]:
    from transformers.models.prophetnet import modeling_prophetnet as modeling

    return [
        PatchingSpec(modeling.ProphetNetDecoder, "forward", _decode),
        PatchingSpec(modeling.ProphetNetNgramSelfAttention, "forward", _ngram_attention),
    ]


def _decode(
    self: Any,
    input_ids: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    encoder_attention_mask: torch.Tensor | None = None,
    **named: Any,
) -> Any:
    """Compute `ProphetNetDecoder.forward`.

    Args:
        self: the decoder.
        input_ids: [batch, sequence].
        encoder_hidden_states: [batch, encoder_sequence, hidden_size].
        encoder_attention_mask: [batch, encoder_sequence]; 0 for padding.
        **named: the cache, which is updated; others aren't used.
    """
    import torch
    from torch.nn import functional
    from transformers.models.prophetnet import modeling_prophetnet as modeling

    inputs_embeds = self.word_embeddings(input_ids)
    cache = cache_argument(named)
    past = 0 if cache is None else cache.get_seq_length()
    positions = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past
    table, first = self.position_embeddings.weight, self.position_embeddings.padding_idx + 1
    predicted = functional.embedding(positions + first + 1, table)
    streams = [inputs_embeds + functional.embedding(positions + first, table)]
    for index in range(self.ngram):
        streams.append((self.ngram_embeddings.weight[index - 1] + predicted).expand_as(inputs_embeds))
    hidden_states = self.embeddings_layer_norm(torch.cat(streams, dim=1))
    keys = torch.arange(inputs_embeds.shape[1] + past, device=inputs_embeds.device)
    relative = keys[None, :] - positions[:, None]
    ngram_masks = [(relative <= -index) | (keys == 0) for index in range(self.ngram)]
    buckets = [
        modeling.compute_relative_buckets(self.num_buckets, self.relative_max_distance, distance)
        for distance in (relative, *[relative - 1] * self.ngram)
    ]
    for layer in self.layers:
        hidden_states = layer(
            hidden_states,
            torch.stack([relative <= 0, *ngram_masks]),
            encoder_hidden_states,
            encoder_attn_mask=_additive_mask(self, encoder_attention_mask, inputs_embeds),
            main_relative_position_buckets=torch.stack(buckets).long(),
            **{cache_name(): cache},
        )[0]
    length = inputs_embeds.shape[1]
    return modeling.ProphetNetDecoderModelOutput(
        last_hidden_state=hidden_states[:, :length],
        last_hidden_state_ngram=hidden_states[:, length:],
        **{cache_name(): cache},
    )


def _additive_mask(decoder: Any, mask: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    """Return the additive mask of the cross-attention scores, [batch, heads, 1, encoder_sequence]."""
    import torch

    if mask is None:
        return None
    additive = (1 - mask[:, None, None, :]).to(like.dtype) * torch.finfo(like.dtype).min
    return additive.expand(-1, decoder.config.num_decoder_attention_heads, -1, -1)


def _ngram_attention(
    self: Any,
    hidden_states: torch.Tensor,
    *,
    attention_mask: Any = None,
    main_relative_position_buckets: Any = None,
    **named: Any,
) -> tuple[torch.Tensor, None, None]:
    """Compute `ProphetNetNgramSelfAttention.forward` for all streams at once.

    Args:
        self: the attention module.
        hidden_states: [batch, streams * tokens, hidden_size], with the main stream first.
        attention_mask: true for the keys that a token of a stream attends to, [streams, tokens, keys].
        main_relative_position_buckets: relative position bucket of each key, [streams, tokens, keys].
        **named: the cache of the main stream's keys and values, which is updated; others aren't used.
    """
    import torch

    streams, tokens, keys = attention_mask.shape
    batch, heads = hidden_states.shape[0], self.num_attn_heads

    def split(projection: Any) -> torch.Tensor:
        shape = (batch, streams, tokens, heads, self.head_dim)
        return projection(hidden_states).view(shape).transpose(2, 3)  # type: ignore[no-any-return]

    query, key, value = split(self.query_proj) / self.head_dim**0.5, split(self.key_proj), split(self.value_proj)
    main_key, main_value = key[:, 0], value[:, 0]
    cache = cache_argument(named)
    if cache is not None:
        cache = getattr(cache, "self_attention_cache", cache)
        main_key, main_value = cache.update(main_key, main_value, self.layer_idx)
    table = self.relative_pos_embeddings(hidden_states).view(batch, streams, tokens, self.num_buckets, heads)
    biases = table.permute(0, 1, 4, 2, 3)
    if cache is None:  # mixed up like Transformers' implementation without a past
        mixed = table[:, 1:].permute(0, 2, 1, 4, 3).reshape(biases[:, 1:].shape)
        biases = torch.cat([biases[:, :1], mixed], dim=1)
    buckets = main_relative_position_buckets[None, :, None].expand(batch, streams, heads, tokens, keys)
    scores = query @ main_key[:, None].transpose(-1, -2) + torch.gather(biases, -1, buckets)
    minimum = torch.finfo(scores.dtype).min
    scores = scores.masked_fill(~attention_mask[None, :, None], minimum)
    stream_scores = (query * key).sum(dim=-1, keepdim=True) + biases[..., :1]
    is_main = torch.arange(streams, device=scores.device)[None, :, None, None, None] == 0
    scores = torch.cat([scores, stream_scores.masked_fill(is_main, minimum)], dim=-1)
    weights = torch.softmax(scores.float(), dim=-1).to(value.dtype)
    outputs = weights[..., :-1] @ main_value[:, None] + weights[..., -1:] * value
    return self.out_proj(outputs.transpose(2, 3).reshape(batch, streams * tokens, -1)), None, None


def _components(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor, _: bool
) -> tuple[Component, ...] | None:
    if not generates_from_encoder(model, task):
        return None
    return encoder_decoder(model, preprocessor, decoder=ProphetNetDecoderOnnxConfig)


ARCHITECTURES = (
    Architecture(
        ("prophetnet",),
        components=_components,
        model=when_generating(ProphetNetOnnxConfig),
        left_out={
            "decoder_attention_mask": "the decoder for any number of tokens has no mask: padding follows the tokens"
        },
    ),
)
