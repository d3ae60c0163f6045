"""MusicGen as a Transformers model, with the `generate` of its class: text in, audio out."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from onnxport.description.components import AUDIO_DECODER
from onnxport.errors import UnsupportedError
from onnxport.runtime.directory import Directory
from onnxport.runtime.encoder_decoders import OnnxSeq2Seq
from onnxport.runtime.graph import Graph, to_array
from onnxport.runtime.original_methods import with_methods

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


def musicgen_class(original: type[PreTrainedModel]) -> type[OnnxMusicgen]:
    """Return the class for exports of a class of Transformers, with its `generate`.

    Args:
        original: the class.
    """
    found: type[OnnxMusicgen] = with_methods(
        OnnxMusicgen, original, lambda name: name in _METHODS or name.startswith(_HOOKS)
    )
    return found
