"""Bark as a Transformers model, with the `generate` of its classes: text in, audio out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig
from transformers.models.bark import modeling_bark

from onnxport._transformers_api import cache_argument
from onnxport.description.components import AUDIO_DECODER
from onnxport.errors import UnsupportedError
from onnxport.runtime.directory import Directory
from onnxport.runtime.graph import Graph, to_array
from onnxport.runtime.models import GenerativeModel, OnnxModel
from onnxport.runtime.music import CodesDecoder
from onnxport.runtime.original_methods import with_methods
from onnxport.runtime.outputs import model_output
from onnxport.runtime.token_embedding import EMBEDS

if TYPE_CHECKING:
    from transformers.utils import ModelOutput

SEMANTIC_MODEL = "semantic_model"
"""Name of the graph that generates semantic tokens."""


class _Causal(GenerativeModel, GenerationMixin):  # type: ignore[misc]
    """Run the semantic or the coarse model; it has the original's `generate`.

    Args:
        directory: the exported directory.
        config: configuration of this model.
        name: name of its graph.
    """

    def __init__(self, directory: Directory, config: PreTrainedConfig, name: str) -> None:
        self.decoder_name = name
        super().__init__(directory, config)
        self.main_input_name = "input_ids"

    def _main_graph(self) -> Graph:
        return self.directory.graph(self.decoder_name)

    def input_embeds_layer(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of semantic tokens, [batch, tokens, hidden_size]."""
        graph = self.directory.graph("semantic_embed_tokens")
        (embeds,) = graph.run({"input_ids": input_ids.numpy()}).values()
        return torch.from_numpy(to_array(embeds))

    def prepare_inputs_for_generation(
        self, *arguments: Any, inputs_embeds: torch.Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Select the inputs of a step; Transformers looks for the parameter `inputs_embeds`.

        Args:
            *arguments: the token ids; see Transformers.
            inputs_embeds: embeddings of the prompt.
            **kwargs: see Transformers.

        Returns:
            Arguments of `forward`.
        """
        return super().prepare_inputs_for_generation(*arguments, inputs_embeds=inputs_embeds, **kwargs)

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **others: Any,  # the cache, by the name that the version of Transformers has for it
    ) -> ModelOutput:
        """Run one step; see `OnnxCausalLM`."""
        feed = {"attention_mask": attention_mask, "position_ids": position_ids}
        if EMBEDS not in self._decoder.graph.inputs:
            feed = {"input_ids": input_ids, **feed}
        else:
            given = inputs_embeds is None and input_ids is not None
            feed = {EMBEDS: self.input_embeds_layer(input_ids) if given else inputs_embeds, **feed}  # type: ignore[arg-type]
        return model_output(self._step(feed, cache_argument(others), use_cache))


class _Fine:
    """Run the fine model; it has the original's `generate`.

    Args:
        graph: its graph.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def forward(self, codebook_idx: int, input_ids: torch.Tensor) -> SimpleNamespace:
        """Return the `logits` of a codebook's codes, [batch, frames, codes]."""
        feed = {"codebook_idx": np.array([codebook_idx]), "input_ids": input_ids.numpy()}
        (logits,) = self._graph.run(feed).values()
        return SimpleNamespace(logits=torch.from_numpy(to_array(logits)))


class OnnxBark(OnnxModel):
    """Run Bark like a Transformers model; `bark` returns one with the original's `generate`.

    Attributes:
        semantic: generates semantic tokens from text.
        coarse_acoustics: generates the codes of the first codebooks from them.
        fine_acoustics: predicts the codes of the others.
    """

    output_modalities = ("audio",)

    def __init__(self, directory: Directory, config: PreTrainedConfig) -> None:
        super().__init__(directory, config)
        self.main_input_name, self.input_modalities = "input_ids", ("text",)
        parts = modeling_bark.BarkSemanticModel, modeling_bark.BarkCoarseModel, modeling_bark.BarkFineModel
        semantic, coarse, fine = (
            with_methods(base, part, _METHODS.__contains__)
            for base, part in zip((_Causal, _Causal, _Fine), parts, strict=True)
        )
        self.semantic = semantic(directory, config.semantic_config, SEMANTIC_MODEL)
        self.coarse_acoustics = coarse(directory, config.coarse_acoustics_config, "coarse_model")
        self.fine_acoustics = fine(directory.graph("fine_model"))
        self._codec = CodesDecoder(directory.graph(AUDIO_DECODER)) if directory.has(AUDIO_DECODER) else None
        self.generation_config = GenerationConfig.from_pretrained(directory.path, local_files_only=True)

    def _main_graph(self) -> Graph:
        return self.directory.graph(SEMANTIC_MODEL)

    def can_generate(self) -> bool:
        """Return True."""
        return True

    def forward(self, *_: Any, **__: Any) -> Any:
        """Refuse a call: the original has none, either.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(f"{self.directory.path} generates audio with several models: call generate")

    def codec_decode(
        self, fine_output: torch.Tensor, output_lengths: torch.Tensor | None = None
    ) -> torch.Tensor | list[torch.Tensor]:
        """Make audio of codes.

        Args:
            fine_output: [batch, codebooks, frames].
            output_lengths: number of frames of each sequence, [batch].

        Returns:
            Audio, [batch, samples]; with lengths, a list with that of each sequence, [samples].

        Raises:
            UnsupportedError: the directory was exported by an earlier version, without the codec.
        """
        if self._codec is None:
            raise UnsupportedError(f"{self.directory.path} has no graph {AUDIO_DECODER}: export it again")
        if output_lengths is None:
            return self._decode(fine_output)
        cut = (codes[None, :, :count] for codes, count in zip(fine_output, output_lengths, strict=True))
        return [self._decode(codes)[0] for codes in cut]

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        assert self._codec is not None
        audio: torch.Tensor = self._codec.decode(codes[None]).audio_values
        return audio.squeeze(1)


_METHODS = ("generate", "preprocess_histories")
"""Methods of the original classes that compute with their models' outputs only."""


def bark(directory: Directory, config: PreTrainedConfig) -> OnnxBark:
    """Return the model for an export of Bark.

    Args:
        directory: the exported directory.
        config: its configuration.
    """
    found: OnnxBark = with_methods(OnnxBark, modeling_bark.BarkModel, _METHODS.__contains__)(directory, config)
    return found
