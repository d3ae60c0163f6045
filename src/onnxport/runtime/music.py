"""MusicGen as a Transformers model, with the `generate` of its class: text, and a melody, in, audio out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel

from onnxport._transformers_api import cache_name
from onnxport.description.components import AUDIO_DECODER, PROJECTIONS
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime.arguments import check_arguments
from onnxport.runtime.cache import OnnxCache
from onnxport.runtime.directory import Directory
from onnxport.runtime.encoder_decoders import OnnxEncoder, OnnxSeq2Seq
from onnxport.runtime.graph import Graph, to_array
from onnxport.runtime.models import GenerativeModel
from onnxport.runtime.original_methods import with_methods
from onnxport.runtime.outputs import model_output

if TYPE_CHECKING:
    from transformers.utils import ModelOutput

_METHODS = ("generate", "get_unconditional_inputs")
_HOOKS = ("_prepare_", "_maybe_initialize_", "_get_decoder_start_")
"""Prefixes of the methods that the `generate` of a class calls, and that differ from those of `GenerationMixin`."""


class CodesDecoder:
    """Make audio of codes like a codec of Transformers.

    Args:
        graph: the graph.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def decode(self, audio_codes: torch.Tensor, audio_scales: Sequence[Any] = ()) -> SimpleNamespace:
        """Decode codes.

        Args:
            audio_codes: [1, batch, codebooks, frames].
            audio_scales: None for each chunk: generated audio isn't normalized.

        Returns:
            `audio_values`, [batch, channels, samples].

        Raises:
            UnsupportedError: there are scales.
        """
        if any(scale is not None for scale in audio_scales):
            raise UnsupportedError(f"{self._graph.file} decodes audio without scales: run the original in PyTorch")
        (audio,) = self._graph.run({"audio_codes": audio_codes.numpy()}).values()
        return SimpleNamespace(audio_values=torch.from_numpy(to_array(audio)))


class OnnxMusicgen(OnnxSeq2Seq):
    """Run MusicGen like a Transformers model; `musicgen_class` returns the class with `generate`.

    Attributes:
        text_encoder: runs the graph of the encoder.
        audio_encoder: runs the graph that makes audio of codes.
        decoder: the original decoder without weights, which delays the codes of each codebook.
    """

    encoder_name = "text_encoder"
    output_modalities = ("audio",)

    def __init__(self, directory: Directory, config: PreTrainedConfig) -> None:
        super().__init__(directory, config)
        self.text_encoder = self.encoder
        self.audio_encoder = CodesDecoder(directory.graph(AUDIO_DECODER))
        self.decoder = self._original.decoder


class OnnxMusicgenMelody(GenerativeModel, GenerationMixin):  # type: ignore[misc]
    """Run MusicGen Melody like a Transformers model; `musicgen_class` returns the class with `generate`.

    Attributes:
        text_encoder: the original encoder without weights, for its configuration.
        enc_to_dec_proj: projects the states of the text encoder.
        audio_enc_to_dec_proj: projects the melody.
        audio_encoder: runs the graph that makes audio of codes.
        decoder: the original decoder without weights, which delays the codes of each codebook.
    """

    decoder_name = "decoder_model_merged"
    output_modalities = ("audio",)
    _handled = ("decoder_input_ids", "decoder_attention_mask", "decoder_delay_pattern_mask", "encoder_hidden_states")

    def __init__(self, directory: Directory, config: PreTrainedConfig) -> None:
        super().__init__(directory, config)
        self._encoder = OnnxEncoder(self._main_graph())
        self.audio_encoder = CodesDecoder(directory.graph(AUDIO_DECODER))
        self.text_encoder, self.decoder = self._original.text_encoder, self._original.decoder
        for name, (layer, _) in PROJECTIONS.items():
            if directory.has(name):
                setattr(self, layer, partial(_project, directory.graph(name)))

    def _main_graph(self) -> Graph:
        return self.directory.graph("text_encoder")

    def get_encoder(self, modality: str | None = None) -> OnnxEncoder:
        """Return the encoder of text."""
        return self._encoder

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        past_key_values: OnnxCache | None = None,
        cache: OnnxCache | None = None,
        use_cache: bool | None = None,
        **others: Any,
    ) -> ModelOutput:
        """Run one step.

        Args:
            input_ids: token ids of the text, [batch, length].
            attention_mask: its mask, [batch, length].
            input_features: chroma of the melody, [batch, frames, num_chroma].
            decoder_input_ids: codes, [batch * codebooks, frames].
            decoder_attention_mask: ones, [batch, frames].
            encoder_hidden_states: embeddings of melody and text, [batch, length, hidden_size]; computed if None, and
                there is a text or a melody.
            past_key_values: the cache of earlier steps; it is updated in place.
            cache: the same, as Transformers 5.24 calls it.
            use_cache: return a cache, even if none was passed.
            **others: further arguments, which mustn't change the logits.

        Returns:
            `logits`, [batch * codebooks, length + frames, vocabulary], and the cache.

        Raises:
            OptionError: codes are missing, or an argument would change the logits.
        """
        check_arguments(self.directory, {"decoder_attention_mask": decoder_attention_mask, **others})
        if decoder_input_ids is None:
            raise OptionError(
                "decoder_input_ids are missing: pass codes, [batch * codebooks, frames], or call generate"
            )
        cache = past_key_values if cache is None else cache
        if encoder_hidden_states is None and (input_ids is not None or input_features is not None):
            encoder_hidden_states = self._conditions(input_ids, attention_mask, input_features)
        codes = decoder_input_ids.numpy()
        batch = len(codes) // self.decoder.num_codebooks
        if encoder_hidden_states is None:
            encoder_hidden_states = torch.zeros(batch, 0, self.config.decoder.hidden_size, dtype=self.dtype)
        feed = {"input_ids": codes, "encoder_hidden_states": encoder_hidden_states.numpy()}
        cache = OnnxCache(self._decoder) if cache is None and use_cache else cache
        tensors = self._decoder.empty_cache(batch) if cache is None else cache.get_or_create(batch)
        count = encoder_hidden_states.shape[1] + codes.shape[1]
        logits = torch.from_numpy(self._decoder.advance(feed, tensors, count, ("logits",))["logits"])
        return model_output({"logits": logits, cache_name(): cache, "encoder_hidden_states": encoder_hidden_states})

    def _conditions(self, input_ids: Any, attention_mask: Any, input_features: Any) -> torch.Tensor:
        """Return the embeddings of a melody and a text, as `generate` makes them without guidance."""
        inputs = {"attention_mask": attention_mask, "input_features": input_features}
        settings = GenerationConfig(output_attentions=False, output_hidden_states=False)
        prepare = self._prepare_encoder_hidden_states_kwargs_for_generation  # type: ignore[attr-defined]
        found: torch.Tensor = prepare(input_ids, inputs, "input_ids", settings)["encoder_hidden_states"]
        return found


def _project(graph: Graph, hidden_states: torch.Tensor) -> torch.Tensor:
    (name,) = graph.inputs
    (projected,) = graph.run({name: hidden_states.numpy()}).values()
    return torch.from_numpy(to_array(projected))


def musicgen_class(original: type[PreTrainedModel]) -> type[OnnxMusicgen | OnnxMusicgenMelody]:
    """Return the class for exports of a class of Transformers, with its `generate`.

    Args:
        original: the class.
    """
    base = OnnxMusicgen if hasattr(original, "get_unconditional_inputs") else OnnxMusicgenMelody
    found: type[OnnxMusicgen | OnnxMusicgenMelody] = with_methods(
        base, original, lambda name: name in _METHODS or name.startswith(_HOOKS)
    )
    return found
