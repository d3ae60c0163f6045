"""Describe decoders with a KV cache (the GPT family and Bloom), and the two components of vision encoder-decoders."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from packaging.version import Version

from onnxport.configs import OnnxConfig, OnnxConfigWithPast

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

    from onnxport.configs._dummies import Framework, Preprocessor

Axes = Mapping[str, Mapping[int, str]]


class DecoderOnnxConfig(OnnxConfigWithPast):
    """Describe a decoder with class attributes.

    Attributes:
        layers: configuration attribute with the number of layers.
        heads: configuration attribute with the number of attention heads.
    """

    layers: ClassVar[str] = "n_layer"
    heads: ClassVar[str] = "n_head"

    @property
    def inputs(self) -> Axes:
        """Inputs of the graph, with the cache between the token ids and the attention mask."""
        inputs: dict[str, Mapping[int, str]] = {"input_ids": {0: "batch", 1: "sequence"}}
        length = "sequence"
        if self.use_past:
            self._fill_inputs(inputs)
            length = "past_sequence + sequence"
        inputs["attention_mask"] = {0: "batch", 1: length}
        return inputs

    @property
    def num_layers(self) -> int:
        """Number of layers with a cache."""
        return int(getattr(self._config, self.layers))

    @property
    def num_attention_heads(self) -> int:
        """Number of attention heads per layer."""
        return int(getattr(self._config, self.heads))

    @property
    def default_onnx_opset(self) -> int:
        """Minimum opset, as in 4.37.2."""
        return 13

    def generate_dummy_inputs(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """Create dummy token inputs and a cache, in the order of `inputs`; see `OnnxConfigWithPast`."""
        generated = dict(super().generate_dummy_inputs(*args, **kwargs))
        order = ("input_ids", "past_key_values", "attention_mask")
        return {name: generated[name] for name in order if name in generated}

    def _fill_inputs(self, inputs: dict[str, Mapping[int, str]]) -> None:
        self.fill_with_past_key_values_(inputs, direction="inputs")


class GPT2OnnxConfig(DecoderOnnxConfig):
    """Describe GPT-2."""


class GPTJOnnxConfig(DecoderOnnxConfig):
    """Describe GPT-J."""


class CodeGenOnnxConfig(DecoderOnnxConfig):
    """Describe CodeGen."""


class GPTNeoOnnxConfig(DecoderOnnxConfig):
    """Describe GPT-Neo."""

    layers = "num_layers"
    heads = "num_heads"


class BloomOnnxConfig(DecoderOnnxConfig):
    """Describe Bloom, whose cache in 4.37.2 merged the heads into the batch axis and transposed the keys.

    The graph keeps that layout. Transformers 5's cache is [batch, heads, past, head_dim] for both keys and values, so
    it is converted at the graph's inputs and outputs.
    """

    torch_onnx_minimum_version = Version("1.12")

    @property
    def atol_for_validation(self) -> float:
        """Absolute tolerance of validation."""
        return 1e-3

    def generate_dummy_inputs(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """Create token inputs, keys [batch * heads, head_dim, past] and values [batch * heads, past, head_dim]."""
        inputs = dict(super().generate_dummy_inputs(*args, **kwargs))
        if self.use_past:
            inputs["past_key_values"] = [_merge_heads(layer) for layer in inputs["past_key_values"]]
        return inputs

    def past_to_cache(self, past: Any, arguments: Mapping[str, Any]) -> Any:
        """Split the heads from the batch axis and transpose the keys."""
        batch = arguments["input_ids"].shape[0]
        heads = self.num_attention_heads
        split = [
            (
                key.reshape(batch, heads, key.shape[1], key.shape[2]).transpose(2, 3),
                value.reshape(batch, heads, value.shape[1], value.shape[2]),
            )
            for key, value in past
        ]
        return super().past_to_cache(split, arguments)

    def cache_to_past(self, cache: Any) -> Any:
        """Merge the heads into the batch axis and transpose the keys."""
        return [_merge_heads(layer) for layer in super().cache_to_past(cache)]

    def _fill_inputs(self, inputs: dict[str, Mapping[int, str]]) -> None:
        self.fill_with_past_key_values_(inputs, direction="inputs", inverted_values_shape=True)


def _merge_heads(layer: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Reshape key and value, [batch, heads, past, head_dim], to [batch * heads, head_dim, past] and [.., head_dim]."""
    key, value = layer
    batch, heads, past, size = key.shape
    return key.transpose(-1, -2).reshape(batch * heads, size, past), value.reshape(batch * heads, past, size)


class VisionEncoderDecoderEncoderOnnxConfig(OnnxConfig):
    """Describe the encoder of a vision encoder-decoder."""

    torch_onnx_minimum_version = Version("1.11")

    @property
    def inputs(self) -> Axes:
        """Inputs of the graph."""
        return {"pixel_values": {0: "batch", 1: "num_channels", 2: "height", 3: "width"}}

    @property
    def outputs(self) -> Axes:
        """Outputs of the graph."""
        return {"last_hidden_state": {0: "batch", 1: "encoder_sequence"}}

    @property
    def atol_for_validation(self) -> float:
        """Absolute tolerance of validation."""
        return 1e-4


class VisionEncoderDecoderDecoderOnnxConfig(OnnxConfigWithPast):
    """Describe the decoder of a vision encoder-decoder."""

    @property
    def inputs(self) -> Axes:
        """Inputs of the graph."""
        return {
            "input_ids": {0: "batch", 1: "past_decoder_sequence + sequence"},
            "attention_mask": {0: "batch", 1: "past_decoder_sequence + sequence"},
            "encoder_hidden_states": {0: "batch", 1: "encoder_sequence"},
        }

    def generate_dummy_inputs(  # type: ignore[override]
        self,
        tokenizer: Preprocessor,
        batch_size: int = -1,
        seq_length: int = -1,
        is_pair: bool = False,
        framework: Framework = None,
    ) -> Mapping[str, Any]:
        """Create token inputs, and zeros as encoder hidden states, [batch, sequence, encoder_hidden_size]."""
        import torch

        inputs = super().generate_dummy_inputs(tokenizer, batch_size, seq_length, is_pair, framework)
        batch, length = inputs["input_ids"].shape
        hidden_states = torch.zeros(batch, length, self._config.encoder_hidden_size)
        return {
            "input_ids": inputs["input_ids"],
            "attention_mask": inputs["attention_mask"],
            "encoder_hidden_states": hidden_states,
        }


class VisionEncoderDecoderOnnxConfig(OnnxConfig):
    """Describe a vision encoder-decoder, which is exported as two graphs."""

    @property
    def inputs(self) -> Axes:  # type: ignore[override]
        """None: only the encoder and the decoder have inputs."""
        return None  # type: ignore[return-value]

    def get_encoder_config(self, encoder_config: PreTrainedConfig) -> OnnxConfig:
        """Return the description of the encoder."""
        return VisionEncoderDecoderEncoderOnnxConfig(encoder_config)

    def get_decoder_config(
        self, encoder_config: PreTrainedConfig, decoder_config: PreTrainedConfig, feature: str = "default"
    ) -> OnnxConfig:
        """Return the description of the decoder; the encoder's hidden size is set in a copy of its configuration."""
        config = copy.copy(decoder_config)
        config.encoder_hidden_size = encoder_config.hidden_size
        return VisionEncoderDecoderDecoderOnnxConfig(config, feature)
