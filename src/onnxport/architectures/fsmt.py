"""FSMT: a position embedding table that doesn't grow, and an unconditional padding mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.description.component_types import encoder_decoder, generates_from_encoder
from onnxport.description.encoder_decoder import Seq2SeqDecoderOnnxConfig
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.models.fsmt.modeling_fsmt import SinusoidalPositionalEmbedding

    from onnxport.description.components import Component
    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task

_MODULE = "transformers.models.fsmt.modeling_fsmt"


def _fixed_table(_: object) -> Callable[..., torch.Tensor]:
    """Look up positions in the table as the constructor created it; `cached` is the number of cached tokens."""

    def forward(self: SinusoidalPositionalEmbedding, tokens: torch.Tensor, **cached: int) -> torch.Tensor:
        from torch.nn import functional

        positions = self.make_positions(tokens, self.padding_idx)
        return functional.embedding(positions + sum(cached.values()), self.weight, self.padding_idx)

    return forward


def _always_make_mask(_: object) -> Callable[..., torch.Tensor]:
    """Return the padding mask even if no token is padding."""

    def make_padding_mask(tokens: torch.Tensor, padding_idx: int = 1) -> torch.Tensor:
        return tokens.eq(padding_idx)

    return make_padding_mask


class FsmtDecoderOnnxConfig(Seq2SeqDecoderOnnxConfig):
    """Describe FSMT's decoder, whose layers take encoder hidden states as [sequence, batch, hidden_size]."""

    is_time_first = True


def _components(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor, _: bool
) -> tuple[Component, ...] | None:
    if not generates_from_encoder(model, task):
        return None
    return encoder_decoder(model, preprocessor, decoder=FsmtDecoderOnnxConfig)


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("fsmt",),
        components=_components,
        patches=(
            Patch(
                f"{_MODULE}:SinusoidalPositionalEmbedding.forward",
                _fixed_table,
                "a position embedding table that may grow in forward bounds the sequence and cache lengths",
                EAGER,
                "Transformers creates FSMT's table once",
            ),
            Patch(
                f"{_MODULE}:make_padding_mask",
                _always_make_mask,
                "whether the decoder's tokens have a mask is data-dependent",
                EAGER,
                "Transformers always returns a mask",
            ),
        ),
    ),
)
