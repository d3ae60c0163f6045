"""The expression language: how parameters are computed from the tensors of a checkpoint."""
