"""Text to speech, frame by frame, as Transformers' SpeechT5: text in, a spectrogram or, with a vocoder, audio out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedConfig

from onnxport.description.components import POSTNET
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.directory import Directory
from onnxport.runtime.graph import Graph, to_array
from onnxport.runtime.light import encode_for_decoder
from onnxport.runtime.models import OnnxModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensor = torch.Tensor | NDArray[Any]
    Vocoder = OnnxModel | Callable[[torch.Tensor], torch.Tensor]

_BATCHED = 3
"""Number of axes of a batch of spectrograms."""


class OnnxTextToSpeech(OnnxModel):
    """Run SpeechT5 like a Transformers model, without the dropout that its prenet applies at random."""

    output_modalities = ("audio",)

    def __init__(self, directory: Directory, config: PreTrainedConfig) -> None:
        self._decoder = Decoder(directory.graph("decoder_model_merged"))
        self.generation_config = GenerationConfig()
        super().__init__(directory, config)

    def _main_graph(self) -> Graph:
        return self.directory.graph("encoder_model")

    def can_generate(self) -> bool:
        """Return True."""
        return True

    def forward(self, *_: Any, **__: Any) -> Any:
        """Refuse a call, in which the original takes the frames that it would generate.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            f"{self.directory.path} generates speech step by step: call generate_speech, or export "
            "--task text-to-audio, a single graph that takes the frames of all steps"
        )

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        speaker_embeddings: Tensor | None = None,
        **settings: Any,
    ) -> Any:
        """Generate speech; see `generate_speech`, whose parameters are in another order.

        Args:
            input_ids: token ids, [batch, length].
            attention_mask: [batch, length]; padding tokens are masked by default.
            speaker_embeddings: [batch, speaker_embedding_dim], or [1, speaker_embedding_dim] for one speaker.
            **settings: those of `generate_speech`; others are ignored, as in the original.
        """
        known = {field.name for field in fields(_Settings)}
        taken = {name: value for name, value in settings.items() if name in known}
        return self.generate_speech(input_ids, speaker_embeddings, attention_mask, **taken)

    def generate_speech(
        self,
        input_ids: Tensor,
        speaker_embeddings: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **settings: Any,
    ) -> torch.Tensor | tuple[torch.Tensor, list[int]]:
        """Generate speech.

        Args:
            input_ids: token ids, [batch, length].
            speaker_embeddings: [batch, speaker_embedding_dim], or [1, speaker_embedding_dim] for one speaker.
            attention_mask: [batch, length]; padding tokens are masked by default.
            **settings: `threshold` (0.5): a sequence ends with the step whose probabilities of being the last sum up to
                it; `minlenratio` (0) and `maxlenratio` (20): least and largest number of frames for each token;
                `vocoder`: computes audio of spectrograms: a model of Transformers such as `SpeechT5HifiGan`, or an
                export of it that was loaded; `return_output_lengths`: also return the length of each sequence, and
                keep the batch axis of one sequence.

        Returns:
            Spectrograms, [batch, frames, num_mel_bins], or audio, [batch, samples], padded with zeros; without the
            batch axis for one sequence. With `return_output_lengths`, a tuple with the lengths as well.

        Raises:
            OptionError: there are no speaker embeddings, or as many as neither 1 nor the batch.
            UnsupportedError: `output_cross_attentions` is set.
        """
        chosen = _Settings(**settings)
        if chosen.output_cross_attentions:
            raise UnsupportedError("no exported graph returns cross_attentions: run the original in PyTorch")
        speakers = _speakers_of(speaker_embeddings, len(input_ids))
        tokens = self._tokens(np.asarray(input_ids), attention_mask)
        encoded = encode_for_decoder(self._main_graph(), tokens, self._decoder.graph)
        steps = self._steps({**encoded, "speaker_embeddings": speakers})
        count = encoded["encoder_hidden_states"].shape[1] / self.config.reduction_factor
        limits = int(count * chosen.minlenratio), int(count * chosen.maxlenratio)
        spectrograms = self._spectrograms(steps, chosen.threshold, limits)
        return _result(spectrograms, chosen.vocoder, with_lengths=chosen.return_output_lengths)

    def _tokens(self, input_ids: NDArray[Any], attention_mask: Tensor | None) -> dict[str, NDArray[Any]]:
        """Return the inputs of the encoder.

        Raises:
            OptionError: the mask has padding tokens, and the graph takes no mask (a layout without it).
        """
        padding: int = self.config.pad_token_id
        mask = input_ids != padding if attention_mask is None else np.asarray(attention_mask) != 0
        if "attention_mask" in self._main_graph().inputs:
            return {"input_ids": input_ids, "attention_mask": mask.astype(np.int64)}
        if (mask & (input_ids == padding)).any():
            raise OptionError(
                f"attention_mask has padding tokens (id {padding}), which {self._main_graph().file} masks: export in "
                "the default layout"
            )
        return {"input_ids": np.where(mask, input_ids, padding)}

    def _steps(self, feed: dict[str, NDArray[Any]]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Yield the frames of each step, [batch, frames, mel bins], and their probabilities of being the last ones."""
        graph, batch = self._decoder.graph, len(feed["encoder_hidden_states"])
        cache, mel_bins = self._decoder.empty_cache(batch), self.config.num_mel_bins
        sequence = np.zeros((batch, 1, mel_bins), dtype=graph.inputs["output_sequence"].dtype)
        while True:
            step = self._decoder.advance({**feed, "output_sequence": sequence}, cache, 1, _OUTPUTS)
            sequence = step["output_sequence_out"]
            yield step["spectrum"].reshape(batch, -1, mel_bins), step["prob"]

    def _spectrograms(
        self, steps: Iterator[tuple[NDArray[Any], NDArray[Any]]], threshold: float, limits: tuple[int, int]
    ) -> list[torch.Tensor]:
        """Return the refined spectrogram of each sequence, [frames, mel bins].

        Args:
            steps: frames and probabilities of each step.
            threshold: sum of a step's probabilities with which a sequence ends.
            limits: least and largest number of steps; there is at least one.
        """
        postnet, parts, finished = self.directory.graph(POSTNET), [], dict[int, torch.Tensor]()
        for frames, probabilities in steps:
            parts.append(frames)
            if len(parts) < limits[0]:
                continue
            ends = probabilities.sum(axis=-1) >= threshold if len(parts) < limits[1] else np.ones(len(frames), bool)
            ended = [index for index in map(int, np.flatnonzero(ends)) if index not in finished]
            if ended:
                (refined,) = postnet.run({"spectrogram": np.concatenate(parts, axis=1)[ended]}).values()
                finished |= dict(zip(ended, torch.from_numpy(to_array(refined)), strict=True))
            if len(finished) == len(frames):
                break
        return [finished[index] for index in sorted(finished)]


_OUTPUTS = ("spectrum", "prob", "output_sequence_out")


@dataclass(frozen=True)
class _Settings:
    """Hold the settings of `generate_speech`, by Transformers' names."""

    threshold: float = 0.5
    minlenratio: float = 0.0
    maxlenratio: float = 20.0
    vocoder: Vocoder | None = None
    output_cross_attentions: bool = False
    return_output_lengths: bool = False


def _speakers_of(embeddings: Tensor | None, batch_size: int) -> NDArray[Any]:
    """Return the embedding of each sequence's speaker.

    Raises:
        OptionError: there are none, or as many as neither 1 nor the batch.
    """
    if embeddings is None:
        raise OptionError("speaker_embeddings are missing: pass the x-vector of a speaker, [1, speaker_embedding_dim]")
    found = np.asarray(embeddings)
    if len(found) not in (1, batch_size):
        raise OptionError(
            f"there are {len(found)} speaker_embeddings for {batch_size} sequences: pass 1, or {batch_size}"
        )
    return np.broadcast_to(found, (batch_size, *found.shape[1:]))


def _result(
    spectrograms: list[torch.Tensor], vocoder: Vocoder | None, *, with_lengths: bool
) -> torch.Tensor | tuple[torch.Tensor, list[int]]:
    """Return the result of `generate_speech` for the spectrogram of each sequence, [frames, mel bins]."""
    has_batch = with_lengths or len(spectrograms) > 1
    padded = torch.nn.utils.rnn.pad_sequence(spectrograms, batch_first=True) if has_batch else spectrograms[0]
    result = padded if vocoder is None else vocode(vocoder, padded)
    if not with_lengths:
        return result
    lengths = [len(one) for one in spectrograms]
    return result, lengths if vocoder is None else [int(result.shape[1] / max(lengths)) * count for count in lengths]


def vocode(vocoder: Vocoder, spectrogram: torch.Tensor) -> torch.Tensor:
    """Compute the audio of spectrograms.

    Args:
        vocoder: a model of Transformers, or an export of it that was loaded.
        spectrogram: [frames, num_mel_bins], or [batch, frames, num_mel_bins].

    Returns:
        Audio, [samples] or [batch, samples].
    """
    if not isinstance(vocoder, OnnxModel):
        with torch.no_grad():
            return vocoder(spectrogram)
    if spectrogram.dim() == _BATCHED:
        return vocoder(spectrogram)[0]  # type: ignore[no-any-return]
    return vocoder(spectrogram[None])[0][0]  # type: ignore[no-any-return]
