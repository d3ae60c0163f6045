"""A description that changes some members of another description, and has all others of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxport.configs._base import Axes, OnnxConfig


class DelegatingOnnxConfig(OnnxConfig):
    """Describe a graph like another description; a subclass overrides what differs.

    Args:
        trunk: the other description.
        task: task of the graph, as in `OnnxConfig`; None for the other description's.
    """

    def __init__(self, trunk: OnnxConfig, task: str | None = None) -> None:
        super().__init__(trunk._config, task or trunk.task)
        self._trunk = trunk

    @property
    def trunk(self) -> OnnxConfig:
        """The other description."""
        return self._trunk

    @property
    def inputs(self) -> Axes:
        """Its inputs."""
        return self._trunk.inputs

    @property
    def outputs(self) -> Axes:
        """Its outputs."""
        return self._trunk.outputs

    @property
    def values_override(self) -> Mapping[str, Any] | None:
        """Its configuration values."""
        return self._trunk.values_override

    @property
    def model_values(self) -> Mapping[str, Any]:
        """Its configuration fields to set during the export."""
        return self._trunk.model_values

    @property
    def static_symbols(self) -> frozenset[str]:
        """Its static symbols."""
        return self._trunk.static_symbols

    @property
    def multiples(self) -> frozenset[str]:
        """Its inputs whose axes are a fixed multiple of their symbol."""
        return self._trunk.multiples

    @property
    def default_onnx_opset(self) -> int:
        """Its opset."""
        return self._trunk.default_onnx_opset

    @property
    def atol_for_validation(self) -> float:
        """Its absolute tolerance."""
        return self._trunk.atol_for_validation

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Any, *sizes: Any, **named: Any
    ) -> Mapping[str, Any]:
        """Make its inputs; see `OnnxConfig`."""
        return self._trunk.generate_dummy_inputs(preprocessor, *sizes, **named)

    def generate_dummy_inputs_onnxruntime(self, reference_model_inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return its inputs for ONNX Runtime; see `OnnxConfig`."""
        return self._trunk.generate_dummy_inputs_onnxruntime(reference_model_inputs)

    def flatten_output_collection_property(  # type: ignore[override]  # an instance method in derived descriptions
        self, name: str, field: Any
    ) -> dict[str, Any]:
        """Flatten a collection as it does; see `OnnxConfig`."""
        return self._trunk.flatten_output_collection_property(name, field)

    def past_to_cache(self, past: Any, arguments: Mapping[str, Any]) -> Any:
        """Build the cache as it does; see `OnnxConfig`."""
        return self._trunk.past_to_cache(past, arguments)

    def cache_to_past(self, cache: Any) -> Any:
        """Return the cache's tensors by layer as it does; see `OnnxConfig`."""
        return self._trunk.cache_to_past(cache)

    def patch_ops(self) -> None:
        """Apply its patches."""
        self._trunk.patch_ops()

    def restore_ops(self) -> None:
        """Undo its patches."""
        self._trunk.restore_ops()

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model as it does; see `OnnxConfig`."""
        return self._trunk.run(forward, arguments)
