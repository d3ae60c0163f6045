"""Decoders with a key/value cache: the GPT family and Bloom."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from packaging.version import Version

from onnxport.configs import OnnxConfig, OnnxConfigWithPast

Axes = Mapping[str, Mapping[int, str]]


class DecoderOnnxConfig(OnnxConfigWithPast):
    """Describe a decoder by its class attributes.

    Attributes:
        layers: name of the configuration's number of layers.
        heads: name of the configuration's number of attention heads.
    """

    layers: ClassVar[str] = "n_layer"
    heads: ClassVar[str] = "n_head"

    @property
    def inputs(self) -> Axes:
        """Inputs of the graph; the cache stands between the tokens and their mask."""
        inputs: dict[str, Mapping[int, str]] = {"input_ids": {0: "batch", 1: "sequence"}}
        length = "sequence"
        if self.use_past:
            self._fill_inputs(inputs)
            length = "past_sequence + sequence"
        inputs["attention_mask"] = {0: "batch", 1: length}
        return inputs

    @property
    def num_layers(self) -> int:
        """Layers that have a cache."""
        return int(getattr(self._config, self.layers))

    @property
    def num_attention_heads(self) -> int:
        """Attention heads per layer."""
        return int(getattr(self._config, self.heads))

    @property
    def default_onnx_opset(self) -> int:
        """Lowest opset of the original."""
        return 13

    @property
    def model_values(self) -> Mapping[str, Any]:
        """Values for the trace: a classifier finds a text's last token by its padding, so there must be one."""
        values = dict(super().model_values)
        if getattr(self._config, "pad_token_id", None) is None:
            values["pad_token_id"] = 0
        return values

    def generate_dummy_inputs(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """Make texts and a cache, in the order of `inputs`; see `OnnxConfigWithPast`."""
        made = dict(super().generate_dummy_inputs(*args, **kwargs))
        order = ("input_ids", "past_key_values", "attention_mask")
        return {name: made[name] for name in order if name in made}

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
    """Describe Bloom, whose cache had the heads folded into the batch and the keys transposed.

    The graph keeps that layout; today's model has [batch, heads, past, head size] for both, so the cache is
    reshaped on its way in and out.
    """

    torch_onnx_minimum_version = Version("1.12")

    @property
    def atol_for_validation(self) -> float:
        """Largest absolute difference between the model and its graph that is still right."""
        return 1e-3

    def generate_dummy_inputs(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """Make texts and a cache of keys [batch * heads, size, past] and values [batch * heads, past, size]."""
        made = dict(super().generate_dummy_inputs(*args, **kwargs))
        if self.use_past:
            made["past_key_values"] = [_fold(layer) for layer in made["past_key_values"]]
        return made

    def past_to_cache(self, past: Any, arguments: Mapping[str, Any]) -> Any:
        """Unfold the heads from the batch and turn the keys."""
        batch = arguments["input_ids"].shape[0]
        heads = self.num_attention_heads
        unfolded = [
            (
                key.reshape(batch, heads, key.shape[1], key.shape[2]).transpose(2, 3),
                value.reshape(batch, heads, value.shape[1], value.shape[2]),
            )
            for key, value in past
        ]
        return super().past_to_cache(unfolded, arguments)

    def cache_to_past(self, cache: Any) -> Any:
        """Fold the heads into the batch and turn the keys."""
        return [_fold(layer) for layer in super().cache_to_past(cache)]

    def _fill_inputs(self, inputs: dict[str, Mapping[int, str]]) -> None:
        self.fill_with_past_key_values_(inputs, direction="inputs", inverted_values_shape=True)


def _fold(layer: Any) -> tuple[Any, Any]:
    """Turn key and value of [batch, heads, past, size] into [batch * heads, size, past] and [.., past, size]."""
    key, value = layer
    batch, heads, past, size = key.shape
    return key.transpose(-1, -2).reshape(batch * heads, size, past), value.reshape(batch * heads, past, size)


class VisionEncoderDecoderEncoderOnnxConfig(OnnxConfig):
    """Describe the encoder half of a vision-encoder-decoder."""

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
        """Largest absolute difference between the model and its graph that is still right."""
        return 1e-4


class VisionEncoderDecoderDecoderOnnxConfig(OnnxConfigWithPast):
    """Describe the decoder half of a vision-encoder-decoder."""

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
        tokenizer: Any,
        batch_size: int = -1,
        seq_length: int = -1,
        is_pair: bool = False,
        framework: Any = None,
    ) -> Mapping[str, Any]:
        """Make texts and the encoder's states, zeros of [batch, sequence, encoder hidden size]."""
        import torch

        made = super().generate_dummy_inputs(tokenizer, batch_size, seq_length, is_pair, framework)
        batch, length = made["input_ids"].shape
        states = torch.zeros(batch, length, self._config.encoder_hidden_size)
        return {
            "input_ids": made["input_ids"],
            "attention_mask": made["attention_mask"],
            "encoder_hidden_states": states,
        }


class VisionEncoderDecoderOnnxConfig(OnnxConfig):
    """Describe a vision-encoder-decoder, which becomes two graphs."""

    @property
    def inputs(self) -> Axes:  # type: ignore[override]
        """Nothing: only the two halves have inputs."""
        return None  # type: ignore[return-value]

    def get_encoder_config(self, encoder_config: Any) -> OnnxConfig:
        """Return the description of the encoder."""
        return VisionEncoderDecoderEncoderOnnxConfig(encoder_config)

    def get_decoder_config(self, encoder_config: Any, decoder_config: Any, feature: str = "default") -> OnnxConfig:
        """Return the description of the decoder; a copy of its configuration has the encoder's hidden size."""
        described = copy.copy(decoder_config)  # the caller's stays as it is
        described.encoder_hidden_size = encoder_config.hidden_size
        return VisionEncoderDecoderDecoderOnnxConfig(described, feature)
