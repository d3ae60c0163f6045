"""Capture a model as an ONNX graph with the names and dynamic axes of its description."""

from onnxport.tracing.trace import Traced, trace

__all__ = ["Traced", "trace"]
