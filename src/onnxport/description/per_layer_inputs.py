"""Describe decoders whose layers each take an embedding of the tokens of their own: Gemma 3n and Gemma 4's E models.

They are computed from token ids (per-layer embeddings), which a decoder that takes `inputs_embeds` doesn't have. So the
graph of the token embeddings returns them, and the decoder takes them, with the names that transformers.js has.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport.configs._base import Axes, model_of
from onnxport.description.dummy_inputs import DummyInput, InputContext
from onnxport.description.multimodal import EMBEDS, EmbeddingOnnxConfig, EmbedsDecoderOnnxConfig
from onnxport.description.text_configs import text_config_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_NAME = "per_layer_inputs"
_AXES = {0: "batch", 1: "sequence"}
_PLACEHOLDERS = ("image_token_id", "video_token_id", "audio_token_id")


def takes_per_layer_inputs(model: PreTrainedModel) -> bool:
    """Return whether a multimodal model has per-layer embeddings, and takes them beside `inputs_embeds`."""
    has_size = getattr(text_config_of(model.config), "hidden_size_per_layer_input", 0)
    return bool(has_size) and _NAME in inspect.signature(type(model).forward).parameters


class PerLayerEmbeddingOnnxConfig(EmbeddingOnnxConfig):
    """Describe a model's input embeddings, and those of each layer."""

    @property
    def outputs(self) -> Axes:
        """Both embeddings, [batch, sequence, hidden_size] and [batch, sequence, layers, size]."""
        return {**super().outputs, _NAME: _AXES}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Look up both; Gemma 4 embeds padding in place of placeholder tokens."""
        import torch

        model, ids = model_of(forward), arguments["input_ids"]
        per_layer = model.base_model.language_model.get_per_layer_inputs
        if EMBEDS in inspect.signature(per_layer).parameters:
            known = (getattr(model.config, name, None) for name in _PLACEHOLDERS)
            is_placeholder = torch.stack([ids == token for token in known if token is not None]).any(0)
            ids = torch.where(is_placeholder, text_config_of(model.config).pad_token_id, ids)
        return {**super().run(forward, {"input_ids": ids}), _NAME: per_layer(ids)}


def _per_layer_inputs(context: InputContext) -> torch.Tensor:
    """Return random per-layer embeddings of the tokens."""
    import torch

    config = text_config_of(context.config)
    shape = (*context.inputs["input_ids"].shape, config.num_hidden_layers, config.hidden_size_per_layer_input)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class PerLayerDecoderOnnxConfig(EmbedsDecoderOnnxConfig):
    """Describe a decoder that takes `inputs_embeds` and the embeddings of each layer."""

    dummy_inputs: ClassVar[Mapping[str, DummyInput]] = {_NAME: DummyInput(_AXES, _per_layer_inputs)}
