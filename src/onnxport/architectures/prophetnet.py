"""ProphetNet: its decoder in one form for prompts and single tokens, with its cache and without.

Transformers computes the streams that predict later tokens in two ways, of which the one behind a past takes a single
token. The other mixes up whose distances are whose where there are several tokens, and a graph without a cache does the
same; one with a cache returns for every token of a prompt what Transformers returns for one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, when_generating
from onnxport.configs import PatchingSpec
from onnxport.description.arguments import PAST
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
    """Describe ProphetNet in one graph, without a cache."""

    def patches_of(self, model: PreTrainedModel) -> list[PatchingSpec]:
        """Return the decoder's form for any number of tokens."""
        return _forms() if model.config.is_encoder_decoder else super().patches_of(model)


class ProphetNetDecoderOnnxConfig(Seq2SeqDecoderOnnxConfig):
    """Describe ProphetNet's decoder."""

    def patches_of(self, model: PreTrainedModel) -> list[PatchingSpec]:
        """Return the decoder's form for any number of tokens."""
        return _forms()

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model; see `OnnxConfig`. Tokens come one by one, unless it is traced."""
        import torch

        if torch.compiler.is_exporting():
            return super().run(forward, arguments)
        now, logits = dict(arguments), []
        for token in arguments["input_ids"].split(1, dim=1):
            result = super().run(forward, {**now, "input_ids": token})
            now[PAST] = result[PAST]
            logits.append(result["logits"])
        return {"logits": torch.cat(logits, dim=1), PAST: now[PAST]}


def _forms() -> list[PatchingSpec]:
    from transformers.models.prophetnet import modeling_prophetnet as modeling

    return [
        PatchingSpec(modeling.ProphetNetDecoder, "forward", _decode),
        PatchingSpec(modeling.ProphetNetNgramSelfAttention, "forward", _attend),
    ]


def _decode(
    self: Any,
    input_ids: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    encoder_attention_mask: torch.Tensor | None = None,
    past_key_values: Any = None,
    **_: Any,
) -> Any:
    """Compute `ProphetNetDecoder.forward`.

    Args:
        self: the decoder.
        input_ids: [batch, tokens].
        encoder_hidden_states: [batch, states, size].
        encoder_attention_mask: [batch, states], 0 for padding.
        past_key_values: the cache, which is brought up to date.
        **_: not used.
    """
    import torch
    from torch.nn import functional
    from transformers.models.prophetnet import modeling_prophetnet as modeling

    states = self.word_embeddings(input_ids)
    past = 0 if past_key_values is None else past_key_values.get_seq_length()
    numbers = torch.arange(states.shape[1], device=states.device) + past
    table, first = self.position_embeddings.weight, self.position_embeddings.padding_idx + 1
    predicted = functional.embedding(numbers + first + 1, table)
    streams = [states + functional.embedding(numbers + first, table)]
    for number in range(self.ngram):
        streams.append((self.ngram_embeddings.weight[number - 1] + predicted).expand_as(states))
    hidden = self.embeddings_layer_norm(torch.cat(streams, dim=1))
    keys = torch.arange(states.shape[1] + past, device=states.device)
    between = keys[None, :] - numbers[:, None]
    foresight = [(between <= -number) | (keys == 0) for number in range(self.ngram)]
    buckets = [
        modeling.compute_relative_buckets(self.num_buckets, self.relative_max_distance, distance)
        for distance in (between, *[between - 1] * self.ngram)
    ]
    for layer in self.layers:
        hidden = layer(
            hidden,
            torch.stack([between <= 0, *foresight]),
            encoder_hidden_states,
            encoder_attn_mask=_added(self, encoder_attention_mask, states),
            main_relative_position_buckets=torch.stack(buckets).long(),
            past_key_values=past_key_values,
        )[0]
    count = states.shape[1]
    return modeling.ProphetNetDecoderModelOutput(
        last_hidden_state=hidden[:, :count],
        last_hidden_state_ngram=hidden[:, count:],
        past_key_values=past_key_values,
    )


def _added(decoder: Any, mask: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor | None:
    """Return what is added to the scores of an encoder's states, [batch, heads, 1, states]."""
    import torch

    if mask is None:
        return None
    hidden = (1 - mask[:, None, None, :]).to(states.dtype) * torch.finfo(states.dtype).min
    return hidden.expand(-1, decoder.config.num_decoder_attention_heads, -1, -1)


def _attend(
    self: Any,
    hidden_states: torch.Tensor,
    past_key_values: Any = None,
    attention_mask: Any = None,
    main_relative_position_buckets: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, None, None]:
    """Compute `ProphetNetNgramSelfAttention.forward` for all streams at once.

    Args:
        self: the attention module.
        hidden_states: [batch, streams * tokens, size], the main stream first.
        past_key_values: the cache of the main stream's keys and values, which is brought up to date.
        attention_mask: true for the keys that a token of a stream attends to, [streams, tokens, keys].
        main_relative_position_buckets: how far they are, as a number of the table of such distances, likewise.
        **_: not used.
    """
    import torch

    streams, tokens, keys = attention_mask.shape
    batch, heads = hidden_states.shape[0], self.num_attn_heads

    def split(projection: Any) -> torch.Tensor:
        shape = (batch, streams, tokens, heads, self.head_dim)
        return projection(hidden_states).view(shape).transpose(2, 3)  # type: ignore[no-any-return]

    query, key, value = split(self.query_proj) / self.head_dim**0.5, split(self.key_proj), split(self.value_proj)
    main_key, main_value = key[:, 0], value[:, 0]
    if past_key_values is not None:
        cache = getattr(past_key_values, "self_attention_cache", past_key_values)
        main_key, main_value = cache.update(main_key, main_value, self.layer_idx)
    table = self.relative_pos_embeddings(hidden_states).view(batch, streams, tokens, self.num_buckets, heads)
    distances = table.permute(0, 1, 4, 2, 3)
    if past_key_values is None:
        mixed = table[:, 1:].permute(0, 2, 1, 4, 3).reshape(distances[:, 1:].shape)
        distances = torch.cat([distances[:, :1], mixed], dim=1)
    places = main_relative_position_buckets[None, :, None].expand(batch, streams, heads, tokens, keys)
    scores = query @ main_key[:, None].transpose(-1, -2) + torch.gather(distances, -1, places)
    lowest = torch.finfo(scores.dtype).min
    scores = scores.masked_fill(~attention_mask[None, :, None], lowest)
    own = (query * key).sum(dim=-1, keepdim=True) + distances[..., :1]
    is_main = torch.arange(streams, device=own.device)[None, :, None, None, None] == 0
    weights = torch.softmax(torch.cat([scores, own.masked_fill(is_main, lowest)], dim=-1).float(), dim=-1)
    weights = weights.to(value.dtype)
    found = weights[..., :-1] @ main_value[:, None] + weights[..., -1:] * value
    return self.out_proj(found.transpose(2, 3).reshape(batch, streams * tokens, -1)), None, None


def _components(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor, _: bool
) -> tuple[Component, ...] | None:
    if not generates_from_encoder(model, task):
        return None
    return encoder_decoder(model, preprocessor, decoder=ProphetNetDecoderOnnxConfig)


ARCHITECTURES = (Architecture(("prophetnet",), components=_components, model=when_generating(ProphetNetOnnxConfig)),)
