"""Describe the graph of a sentence-transformers model: a transformer and the modules that follow it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.description.delegating import DelegatingOnnxConfig
from onnxport.description.sentence_modules import (
    DOCUMENT_MASK,
    HEAD,
    INPUT_IDS,
    MASK,
    PROMPT_LENGTH,
    QUERY_MASK,
    TOKENS,
    SentenceModel,
)
from onnxport.errors import UnsupportedError

_PER_TOKEN = (TOKENS, QUERY_MASK, DOCUMENT_MASK)
_POSITION_IDS = "position_ids"


class SentenceEmbeddingOnnxConfig(DelegatingOnnxConfig):
    """Describe a model with the modules of a sentence-transformers directory.

    The inputs are those that sentence-transformers passes: it leaves `position_ids` to the model, and a prompt that
    isn't pooled is an input `prompt_length`, the number of its tokens in each sequence.

    Args:
        trunk: description of the transformer without the modules.
        described: the transformer's output, the modules, and their results.

    Raises:
        UnsupportedError: the transformer has no `input_ids`, or not the output that the modules need.
    """

    def __init__(self, trunk: OnnxConfig, described: SentenceModel) -> None:
        super().__init__(trunk, "default")
        self._described = described
        if described.output not in trunk.outputs or INPUT_IDS not in trunk.inputs:
            raise UnsupportedError(
                f"{trunk._config.model_type} takes {', '.join(trunk.inputs)} and returns {', '.join(trunk.outputs)}; "
                f"the modules of sentence-transformers need {INPUT_IDS} and {described.output}: export the model alone "
                f"with --task {described.task}"
            )

    @property
    def inputs(self) -> Axes:
        """The transformer's inputs, the mask, and `prompt_length` [batch] if the prompt isn't pooled."""
        inputs = {name: axes for name, axes in self.trunk.inputs.items() if name != _POSITION_IDS}
        inputs.setdefault(MASK, dict(inputs[INPUT_IDS]))
        if self._described.takes_prompt_length:
            inputs[PROMPT_LENGTH] = {0: inputs[INPUT_IDS][0]}
        return inputs

    @property
    def outputs(self) -> Axes:
        """The transformer's output, and what the modules compute of it.

        `last_hidden_state` and `token_embeddings` are [batch, sequence, size], `sentence_embedding` [batch, size],
        `scores` [batch, labels], and masks [batch, sequence]. Optimum, and sentence-transformers through it, read the
        outputs by these names.
        """
        tokens = self.trunk.inputs[INPUT_IDS]
        output = self._described.output
        axes = dict(tokens) if output == "last_hidden_state" else self.trunk.outputs[output]
        results = {name: dict(tokens) if name in _PER_TOKEN else {0: tokens[0]} for name in self._described.results}
        return {output: axes, **results}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Any, *sizes: Any, **named: Any
    ) -> Mapping[str, Any]:
        """Make the transformer's inputs; the first token of each sequence is the prompt."""
        import torch

        inputs = dict(self.trunk.generate_dummy_inputs(preprocessor, *sizes, **named))
        inputs.pop(_POSITION_IDS, None)
        ids = inputs[INPUT_IDS]
        inputs.setdefault(MASK, torch.ones_like(ids))
        if self._described.takes_prompt_length:
            inputs[PROMPT_LENGTH] = torch.ones(len(ids), dtype=torch.int64)
        return inputs

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the transformer, then the modules on its output."""
        own = (PROMPT_LENGTH, *(() if MASK in self.trunk.inputs else (MASK,)))
        result = self.trunk.run(forward, {name: value for name, value in arguments.items() if name not in own})
        output = self._described.output
        return {output: result[output], **getattr(model_of(forward), HEAD).results(result, arguments)}
