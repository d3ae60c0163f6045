"""Bark: a graph for each of the models that it runs one after another, from a text to the codes of a sound.

What turns codes into samples, EnCodec, isn't among them: in a graph, its LSTM takes one number of codes only. The first
reads states instead of tokens: those of a text and of a voice's earlier tokens are added to each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.configs.plain_tokenizer import plain_tokenizer
from onnxport.description.components import Component
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.multimodal import EmbeddingOnnxConfig, EmbedsDecoderOnnxConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task

_LENGTH = 6


class FineOnnxConfig(OnnxConfig):
    """Describe what adds the codes of a codebook to those of the codebooks before it."""

    @property
    def inputs(self) -> Axes:
        """Which codebook is wanted, [1], and the codes of all, [batch, codes, codebooks]; later ones don't matter."""
        return {"codebook_idx": {}, "input_ids": {0: "batch", 1: "sequence"}}

    @property
    def outputs(self) -> Axes:
        """Logits of the codebook's codes."""
        return {"logits": {0: "batch", 1: "sequence"}}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Preprocessor, batch_size: int = -1, **named: Any
    ) -> Mapping[str, Any]:
        """Make codes."""
        import torch

        batch, books = compute_effective_axis_dimension(batch_size, self.default_batch_size), self._config.n_codes_total
        return {"codebook_idx": torch.tensor([books - 2]), "input_ids": torch.ones(batch, _LENGTH, books).long()}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model: while it is traced, with states that a mask chooses, and with all heads."""
        import torch

        wanted, codes = arguments["codebook_idx"], arguments["input_ids"]
        if torch.compiler.is_exporting():
            return {"logits": self._traced(forward, wanted, codes)}
        return forward(codebook_idx=int(wanted), input_ids=codes, return_dict=True)

    def _traced(self, forward: Any, wanted: Any, codes: Any) -> Any:
        import torch

        model = model_of(forward)
        embedded = torch.stack([embed(codes[:, :, i]) for i, embed in enumerate(model.input_embeds_layers)])
        counts = torch.arange(len(embedded), device=wanted.device) <= wanted
        states = (embedded * counts[:, None, None, None].to(embedded.dtype)).sum(0)
        heads, said = model.lm_heads, []
        handle = heads[0].register_forward_pre_hook(lambda _, given: said.append(given[0]))
        try:
            forward(codebook_idx=self._config.n_codes_given, inputs_embeds=states, return_dict=True)
        finally:
            handle.remove()
        every = torch.stack([head(said[0]) for head in heads])
        return every.index_select(0, wanted - self._config.n_codes_given)[0]


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
