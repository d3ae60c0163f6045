"""Describe Bark as one graph per submodel that it runs in sequence, from a prompt to audio codes and audio.

The semantic model takes `inputs_embeds`, the sum of the embeddings of the text and of the voice preset's semantic
tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.architectures.encodec import CodesDecoderOnnxConfig
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.configs.plain_tokenizer import plain_tokenizer
from onnxport.description.components import AUDIO_DECODER, Component
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.multimodal import EmbeddingOnnxConfig, EmbedsDecoderOnnxConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task

_LENGTH = 6


class FineOnnxConfig(OnnxConfig):
    """Describe the fine acoustics model, which predicts the codes of a codebook from the preceding codebooks."""

    @property
    def inputs(self) -> Axes:
        """Codebook index to predict, [1], and all codes, [batch, sequence, codebooks]; later codebooks are ignored."""
        return {"codebook_idx": {}, "input_ids": {0: "batch", 1: "sequence"}}

    @property
    def outputs(self) -> Axes:
        """Logits of the codebook's codes, [batch, sequence, codebook_size]."""
        return {"logits": {0: "batch", 1: "sequence"}}

    def generate_dummy_inputs(self, preprocessor: Any, batch_size: int = -1, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Create dummy codes."""
        import torch

        batch = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        codebooks = self._config.n_codes_total
        codes = torch.ones(batch, _LENGTH, codebooks).long()
        return {"codebook_idx": torch.tensor([codebooks - 2]), "input_ids": codes}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model: when exporting, with embeddings selected by a mask, and with all LM heads."""
        import torch

        codebook, codes = arguments["codebook_idx"], arguments["input_ids"]
        if torch.compiler.is_exporting():
            return {"logits": self._forward_any_codebook(forward, codebook, codes)}
        return forward(codebook_idx=int(codebook), input_ids=codes, return_dict=True)

    def _forward_any_codebook(self, forward: Any, codebook: Any, codes: Any) -> Any:
        import torch

        model = model_of(forward)
        embeddings = torch.stack([embed(codes[:, :, i]) for i, embed in enumerate(model.input_embeds_layers)])
        mask = torch.arange(len(embeddings), device=codebook.device) <= codebook
        inputs_embeds = (embeddings * mask[:, None, None, None].to(embeddings.dtype)).sum(0)
        heads, hidden_states = model.lm_heads, []
        handle = heads[0].register_forward_pre_hook(lambda _, inputs: hidden_states.append(inputs[0]))
        try:
            forward(codebook_idx=self._config.n_codes_given, inputs_embeds=inputs_embeds, return_dict=True)
        finally:
            handle.remove()
        logits = torch.stack([head(hidden_states[0]) for head in heads])
        return logits.index_select(0, codebook - self._config.n_codes_given)[0]


def _components(model: PreTrainedModel, _: Task, __: Preprocessor, last_logits: bool) -> tuple[Component, ...]:
    semantic, coarse, fine = model.semantic, model.coarse_acoustics, model.fine_acoustics
    codec = model.codec_model
    text, codes = plain_tokenizer(semantic.config), plain_tokenizer(coarse.config)
    return (
        Component("semantic_embed_tokens", semantic, EmbeddingOnnxConfig(semantic.config), text),
        Component("semantic_model", semantic, EmbedsDecoderOnnxConfig(semantic, text, last_logits), text),
        Component("coarse_model", coarse, DerivedOnnxConfig(coarse, codes, True, last_logits), codes),
        Component("fine_model", fine, FineOnnxConfig(fine.config), codes),
        Component(AUDIO_DECODER, codec, CodesDecoderOnnxConfig(codec.config, fine.config.n_codes_total), codes),
    )


ARCHITECTURES = (Architecture(("bark",), components=_components),)
