"""Export every (model type, feature) pair of `transformers.onnx` 4.37.2 from a tiny seeded checkpoint."""
