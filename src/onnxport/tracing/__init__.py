"""Capture a model as an ONNX graph with the names and the dynamic axes that its description gives."""

from onnxport.tracing.trace import trace

__all__ = ["trace"]
