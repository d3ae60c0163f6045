"""Describe encoder-decoders: the BART family, the T5 family and Whisper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport.configs import OnnxConfig, OnnxConfigWithPast, OnnxSeq2SeqConfigWithPast
from onnxport.configs._dummies import extend_mask
from onnxport.configs.plain_tokenizer import plain_tokenizer

if TYPE_CHECKING:
    from onnxport.configs._dummies import Framework, Preprocessor

Axes = Mapping[str, Mapping[int, str]]


class TextSeq2SeqOnnxConfig(OnnxSeq2SeqConfigWithPast):
    """Describe a text-to-text encoder-decoder.

    Attributes:
        atol: absolute tolerance of validation.
        opset: minimum opset, as in 4.37.2.
        masked_past: whether the label of the encoder's mask is `past_encoder_sequence + sequence` (the T5 family).
    """

    atol: ClassVar[float] = 1e-5
    opset: ClassVar[int] = 11
    masked_past: ClassVar[bool] = False

    @property
    def inputs(self) -> Axes:
        """Inputs of the graph."""
        mask = "past_encoder_sequence + sequence" if self.use_past and self.masked_past else "encoder_sequence"
        inputs: dict[str, Mapping[int, str]] = {
            "input_ids": {0: "batch", 1: "encoder_sequence"},
            "attention_mask": {0: "batch", 1: mask},
        }
        if self.use_past:
            inputs["decoder_input_ids"] = {0: "batch"}
            inputs["decoder_attention_mask"] = {0: "batch", 1: "past_decoder_sequence + sequence"}
            self.fill_with_past_key_values_(inputs, direction="inputs")
        else:
            inputs["decoder_input_ids"] = {0: "batch", 1: "decoder_sequence"}
            inputs["decoder_attention_mask"] = {0: "batch", 1: "decoder_sequence"}
        return inputs

    @property
    def atol_for_validation(self) -> float:
        """Absolute tolerance of validation."""
        return self.atol

    @property
    def default_onnx_opset(self) -> int:
        """Minimum opset, as in 4.37.2."""
        return self.opset


class T5OnnxConfig(TextSeq2SeqOnnxConfig):
    """Describe T5."""

    opset = 13
    masked_past = True


class LongT5OnnxConfig(T5OnnxConfig):
    """Describe LongT5."""


class MT5OnnxConfig(T5OnnxConfig):
    """Describe mT5."""

    atol = 5e-4


class UMT5OnnxConfig(T5OnnxConfig):
    """Describe UMT5."""

    atol = 5e-4


class M2M100OnnxConfig(TextSeq2SeqOnnxConfig):
    """Describe M2M100 and NLLB."""

    def generate_dummy_inputs(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """Create dummy token inputs and a cache, which the decoder's mask includes."""
        inputs = dict(super().generate_dummy_inputs(*args, **kwargs))
        if self.use_past:
            past = inputs["past_key_values"][0][0].shape[2]
            inputs["decoder_attention_mask"] = extend_mask(inputs["decoder_attention_mask"], past)
        return inputs


class BartOnnxConfig(M2M100OnnxConfig):
    """Describe BART: an encoder-decoder, or its decoder alone (`causal-lm`).

    Attributes:
        causal_past_beyond: number of tokens by which the cache is longer than the input, in dummy inputs of the decoder
            alone.
    """

    causal_past_beyond: ClassVar[int] = 2

    @property
    def inputs(self) -> Axes:
        """Inputs of the graph.

        Classification and question answering list the decoder's inputs, as in 4.37.2, but have no dummy inputs for
        them.
        """
        if self.task != "causal-lm":
            return super().inputs
        inputs: dict[str, Mapping[int, str]] = {
            "input_ids": {0: "batch", 1: "encoder_sequence"},
            "attention_mask": {0: "batch", 1: "encoder_sequence"},
        }
        if self.use_past:
            self._fill_decoder_cache(inputs, "past_key_values")
        return inputs

    @property
    def outputs(self) -> Axes:
        """Outputs of the graph."""
        if self.task in ("default", "seq2seq-lm"):
            return super().outputs
        outputs = dict(OnnxConfig.outputs.fget(self))  # type: ignore[attr-defined]
        if self.use_past:
            self._fill_decoder_cache(outputs, "present")
        return outputs

    def generate_dummy_inputs(  # type: ignore[override]  # narrower by contract
        self,
        tokenizer: Preprocessor,
        batch_size: int = -1,
        seq_length: int = -1,
        is_pair: bool = False,
        framework: Framework = None,
    ) -> Mapping[str, Any]:
        """Create dummy token inputs and a cache; see `OnnxSeq2SeqConfigWithPast`."""
        if self.task in ("default", "seq2seq-lm"):
            return super().generate_dummy_inputs(tokenizer, batch_size, seq_length, is_pair, framework)
        framework = self._cache_framework(framework)
        sizes: dict[str, Any] = {
            "batch_size": batch_size,
            "seq_length": seq_length,
            "is_pair": is_pair,
            "framework": framework,
        }
        inputs = dict(OnnxConfig.generate_dummy_inputs(self, tokenizer, **sizes))
        if self.use_past:
            import torch

            batch, length = inputs["input_ids"].shape
            past = length + self.causal_past_beyond
            heads = self.num_attention_heads[1]
            zeros = torch.zeros(batch, heads, past, self._config.hidden_size // heads)
            inputs["attention_mask"] = extend_mask(inputs["attention_mask"], past)
            inputs["past_key_values"] = [(zeros.clone(), zeros.clone()) for _ in range(self.num_layers[1])]
        return inputs

    def flatten_output_collection_property(  # type: ignore[override]  # an instance method by contract
        self, name: str, field: Any
    ) -> dict[str, Any]:
        """Flatten a cache with four tensors per layer, or two for the decoder alone."""
        if self.task == "causal-lm":
            flattened: dict[str, Any] = {}
            for layer, tensors in enumerate(field):
                OnnxConfigWithPast._flatten_past_key_values_(self, flattened, name, layer, tensors)
            return flattened
        return super().flatten_output_collection_property(name, field)

    def _fill_decoder_cache(self, names: dict[str, Mapping[int, str]], name: str) -> None:
        for layer in range(self.num_layers[1]):
            for tensor in ("key", "value"):
                names[f"{name}.{layer}.{tensor}"] = {0: "batch", 2: "past_sequence + sequence"}


class BigBirdPegasusOnnxConfig(BartOnnxConfig):
    """Describe BigBird-Pegasus."""


class BlenderbotOnnxConfig(BartOnnxConfig):
    """Describe Blenderbot."""

    causal_past_beyond = 0
    past_beyond_decoder = 0


class BlenderbotSmallOnnxConfig(BartOnnxConfig):
    """Describe Blenderbot small."""


class MarianOnnxConfig(BartOnnxConfig):
    """Describe Marian."""

    atol = 1e-4


class MBartOnnxConfig(BartOnnxConfig):
    """Describe mBART."""


class PLBartOnnxConfig(BartOnnxConfig):
    """Describe PLBart."""


class WhisperOnnxConfig(OnnxSeq2SeqConfigWithPast):
    """Describe Whisper, which generates token ids from log-mel spectrograms."""

    @property
    def inputs(self) -> Axes:
        """Inputs of the graph."""
        inputs: dict[str, Mapping[int, str]] = {
            "input_features": {0: "batch", 1: "feature_size", 2: "encoder_sequence"},
            "decoder_input_ids": {0: "batch"} if self.use_past else {0: "batch", 1: "decoder_sequence"},
        }
        if self.use_past:
            self.fill_with_past_key_values_(inputs, direction="inputs")
        return inputs

    @property
    def atol_for_validation(self) -> float:
        """Absolute tolerance of validation."""
        return 1e-3

    def generate_dummy_inputs(  # type: ignore[override]  # the original's signature
        self,
        preprocessor: Preprocessor,
        batch_size: int = -1,
        seq_length: int = -1,
        is_pair: bool = False,
        framework: Framework = None,
        sampling_rate: int = 22050,
        time_duration: float = 5.0,
        frequency: int = 220,
    ) -> Mapping[str, Any]:
        """Create dummy audio features, decoder token ids and, with past, a cache.

        Args:
            preprocessor: a Whisper processor, or its feature extractor.
            batch_size: batch size; -1 for the default.
            seq_length: length of the decoder's sequences; -1 for the default.
            is_pair: whether to create pairs of sequences.
            framework: `pt` or `np`.
            sampling_rate: sampling rate of the audio in Hz, if the feature extractor doesn't define one.
            time_duration: duration of the audio, in seconds.
            frequency: frequency of the sine wave, in Hz.
        """
        framework = self._cache_framework(framework)
        generate = OnnxConfig.generate_dummy_inputs
        audio = generate(
            self,
            getattr(preprocessor, "feature_extractor", preprocessor),
            batch_size=batch_size,
            framework=framework,
            sampling_rate=sampling_rate,
            time_duration=time_duration,
            frequency=frequency,
        )
        features = audio["input_features"]
        frames = features.shape[2] // 2  # the encoder's second convolution has stride 2
        length = 1 if self.use_past else seq_length
        tokenizer = getattr(preprocessor, "tokenizer", None) or plain_tokenizer(self._config)
        token_ids = self._token_ids(tokenizer, batch_size, length, is_pair, framework)
        inputs: dict[str, Any] = {"input_features": features, "decoder_input_ids": token_ids}
        if self.use_past:
            inputs["past_key_values"] = self._dummy_cache({"input_ids": features[:, 0, :frames], **inputs}, framework)
        return inputs

    def _token_ids(
        self, tokenizer: Preprocessor, batch_size: int, length: int, is_pair: bool, framework: Framework
    ) -> Any:
        return OnnxConfig.generate_dummy_inputs(
            self, tokenizer, batch_size=batch_size, seq_length=length, is_pair=is_pair, framework=framework
        )["input_ids"]
