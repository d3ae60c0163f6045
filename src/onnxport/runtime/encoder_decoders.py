"""Encoder-decoders as Transformers models: text, speech and images in, text out."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import GenerationMixin, PreTrainedConfig
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin
from transformers.utils import ModelOutput

from onnxport.description.encoder_outputs import completed_modalities
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime import modalities
from onnxport.runtime.arguments import check_arguments
from onnxport.runtime.cache import OnnxCache
from onnxport.runtime.directory import Directory
from onnxport.runtime.graph import Graph, to_array
from onnxport.runtime.light import complete_inputs
from onnxport.runtime.models import MODALITIES, GenerativeModel, as_arrays, taken_by
from onnxport.runtime.outputs import model_output
from onnxport.runtime.token_embedding import EMBEDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensor = torch.Tensor | NDArray[Any]


class OnnxEncoder:
    """Run the encoder of an encoder-decoder like that of a Transformers model.

    Args:
        graph: the encoder's graph.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.main_input_name = next(name for name in MODALITIES if name in taken_by(graph))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        input_values: Tensor | None = None,
        pixel_values: Tensor | None = None,
        **kwargs: Any,  # `generate` passes the encoder's other inputs only to a parameter of this name
    ) -> ModelOutput:
        """Return the encoder's outputs, `last_hidden_state` [batch, sequence, hidden size] first.

        The mask that was passed, or that of an input without padding, follows as `attention_mask`.
        """
        inputs = {
            **kwargs,
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "input_features": input_features,
            "input_values": input_values,
            "pixel_values": pixel_values,
        }
        feed = complete_inputs(self.graph, as_arrays(inputs))
        outputs = {name: torch.from_numpy(to_array(value)) for name, value in self.graph.run(feed).items()}
        names = {name: name.removeprefix("encoder_") if name.startswith(_OF_ENCODER) else name for name in outputs}
        masks = {"attention_mask": torch.from_numpy(feed["attention_mask"])} if "attention_mask" in feed else {}
        return model_output({**{names[name]: value for name, value in outputs.items()}, **masks})

    __call__ = forward


_OF_ENCODER = ("encoder_hidden_states", "encoder_attentions", "encoder_router_logits")
"""Outputs of an encoder's graph whose names are those of the encoder-decoder's outputs."""


class OnnxEncoderDecoder(GenerativeModel):
    """Run an encoder-decoder like a Transformers model, step by step."""

    encoder_name = "encoder_model"
    decoder_name = "decoder_model_merged"
    _handled = ("decoder_attention_mask", "decoder_input_ids", "encoder_outputs", "labels")
    _optional_outputs = ("decoder_hidden_states", "decoder_attentions", "cross_attentions")

    def __init__(self, directory: Directory, config: PreTrainedConfig) -> None:
        self.encoder = OnnxEncoder(directory.graph(self.encoder_name))
        config = copy.copy(config)  # the caller's config isn't modified
        config.is_encoder_decoder = True  # BLIP's configuration class leaves it False
        super().__init__(directory, config)

    def _main_graph(self) -> Graph:
        return self.encoder.graph

    def get_encoder(self, modality: str | None = None) -> OnnxEncoder:
        """Return the encoder."""
        return self.encoder

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_position_ids: Tensor | None = None,
        encoder_outputs: ModelOutput | None = None,
        past_key_values: OnnxCache | None = None,
        cache: OnnxCache | None = None,
        use_cache: bool | None = None,
        input_features: Tensor | None = None,
        input_values: Tensor | None = None,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        **encoder_inputs: Any,
    ) -> ModelOutput:
        """Run one step.

        Args:
            input_ids: the encoder's token ids, [batch, length], for text encoders; the decoder's for an encoder that
                takes none (BLIP).
            attention_mask: mask of these, or of the encoder's other input, [batch, length].
            decoder_input_ids: token ids, [batch, tokens].
            decoder_attention_mask: [batch, cached tokens + tokens], 0 for padding, which may only follow the tokens
                unless it is an input of the decoder's graph.
            decoder_position_ids: must be those of tokens without padding, [batch, tokens], as the graph counts them.
            encoder_outputs: the encoder's outputs; computed if None.
            past_key_values: the cache of earlier steps; it is updated in place.
            cache: the same, as Transformers 5.24 calls it.
            use_cache: return a cache, even if none was passed.
            input_features: the encoder's spectrogram, for audio encoders.
            input_values: the encoder's waveform, for audio encoders.
            pixel_values: the encoder's images, for vision encoders.
            labels: ignored; Donut's processor returns them for every prompt.
            **encoder_inputs: further inputs of the encoder, such as `global_attention_mask` (LED),
                `flattened_patches` (Pix2Struct) and `bbox` (UDOP).

        Returns:
            `logits` [batch, tokens, vocabulary], or `last_hidden_state` [batch, tokens, hidden size] of a model without
            a head, the cache, `encoder_last_hidden_state`, and the other outputs of both graphs.

        Raises:
            OptionError: `decoder_attention_mask` masks a token before others, `decoder_position_ids` aren't those of
                the graph, or an argument would change the logits, and no graph takes it.
        """
        is_masked = "attention_mask" in self._decoder.graph.inputs
        takes_tokens = "input_ids" in taken_by(self.encoder.graph)
        if input_ids is not None and decoder_input_ids is None and not takes_tokens:
            decoder_input_ids, decoder_attention_mask, attention_mask = input_ids, attention_mask, None
        if not is_masked:
            _check_decoder_mask(decoder_attention_mask)
        cache = past_key_values if cache is None else cache
        self._check_positions("decoder_position_ids", decoder_position_ids, cache)
        main = {"input_features": input_features, "input_values": input_values, "pixel_values": pixel_values}
        check_arguments(self.directory, {"attention_mask": attention_mask, **main, **encoder_inputs}, self._handled)
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids, attention_mask, input_features, input_values, pixel_values, **encoder_inputs
            )
        hidden_states = encoder_outputs[0]
        feed = {"input_ids": decoder_input_ids, "encoder_hidden_states": hidden_states}
        if is_masked:
            feed["attention_mask"] = decoder_attention_mask
        if "encoder_attention_mask" in self._decoder.graph.inputs:
            feed["encoder_attention_mask"] = self._encoder_mask(attention_mask, encoder_outputs)
        step = self._step(feed, cache, use_cache)
        own = dict(encoder_outputs) if isinstance(encoder_outputs, Mapping) else {}
        others = {name: own.get(name.removeprefix("encoder_")) for name in _OF_ENCODER}
        is_last = not own or "last_hidden_state" in own  # PP-FormulaNet's decoder takes a projection of them
        named = {**({"encoder_last_hidden_state": hidden_states} if is_last else {}), **others}
        return model_output({**step, **{name: value for name, value in named.items() if value is not None}})

    def _encoder_mask(self, attention_mask: Tensor | None, encoder_outputs: ModelOutput) -> Tensor:
        """Return the mask for cross-attention: the encoder's own, that of its input, or one without padding.

        Raises:
            OptionError: the graph takes a mask of the encoder's input (of the samples that SpeechT5 subsamples, for
                example), and neither it nor the encoder's outputs as `load` returns them were passed.
        """
        computed, of_input = (getattr(encoder_outputs, f"{part}attention_mask", None) for part in ("encoder_", ""))
        found = next((mask for mask in (computed, attention_mask, of_input) if mask is not None), None)
        if found is not None:
            return found
        inputs = self._decoder.graph.inputs
        if inputs["encoder_attention_mask"].axes[1] != inputs["encoder_hidden_states"].axes[1]:
            raise OptionError(
                "attention_mask: the decoder's graph needs the mask of the encoder's input, which encoder_outputs "
                "don't have; pass it, or ones without padding"
            )
        return torch.ones(encoder_outputs[0].shape[:2], dtype=torch.int64)


class OnnxSeq2Seq(OnnxEncoderDecoder, GenerationMixin):  # type: ignore[misc]
    """Run an encoder-decoder like a Transformers model, with Transformers' `generate`."""


class OnnxImageTextEncoder(OnnxEncoder):
    """Run an encoder of prompts with images as a module, of which the image encoder and the embeddings are graphs.

    Args:
        directory: the exported directory.
        config: the model's configuration.
    """

    def __init__(self, directory: Directory, config: PreTrainedConfig) -> None:
        super().__init__(directory.graph("encoder_model"))
        self._directory = directory
        self._modalities = completed_modalities(directory.modalities, config)

    def forward(  # type: ignore[override]
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, *others: Any, **kwargs: Any
    ) -> ModelOutput:
        """Return the encoder's outputs; see `OnnxEncoder`."""
        tokens = as_arrays({"tokens": kwargs.pop(EMBEDS, None) if input_ids is None else input_ids}).get("tokens")
        if tokens is None:
            raise OptionError("input_ids are missing: pass a prompt with a placeholder token for each image embedding")
        main = dict(zip(("input_features", "input_values", "pixel_values"), others, strict=False))
        features = modalities.encode(self._directory, self._modalities, as_arrays({**main, **kwargs}))
        embeds = modalities.embed_and_merge(self._directory, tokens, features)[EMBEDS]
        mask = np.ones(embeds.shape[:2], dtype=np.int64) if attention_mask is None else attention_mask
        return super().forward(attention_mask=mask, **{EMBEDS: embeds})

    __call__ = forward


class OnnxImageTextSeq2Seq(OnnxSeq2Seq):
    """Run an encoder-decoder of embeddings whose encoder of images is a graph of its own (Florence-2)."""

    def __init__(self, directory: Directory, config: PreTrainedConfig) -> None:
        super().__init__(directory, config)
        self.encoder = OnnxImageTextEncoder(directory, self.config)

    def _step(self, feed: Mapping[str, Tensor | None], *arguments: Any) -> dict[str, Any]:
        """Run the decoder on the embeddings of its tokens; see `GenerativeModel`."""
        embedding = self._decoder.graph.embedding
        assert embedding is not None
        embeds = embedding.embed(as_arrays(feed)["input_ids"])
        return super()._step({EMBEDS: embeds, **{k: v for k, v in feed.items() if k != "input_ids"}}, *arguments)


class OnnxCaptioner(OnnxSeq2Seq):
    """Run a text decoder with cross-attention to a vision model, whose own `generate` prepares its prompt (BLIP)."""

    def generate(self, *arguments: Any, decoder_input_ids: torch.Tensor | None = None, **settings: Any) -> Any:
        """Describe images; see the original's `generate`.

        Args:
            *arguments: the images, and further arguments of the original's `generate`.
            decoder_input_ids: the prompt without special tokens, [batch, tokens], instead of `input_ids`, in which the
                original replaces the first token and ignores the last one.
            **settings: see the original's `generate`.
        """
        if decoder_input_ids is not None:
            settings["input_ids"] = torch.nn.functional.pad(decoder_input_ids, (1, 1))
        text = self.config.text_config
        parts = SimpleNamespace(
            vision_model=lambda pixel_values, **_: self.encoder(pixel_values=pixel_values),
            text_decoder=SimpleNamespace(generate=self._continue),
            decoder_input_ids=text.bos_token_id,
            config=self.config,
        )
        assert self._original_class is not None
        return self._original_class.generate(parts, *arguments, **settings)

    def _continue(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
        **settings: Any,
    ) -> Any:
        """Generate as the original's text decoder does: after a prompt, with the outputs of its vision model."""
        settings |= {} if attention_mask is None else {"decoder_attention_mask": attention_mask}
        settings["decoder_start_token_id"] = int(input_ids[0, 0])  # `generate` inserts another one
        encoded = model_output({"last_hidden_state": encoder_hidden_states})
        return super().generate(encoder_outputs=encoded, decoder_input_ids=input_ids, **settings)


class OnnxTranslator(OnnxSeq2Seq):
    """Run a translator whose own `generate` takes the target language (SeamlessM4T)."""

    def generate(self, *arguments: Any, tgt_lang: str | None = None, **settings: Any) -> Any:
        """Translate; see Transformers' `generate`.

        Args:
            *arguments: see Transformers' `generate`.
            tgt_lang: language to translate to, such as `fra`; the decoder's first tokens otherwise decide about it.
            **settings: see Transformers' `generate`.

        Raises:
            OptionError: the generation config has no such language.
        """
        if tgt_lang is not None:
            codes: dict[str, int] = getattr(self.generation_config, "text_decoder_lang_to_code_id", {})
            index = codes.get(tgt_lang.replace("__", ""))
            if index is None:
                known = ", ".join(codes) or "none (it has no text_decoder_lang_to_code_id)"
                raise OptionError(
                    f"tgt_lang {tgt_lang!r} isn't among the languages of {self.directory.path}/generation_config.json: "
                    f"choose one of {known}"
                )
            passed = (*arguments, *settings.values())
            batch_size = next(len(value) for value in passed if isinstance(value, torch.Tensor))
            settings["decoder_input_ids"] = torch.full((batch_size, 1), index)
        return super().generate(*arguments, **settings)


def prompts_decoder(model_class: type) -> bool:
    """Return whether the `generate` of a Transformers class is that of its text decoder, after a prompt of its own."""
    generate = inspect.unwrap(getattr(model_class, "generate", GenerationMixin.generate))
    return {"vision_model", "text_decoder"} <= set(generate.__code__.co_names)


def _check_decoder_mask(mask: Tensor | None) -> None:
    if mask is None:
        return
    values = np.asarray(mask)
    if (values[:, 1:] > values[:, :-1]).any():
        raise OptionError(
            "decoder_attention_mask masks a token before others, but the exported decoder attends to all earlier "
            "tokens: put padding after the tokens"
        )


class OnnxSpeechSeq2Seq(OnnxSeq2Seq, WhisperGenerationMixin):  # type: ignore[misc]
    """Run Whisper with Transformers' Whisper `generate`, for audio of any length and with timestamps."""

    def __init__(self, directory: Directory, config: PreTrainedConfig) -> None:
        super().__init__(directory, config)
        # Whisper's generate reads the strides of the encoder's convolutions to convert frames to seconds. For
        # timestamps of tokens, it sets the attention implementation.
        convolutions = SimpleNamespace(conv1=SimpleNamespace(stride=(1,)), conv2=SimpleNamespace(stride=(2,)))
        self.model = SimpleNamespace(encoder=convolutions, config=copy.copy(config))

    def __call__(self, *arguments: Any, **inputs: Any) -> ModelOutput:
        """Run one step; see `OnnxSeq2Seq.forward`."""
        outputs = super().__call__(*arguments, **inputs)
        absent = [name for name in self._optional_outputs if getattr(outputs, name) is None]
        vars(outputs).update(dict.fromkeys(absent, ()))  # Whisper's generate iterates over all of them
        return outputs

    def generate(self, *arguments: Any, return_token_timestamps: bool | None = None, **settings: Any) -> Any:
        """Transcribe or translate audio; see `WhisperGenerationMixin.generate`.

        Args:
            *arguments: the input features, and further arguments of Whisper's `generate`.
            return_token_timestamps: return the time of each token, which is computed from the attention weights of a
                decoder that was exported with `--outputs cross_attentions`.
            **settings: see Whisper's `generate`.

        Raises:
            UnsupportedError: token timestamps are requested, and the decoder returns no attention weights.
        """
        if return_token_timestamps and "cross_attentions.0" not in self._decoder.others:
            raise UnsupportedError(
                "token and word timestamps are computed from attention weights, which the exported decoder doesn't "
                "return; export with --outputs cross_attentions, or use return_timestamps=True, the timestamps of "
                "segments"
            )
        return super().generate(*arguments, return_token_timestamps=return_token_timestamps, **settings)
