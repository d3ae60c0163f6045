"""The base class for encoder-decoders as a single graph, with a self-attention and cross-attention cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport.configs import _dummies
from onnxport.configs._base import Axes, OnnxConfig
from onnxport.configs._past import OnnxConfigWithPast, cache_name, head_size

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from onnxport.configs._dummies import Framework, Preprocessor


class OnnxSeq2SeqConfigWithPast(OnnxConfigWithPast):
    """Describe an encoder-decoder with a KV cache.

    Attributes:
        past_beyond_decoder: number of tokens by which the decoder's cache is longer than its input, in dummy inputs.
    """

    past_beyond_decoder: ClassVar[int] = 3

    @property
    def outputs(self) -> Axes:
        """Outputs of the task, with `encoder_sequence` or `decoder_sequence` axes, followed by `present.*`."""
        outputs: OrderedDict[str, Mapping[int, str]] = OrderedDict()
        for name, axes in super(OnnxConfigWithPast, self).outputs.items():
            sequence = "encoder_sequence" if "encoder" in name else "decoder_sequence"
            outputs[name] = {axis: sequence if "sequence" in symbol else symbol for axis, symbol in axes.items()}
        if self.use_past:
            self.fill_with_past_key_values_(outputs, direction="outputs")
        return outputs

    @property
    def num_layers(self) -> tuple[int, int]:  # type: ignore[override]  # a pair in the original, too
        """Number of layers of the encoder and of the decoder.

        Raises:
            AttributeError: the model's configuration has none of the known attributes.
        """
        encoder = _first(self._config, "encoder_layers", "num_layers")
        decoder = _first(self._config, "decoder_layers", "num_decoder_layers", "num_layers")
        if encoder is None or decoder is None:
            raise AttributeError(
                "could not find the number of encoder and decoder layers attributes in the model configuration,"
                " override the num_layers property of the model OnnxConfig to solve this"
            )
        return encoder, decoder

    @property
    def num_attention_heads(self) -> tuple[int, int]:  # type: ignore[override]  # a pair in the original, too
        """Number of attention heads of the encoder and of the decoder.

        Raises:
            AttributeError: the model's configuration has none of the known attributes.
        """
        encoder = _first(self._config, "encoder_attention_heads", "num_attention_heads")
        decoder = _first(self._config, "decoder_attention_heads", "num_attention_heads")
        if encoder is None or decoder is None:
            raise AttributeError(
                "could not find the number of attention heads for the encoder and the decoder attributes in the"
                " model configuration, override the num_attention_heads property of the model OnnxConfig to solve"
                " this"
            )
        return encoder, decoder

    def generate_dummy_inputs(  # type: ignore[override]  # narrower by contract, as in the parent
        self,
        tokenizer: Preprocessor,
        batch_size: int = -1,
        seq_length: int = -1,
        is_pair: bool = False,
        framework: Framework = None,
    ) -> Mapping[str, Any]:
        """Create dummy token inputs of the encoder and of the decoder (`decoder_*`) and, with past, the cache.

        With past, the decoder's sequence length is 1, or more if the tokenizer adds special tokens.

        Args:
            tokenizer: the model's tokenizer.
            batch_size: batch size; -1 for the default.
            seq_length: sequence length; -1 for the default.
            is_pair: whether to create pairs of sequences.
            framework: `pt`, `np`, a `TensorType`, or None for lists (with past: for PyTorch tensors).

        Returns:
            The inputs by name; `past_key_values` is a list of (decoder key, decoder value, encoder key,
            encoder value), with one entry per decoder layer.

        Raises:
            ValueError: `use_past` is set and PyTorch isn't installed.
        """
        framework = self._cache_framework(framework)
        sizes: dict[str, Any] = {"batch_size": batch_size, "is_pair": is_pair, "framework": framework}
        inputs = dict(OnnxConfig.generate_dummy_inputs(self, tokenizer, seq_length=seq_length, **sizes))
        decoder_length = 1 if self.use_past else seq_length
        decoder = OnnxConfig.generate_dummy_inputs(self, tokenizer, seq_length=decoder_length, **sizes)
        inputs |= {f"decoder_{name}": tensor for name, tensor in decoder.items()}
        if self.use_past:
            inputs["past_key_values"] = self._dummy_cache(inputs, framework)
        return inputs

    def fill_with_past_key_values_(  # type: ignore[override]  # no inverted values in the original, either
        self, inputs_or_outputs: MutableMapping[str, Mapping[int, str]], direction: str
    ) -> None:
        """Add the cache's tensors, four per decoder layer, to the inputs or outputs.

        Args:
            inputs_or_outputs: the inputs or outputs; modified in place.
            direction: `inputs` (`past_key_values.*`) or `outputs` (`present.*`).

        Raises:
            ValueError: `direction` is neither.
        """
        name = cache_name(direction)
        past = "past_decoder_sequence" if direction == "inputs" else "past_decoder_sequence + sequence"
        for layer in range(self.num_layers[1]):
            for part, symbol in (("decoder", past), ("encoder", "past_encoder_sequence")):
                for tensor in ("key", "value"):
                    inputs_or_outputs[f"{name}.{layer}.{part}.{tensor}"] = {0: "batch", 2: symbol}

    def _flatten_past_key_values_(self, flattened_output: dict[str, Any], name: str, idx: int, t: Any) -> None:
        flattened_output[f"{name}.{idx}.decoder.key"] = t[0]
        flattened_output[f"{name}.{idx}.decoder.value"] = t[1]
        flattened_output[f"{name}.{idx}.encoder.key"] = t[2]
        flattened_output[f"{name}.{idx}.encoder.value"] = t[3]

    def _dummy_cache(self, inputs: Mapping[str, Any], framework: str | None) -> list[tuple[Any, ...]]:
        """Return zeros for every decoder layer; cross-attention has the decoder's number of heads, too."""
        batch, encoder_length = inputs["input_ids"].shape
        past = inputs["decoder_input_ids"].shape[1] + self.past_beyond_decoder
        heads = self.num_attention_heads[1]
        size = head_size(self._config, heads)
        lengths = (past, past, encoder_length, encoder_length)
        return [
            tuple(_dummies.zeros((batch, heads, length, size), framework) for length in lengths)
            for _ in range(self.num_layers[1])
        ]


def _first(config: PreTrainedConfig, *names: str) -> int | None:
    """Return the first of the attributes that is neither missing nor None."""
    values = (getattr(config, name, None) for name in names)
    return next((int(value) for value in values if value is not None), None)
