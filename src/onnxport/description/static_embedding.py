"""Models of sentence-transformers that have a table of token embeddings and no layers, as models of Transformers.

The names of their parameters are those in the checkpoint, so that they are loaded, bound and written like all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from onnxport.configs._base import Axes, OnnxConfig
from onnxport.description.sentence_modules import INPUT_IDS, MASK, SENTENCE

_TOKENS = {0: "batch", 1: "sequence"}


class StaticEmbeddingConfig(PreTrainedConfig):  # type: ignore[misc]
    """Configuration of a table of token embeddings, or of a weight for each token.

    Args:
        vocab_size: number of token ids.
        hidden_size: size of an embedding; 0 for a weight for each token.
        rows: number of rows of the table, which a mapping from token ids may share.
        table: name of the table in the checkpoint.
        is_mapped: whether token ids are mapped to rows.
        is_weighted: whether each token id has a weight, by which its embedding is multiplied.
        **settings: other settings; see `PreTrainedConfig`.
    """

    model_type = "static_embedding"

    def __init__(
        self,
        vocab_size: int = 0,
        hidden_size: int = 0,
        rows: int = 0,
        table: str = "embedding.weight",
        is_mapped: bool = False,
        is_weighted: bool = False,
        **settings: Any,
    ) -> None:
        self.vocab_size, self.hidden_size, self.rows = vocab_size, hidden_size, rows
        self.table, self.is_mapped, self.is_weighted = table, is_mapped, is_weighted
        super().__init__(**settings)


class StaticEmbedding(PreTrainedModel):  # type: ignore[misc]
    """Look up an embedding for each token.

    Args:
        config: the sizes of the table.
    """

    config_class = StaticEmbeddingConfig
    main_input_name = INPUT_IDS

    def __init__(self, config: StaticEmbeddingConfig) -> None:
        super().__init__(config)
        self._table = config.table
        owner, _, name = config.table.rpartition(".")
        if owner:
            self.add_module(owner, nn.Module())
        self.get_submodule(owner).register_parameter(name, nn.Parameter(torch.zeros(config.rows, config.hidden_size)))
        if config.is_mapped:
            self.mapping: torch.Tensor
            self.register_buffer("mapping", torch.zeros(config.vocab_size, dtype=torch.int64))
        if config.is_weighted:
            self.weights = nn.Parameter(torch.zeros(config.vocab_size))
        self.post_init()

    def forward(self, input_ids: torch.Tensor, *, return_dict: bool = True) -> BaseModelOutput:
        """Look up the embeddings.

        Args:
            input_ids: token ids, [batch, sequence].
            return_dict: as for other models; the outputs are named in any case.

        Returns:
            `last_hidden_state`, [batch, sequence, hidden_size].
        """
        rows = self.mapping[input_ids] if self.config.is_mapped else input_ids
        embeddings = nn.functional.embedding(rows, self.get_parameter(self._table))
        if self.config.is_weighted:
            embeddings = embeddings * self.weights[input_ids][..., None]
        return BaseModelOutput(last_hidden_state=embeddings)


class SparseStaticEmbedding(PreTrainedModel):  # type: ignore[misc]
    """Return the weight of each token of the vocabulary that a sequence has, and 0 for the others.

    Args:
        config: the size of the vocabulary.
    """

    config_class = StaticEmbeddingConfig
    main_input_name = INPUT_IDS

    def __init__(self, config: StaticEmbeddingConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.zeros(config.vocab_size))
        self.post_init()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, *, return_dict: bool = True
    ) -> dict[str, torch.Tensor]:
        """Look up the weights.

        Args:
            input_ids: token ids, [batch, sequence].
            attention_mask: 1 for a token, 0 for padding, [batch, sequence].
            return_dict: as for other models; the outputs are named in any case.

        Returns:
            `sentence_embedding`, [batch, vocab_size].
        """
        presence = torch.zeros(input_ids.shape[0], self.weight.shape[0], dtype=torch.int64, device=input_ids.device)
        presence = presence.scatter_reduce(1, input_ids, attention_mask.to(torch.int64), "amax")
        return {SENTENCE: presence * self.weight}


CLASSES: Mapping[str, type[PreTrainedModel]] = {
    "StaticEmbedding": StaticEmbedding,
    "WordEmbeddings": StaticEmbedding,
    "SparseStaticEmbedding": SparseStaticEmbedding,
}
"""Class name of the module to the model."""


class StaticEmbeddingOnnxConfig(OnnxConfig):
    """Describe a table of token embeddings."""

    _OUTPUTS: ClassVar[Mapping[bool, Axes]] = {True: {"last_hidden_state": _TOKENS}, False: {SENTENCE: {0: "batch"}}}

    @property
    def inputs(self) -> Axes:
        """Token ids, and the mask of a weight for each token."""
        return {INPUT_IDS: _TOKENS, MASK: _TOKENS} if self._config.hidden_size == 0 else {INPUT_IDS: _TOKENS}

    @property
    def outputs(self) -> Axes:
        """The embeddings of the tokens, or one weight for each token of the vocabulary."""
        return self._OUTPUTS[self._config.hidden_size > 0]

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Any, batch_size: int = -1, seq_length: int = -1, **named: Any
    ) -> Mapping[str, Any]:
        """Make token ids without a tokenizer: one of words isn't one of Transformers."""
        shape = [
            size if size > 0 else default
            for size, default in (
                (batch_size, self.default_batch_size), (seq_length, self.default_sequence_length),
            )
        ]  # fmt: skip
        return {name: torch.ones(shape, dtype=torch.int64) for name in self.inputs}
