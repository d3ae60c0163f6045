"""Give a graph `inputs_embeds` instead of `input_ids`, and a graph of the token embeddings beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from onnxport._foreign_errors import translating
from onnxport.configs._base import Axes, OnnxConfig
from onnxport.description.arguments import Layout
from onnxport.description.completion import used_inputs
from onnxport.description.components import Component
from onnxport.description.delegating import DelegatingOnnxConfig
from onnxport.description.multimodal import EMBEDS, EmbeddingOnnxConfig
from onnxport.description.text_configs import text_config_of
from onnxport.errors import OnnxportError, UnsupportedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.description.tasks import Task

_IDS = "input_ids"
_EMBEDDING, _MODEL, _DECODER = "embed_tokens", "model", "decoder_model_merged"


class EmbedsOnnxConfig(DelegatingOnnxConfig):
    """Describe a graph that takes `inputs_embeds`, [batch, sequence, hidden_size], instead of `input_ids`.

    Args:
        trunk: the description with `input_ids`.
        hidden_size: size of a token's embedding.
    """

    def __init__(self, trunk: OnnxConfig, hidden_size: int) -> None:
        super().__init__(trunk)
        self._hidden_size = hidden_size

    @property
    def inputs(self) -> Axes:
        """The inputs of the other description, with embeddings of the tokens."""
        return {EMBEDS if name == _IDS else name: axes for name, axes in self._trunk.inputs.items()}

    @property
    def multiples(self) -> frozenset[str]:
        """Its inputs whose axes are a fixed multiple of their symbol."""
        return frozenset(EMBEDS if name == _IDS else name for name in self._trunk.multiples)

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Any, *sizes: Any, **named: Any
    ) -> Mapping[str, Any]:
        """Make the inputs of the other description, with embeddings of the tokens; see `OnnxConfig`."""
        import torch

        inputs = self._trunk.generate_dummy_inputs(preprocessor, *sizes, **named)
        embeds = torch.zeros(*inputs[_IDS].shape, self._hidden_size)
        return {EMBEDS if name == _IDS else name: embeds if name == _IDS else value for name, value in inputs.items()}


class TokenEmbeddingOnnxConfig(EmbeddingOnnxConfig):
    """Describe the embeddings of the token ids that a graph takes.

    Args:
        taken: the description with `input_ids`.
    """

    def __init__(self, taken: OnnxConfig) -> None:
        super().__init__(taken._config)
        self._taken = taken

    @property
    def inputs(self) -> Axes:
        """The token ids, as the graph takes them."""
        return {_IDS: self._taken.inputs[_IDS]}

    @property
    def outputs(self) -> Axes:
        """Their embeddings, with a last axis of the hidden size."""
        return {EMBEDS: self._taken.inputs[_IDS]}

    def generate_dummy_inputs(self, preprocessor: Any, *sizes: Any, **named: Any) -> Mapping[str, Any]:
        """Make the token ids of the graph; see `OnnxConfig`."""
        return {_IDS: self._taken.generate_dummy_inputs(preprocessor, *sizes, **named)[_IDS]}


def with_embeds(components: Sequence[Component], task: Task) -> tuple[Component, ...]:
    """Return the components of an export with one that takes `inputs_embeds`, and one of the token embeddings.

    It is the encoder of an encoder-decoder, else the graph that takes token ids. A decoder that generates gets the name
    that it has beside encoders of images. Components with token embeddings are returned as they are.

    Args:
        components: the components; the model of the changed one is run.
        task: the task.

    Raises:
        UnsupportedError: no graph takes token ids, or the model doesn't run with their embeddings.
    """
    if any(EMBEDS in component.config.inputs for component in components):
        return tuple(components)
    candidates = [one for one in components if _IDS in one.config.inputs and one.name != _DECODER]
    if not candidates:
        model = type(components[-1].model).__name__
        raise UnsupportedError(
            f"{model} has no graph whose token ids inputs_embeds could replace: leave out --inputs-embeds"
        )
    found = candidates[0]
    embedding = Component(_EMBEDDING, found.model, TokenEmbeddingOnnxConfig(found.config), found.preprocessor)
    name = _DECODER if found.name == _MODEL and task.name == "text-generation" else found.name
    described = replace(found, name=name, config=_with_embeds(found, embedding.config))
    others = (described if one is found else one for one in components)
    return (embedding, *others)


def _with_embeds(component: Component, embedding: OnnxConfig) -> EmbedsOnnxConfig:
    """Return the description of a graph with `inputs_embeds`, after running its model with them."""
    import torch

    model = cast("PreTrainedModel", component.model)
    name = type(model).__name__
    if getattr(text_config_of(model.config), "hidden_size_per_layer_input", 0):  # Gemma 3n and 4
        raise UnsupportedError(
            f"{name} computes inputs of each layer from token ids, which inputs_embeds don't have: leave out "
            "--inputs-embeds"
        )

    def failed(error: Exception) -> UnsupportedError | None:
        if isinstance(error, OnnxportError):
            return None
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return UnsupportedError(f"{name} doesn't run with inputs_embeds ({reason}): leave out --inputs-embeds")

    with translating(failed), torch.no_grad():
        tokens = embedding.generate_dummy_inputs(component.preprocessor, framework="pt")
        embeds = embedding.run(model, {_IDS: tokens[_IDS].to(next(model.parameters()).device)})[EMBEDS]
        config = EmbedsOnnxConfig(component.config, int(embeds.shape[-1]))
        layout = Layout(config, config.generate_dummy_inputs(component.preprocessor, framework="pt"))
        used = used_inputs(model, config, layout)
    if EMBEDS not in used:
        raise UnsupportedError(f"{name} doesn't use inputs_embeds: leave out --inputs-embeds")
    return config
