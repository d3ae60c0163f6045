"""The base class for models with a KV cache: its inputs, outputs and dummy inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

from onnxport.configs import _dummies
from onnxport.configs._base import Axes, OnnxConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from onnxport.configs._dummies import Framework, Preprocessor
    from onnxport.configs._patching import PatchingSpec

_CACHE_NAMES = {"inputs": "past_key_values", "outputs": "present"}


class OnnxConfigWithPast(OnnxConfig):
    """Describe a model with a KV cache.

    Args:
        config: the model's configuration.
        task: task of the model.
        patching_specs: attributes that are replaced while the model is traced.
        use_past: whether the graph has the cache as inputs and outputs.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        task: str = "default",
        patching_specs: list[PatchingSpec] | None = None,
        use_past: bool = False,
    ) -> None:
        super().__init__(config, task=task, patching_specs=patching_specs)
        self.use_past = use_past

    @classmethod
    def with_past(cls, config: PreTrainedConfig, task: str = "default") -> Self:
        """Build the description of a graph with the cache as inputs and outputs."""
        return cls(config, task=task, use_past=True)

    @property
    def outputs(self) -> Axes:
        """Outputs of the task, followed by the cache as `present.*`."""
        outputs = dict(super().outputs)
        if self.use_past:
            self.fill_with_past_key_values_(outputs, direction="outputs")
        return outputs

    @property
    def values_override(self) -> Mapping[str, Any] | None:
        """Configuration attributes to set during the export."""
        return {"use_cache": self.use_past} if hasattr(self._config, "use_cache") else None

    @property
    def num_layers(self) -> int:
        """Number of layers with a cache.

        Raises:
            AttributeError: the model's configuration has no `num_layers`.
        """
        if not hasattr(self._config, "num_layers"):
            raise AttributeError(
                "could not find the number of layers attribute in the model configuration, override the num_layers"
                " property of the model OnnxConfig to solve this"
            )
        return int(self._config.num_layers)

    @property
    def num_attention_heads(self) -> int:
        """Number of attention heads per layer.

        Raises:
            AttributeError: the model's configuration has no `num_attention_heads`.
        """
        if not hasattr(self._config, "num_attention_heads"):
            raise AttributeError(
                "could not find the number of attention heads attribute in the model configuration, override the"
                " num_attention_heads property of the model OnnxConfig to solve this"
            )
        return int(self._config.num_attention_heads)

    def generate_dummy_inputs(  # type: ignore[override]  # narrower by contract: the original's is, too
        self,
        tokenizer: Preprocessor,
        batch_size: int = -1,
        seq_length: int = -1,
        is_pair: bool = False,
        framework: Framework = None,
    ) -> Mapping[str, Any]:
        """Create dummy token inputs and, with past, a cache that is two tokens longer.

        Args:
            tokenizer: the model's tokenizer (or any preprocessor that the base class accepts).
            batch_size: batch size; -1 for the default.
            seq_length: sequence length; -1 for the default.
            is_pair: whether to create pairs of sequences.
            framework: `pt`, `np`, a `TensorType`, or None for lists (with past: for PyTorch tensors).

        Returns:
            The inputs by name; `past_key_values` is a list of (key, value), float32 zeros of shape
            [batch, heads, past, head_dim].

        Raises:
            ValueError: `use_past` is set and PyTorch isn't installed.
        """
        framework = self._cache_framework(framework)
        inputs = dict(
            OnnxConfig.generate_dummy_inputs(
                self, tokenizer, batch_size=batch_size, seq_length=seq_length, is_pair=is_pair, framework=framework
            )
        )
        if not self.use_past:
            return inputs
        batch, length = inputs["input_ids"].shape
        past = length + 2
        shape = (batch, cache_heads(self._config, self.num_attention_heads), past, self._head_size)
        if "attention_mask" in inputs:
            inputs["attention_mask"] = _dummies.extend_mask(inputs["attention_mask"], past)
        inputs["past_key_values"] = [
            (_dummies.zeros(shape, framework), _dummies.zeros(shape, framework)) for _ in range(self.num_layers)
        ]
        return inputs

    def fill_with_past_key_values_(
        self,
        inputs_or_outputs: MutableMapping[str, Mapping[int, str]],
        direction: str,
        inverted_values_shape: bool = False,
    ) -> None:
        """Add the cache's tensors, with their axes, to the inputs or outputs.

        Args:
            inputs_or_outputs: the inputs or outputs; modified in place.
            direction: `inputs` (`past_key_values.*`) or `outputs` (`present.*`).
            inverted_values_shape: whether the sequence axis of values is 1 instead of 2.

        Raises:
            ValueError: `direction` is neither.
        """
        name = cache_name(direction)
        value_axis = 1 if inverted_values_shape else 2
        for layer in range(self.num_layers):
            inputs_or_outputs[f"{name}.{layer}.key"] = {0: "batch", 2: "past_sequence + sequence"}
            inputs_or_outputs[f"{name}.{layer}.value"] = {0: "batch", value_axis: "past_sequence + sequence"}

    def flatten_output_collection_property(  # type: ignore[override]  # an instance method in the original, too
        self, name: str, field: Iterable[Any]
    ) -> dict[str, Any]:
        """Flatten a cache by layer, key and value, and other outputs like the base class."""
        if name not in _CACHE_NAMES.values():
            return super().flatten_output_collection_property(name, field)
        flattened: dict[str, Any] = {}
        for layer, tensors in enumerate(field):
            self._flatten_past_key_values_(flattened, name, layer, tensors)
        return flattened

    def _flatten_past_key_values_(self, flattened_output: dict[str, Any], name: str, idx: int, t: Any) -> None:
        flattened_output[f"{name}.{idx}.key"] = t[0]
        flattened_output[f"{name}.{idx}.value"] = t[1]

    @property
    def _head_size(self) -> int:
        return head_size(self._config, self.num_attention_heads)

    def _cache_framework(self, framework: Framework) -> str | None:
        """Return the framework of the tensors; with past, PyTorch is the default."""
        name = _dummies.framework_name(framework)
        if not self.use_past:
            return name
        if find_spec("torch") is None:
            raise ValueError("Cannot generate dummy past_keys inputs without PyTorch installed.")
        return name or "pt"


def cache_name(direction: str) -> str:
    """Return the prefix of the cache's input or output names.

    Raises:
        ValueError: `direction` is neither.
    """
    if direction not in _CACHE_NAMES:
        raise ValueError(f'direction must either be "inputs" or "outputs", but {direction} was given')
    return _CACHE_NAMES[direction]


def head_size(config: PreTrainedConfig, heads: int) -> int:
    """Return the size of an attention head: from the configuration, or the hidden size divided by `heads`."""
    head_dim = getattr(config, "head_dim", None) or getattr(config, "d_kv", None)
    return int(head_dim or config.hidden_size // heads)


def cache_heads(config: PreTrainedConfig, heads: int) -> int:
    """Return the number of key/value heads, which is less than `heads` with grouped-query attention."""
    return int(getattr(config, "num_key_value_heads", None) or heads)
