"""Passes that fuse the operators of a stamped graph for an execution provider of ONNX Runtime."""
