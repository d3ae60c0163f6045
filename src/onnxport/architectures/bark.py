"""Bark: a graph for each of the models that it runs one after another, from a prompt to audio codes.

EnCodec, which decodes codes to audio, isn't among them: in a graph, its LSTM takes only one length of codes. The
semantic model takes embeddings instead of token ids: the sum of the embeddings of the prompt and of the voice preset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.configs.plain_tokenizer import plain_tokenizer
from onnxport.description.components import Component
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.multimodal import EmbeddingOnnxConfig, EmbedsDecoderOnnxConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task

_LENGTH = 6


class FineOnnxConfig(OnnxConfig):
    """Describe the fine acoustics model, which predicts the codes of one codebook from those of the earlier ones."""

    @property
    def inputs(self) -> Axes:
        """Index of the codebook to predict, [1], and codes, [batch, sequence, codebooks]; later ones are ignored."""
        return {"codebook_idx": {}, "input_ids": {0: "batch", 1: "sequence"}}

    @property
    def outputs(self) -> Axes:
        """Logits of the codebook's codes, [batch, sequence, codes]."""
        return {"logits": {0: "batch", 1: "sequence"}}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Preprocessor, batch_size: int = -1, **named: Any
    ) -> Mapping[str, Any]:
        """Make a codebook index and codes."""
        import torch

        batch, books = compute_effective_axis_dimension(batch_size, self.default_batch_size), self._config.n_codes_total
        return {"codebook_idx": torch.tensor([books - 2]), "input_ids": torch.ones(batch, _LENGTH, books).long()}

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the model; while it is traced, with embeddings selected by a mask, and with all heads."""
        import torch

        codebook, codes = arguments["codebook_idx"], arguments["input_ids"]
        if torch.compiler.is_exporting():
            return {"logits": self._traced(forward, codebook, codes)}
        return forward(codebook_idx=int(codebook), input_ids=codes, return_dict=True)

    def _traced(self, forward: Callable[..., Any], codebook: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Return the logits of a codebook whose index is a tensor."""
        import torch

        model = model_of(forward)
        embedded = torch.stack([embed(codes[:, :, i]) for i, embed in enumerate(model.input_embeds_layers)])
        included = torch.arange(len(embedded), device=codebook.device) <= codebook
        embeddings = (embedded * included[:, None, None, None].to(embedded.dtype)).sum(0)
        heads, inputs = model.lm_heads, []
        handle = heads[0].register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
        try:
            forward(codebook_idx=self._config.n_codes_given, inputs_embeds=embeddings, return_dict=True)
        finally:
            handle.remove()
        logits = torch.stack([head(inputs[0]) for head in heads])
        return logits.index_select(0, codebook - self._config.n_codes_given)[0]


def _components(model: PreTrainedModel, _: Task, __: Preprocessor, last_logits: bool) -> tuple[Component, ...]:
    semantic, coarse, fine = model.semantic, model.coarse_acoustics, model.fine_acoustics
    text, codes = plain_tokenizer(semantic.config), plain_tokenizer(coarse.config)
    return (
        Component("semantic_embed_tokens", semantic, EmbeddingOnnxConfig(semantic.config), text),
        Component("semantic_model", semantic, EmbedsDecoderOnnxConfig(semantic, text, last_logits), text),
        Component("coarse_model", coarse, DerivedOnnxConfig(coarse, codes, True, last_logits), codes),
        Component("fine_model", fine, FineOnnxConfig(fine.config), codes),
    )


ARCHITECTURES = (Architecture(("bark",), components=_components),)
